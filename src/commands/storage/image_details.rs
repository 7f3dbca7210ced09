//! What answers tell of an image that may become a volume: the keys of `VolumeOnStorageTO.Detail`.

use crate::commands::{Ctx, Fault};
use crate::storage::qemu_img::{Access, ImageInfo, QemuImgError};
use std::collections::BTreeMap;
use std::path::Path;

pub(super) type Details = BTreeMap<&'static str, String>;

/// An image whose header was read.
pub(super) struct Image {
    pub info: ImageInfo,
    /// Whether a guest, or some program, writes to it.
    pub locked: bool,
}

pub(super) async fn look(ctx: &Ctx, path: &Path) -> Result<Image, Fault> {
    let images = &ctx.services.storage.images;
    match images.info(path, None, Access::Exclusive).await {
        Ok(info) => Ok(Image { info, locked: false }),
        Err(QemuImgError::Locked { .. }) => {
            Ok(Image { info: images.info(path, None, Access::Shared).await?, locked: true })
        }
        Err(error) => Err(error.into()),
    }
}

impl Image {
    pub fn details(&self) -> Details {
        let mut details = Details::new();
        if let Some(backing) = &self.info.backing {
            details.insert("BACKING_FILE", backing.to_string_lossy().into_owned());
        }
        if let Some(format) = &self.info.backing_format {
            details.insert("BACKING_FILE_FORMAT", format.clone());
        }
        if let Some(size) = self.info.cluster_size {
            details.insert("CLUSTER_SIZE", size.to_string());
        }
        details.insert("FILE_FORMAT", self.info.format.clone());
        if self.info.encrypted {
            details.insert("IS_ENCRYPTED", true.to_string());
        }
        details.insert("IS_LOCKED", self.locked.to_string());
        details
    }
}
