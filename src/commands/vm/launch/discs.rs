//! Where the image in a guest's CD-ROM drive is. All hosts with the same settings have it at the same
//! place, so that the source of a migration knows it for the destination.

use crate::commands::to::{Data, DiskTo, Store, TemplateObject, VirtualMachineTo};
use crate::commands::{Ctx, Fault, place};
use crate::storage::names::RelativePath;
use crate::storage::pools::Secondary;
use std::path::{Path, PathBuf};

/// Directory of config drives in whatever they are on.
const CONFIG_DRIVES: &str = "configdrive/";

/// An image for a CD-ROM drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands) struct Disc {
    pub path: PathBuf,
    /// URL of its directory on secondary storage; none if it is on this host or in a pool.
    secondary: Option<String>,
}

/// The disc of an ISO disk; `None` for other disks and for an empty drive.
pub(in crate::commands) async fn find(
    ctx: &Ctx,
    vm: &VirtualMachineTo,
    disk: &DiskTo,
) -> Result<Option<Disc>, Fault> {
    let Some(Data::Template(image)) = disk.data.as_ref().filter(|_| disk.is_iso()) else { return Ok(None) };
    let Some(path) = image.path.as_deref().filter(|path| !path.is_empty()) else { return Ok(None) };
    locate(ctx, vm, image, path).await.map(Some)
}

/// Where the image with that path in its store is. It need not exist.
pub(in crate::commands) async fn locate(
    ctx: &Ctx,
    vm: &VirtualMachineTo,
    image: &TemplateObject,
    path: &str,
) -> Result<Disc, Fault> {
    if is_config_drive_on_host(vm, path) {
        let path = RelativePath::new(path)?.under(&place::config_drives(&*ctx.config()?));
        return Ok(Disc { path, secondary: None });
    }
    match &image.image_data_store {
        Some(Store::Nfs(store)) => {
            let (directory, file) = place::split(&store.url, path)?;
            let mounted = ctx.services.storage.pools.secondary_path(&directory)?;
            Ok(Disc { path: RelativePath::new(&file)?.under(&mounted), secondary: Some(directory) })
        }
        store => {
            let pool = place::pool(ctx, store.as_ref(), &format!("ISO image {path:?}")).await?;
            let path = RelativePath::below(&pool.local_path, path)?.under(&pool.local_path);
            Ok(Disc { path, secondary: None })
        }
    }
}

/// Whether the image is a config drive, and the server says that it is on the host.
fn is_config_drive_on_host(vm: &VirtualMachineTo, path: &str) -> bool {
    let location = vm.config_drive_location.as_deref().or_else(|| vm.detail("configDriveLocation"));
    path.starts_with(CONFIG_DRIVES) && location.is_some_and(|location| location.eq_ignore_ascii_case("HOST"))
}

/// Unmounts what a disc was on, unless others use it.
pub(in crate::commands) async fn give_back(ctx: &Ctx, disc: &Path) {
    if let Err(error) = ctx.services.storage.pools.give_back(disc).await {
        tracing::warn!(disc = %disc.display(), "Secondary storage stays mounted: {}", crate::errors::chain(&error));
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
