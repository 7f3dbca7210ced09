//! Where the image in a guest's CD-ROM drive is. All hosts with the same settings have it at the same
//! place, so that the source of a migration knows it for the destination.

use crate::commands::to::{Data, DiskTo, Store, VirtualMachineTo};
use crate::commands::vm::launch::media;
use crate::commands::{Ctx, Fault, place};
use crate::storage::names::RelativePath;
use crate::storage::pools::Secondary;
use std::path::PathBuf;

/// An image for a CD-ROM drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disc {
    pub path: PathBuf,
    /// URL of its directory on secondary storage; none if it is on this host or in a pool.
    secondary: Option<String>,
}

/// The disc of an ISO disk; `None` for other disks and for an empty drive.
pub(super) async fn find(ctx: &Ctx, vm: &VirtualMachineTo, disk: &DiskTo) -> Result<Option<Disc>, Fault> {
    let Some(Data::Template(image)) = disk.data.as_ref().filter(|_| disk.is_iso()) else { return Ok(None) };
    let Some(path) = image.path.as_deref().filter(|path| !path.is_empty()) else { return Ok(None) };
    if media::is_config_drive_on_host(vm, path) {
        let path = RelativePath::new(path)?.under(&place::config_drives(&*ctx.config()?));
        return Ok(Some(Disc { path, secondary: None }));
    }
    let pools = &ctx.services.storage.pools;
    match &image.image_data_store {
        Some(Store::Nfs(store)) => {
            let (directory, file) = place::split(&store.url, path)?;
            let path = RelativePath::new(&file)?.under(&pools.secondary_path(&directory)?);
            Ok(Some(Disc { path, secondary: Some(directory) }))
        }
        store => {
            let pool = place::pool(ctx, store.as_ref(), &format!("ISO image {path:?}")).await?;
            let path = RelativePath::below(&pool.local_path, path)?.under(&pool.local_path);
            Ok(Some(Disc { path, secondary: None }))
        }
    }
}

impl Disc {
    /// Mounts what it is on; `None` if nothing has to be mounted.
    pub async fn mount(&self, ctx: &Ctx) -> Result<Option<Secondary>, Fault> {
        match &self.secondary {
            Some(directory) => Ok(Some(ctx.services.storage.pools.secondary(directory).await?)),
            None => Ok(None),
        }
    }
}
