//! Where the image in a guest's CD-ROM drive is. All hosts with the same settings have it at the same
//! place, so that the source of a migration knows it for the destination.

use crate::commands::to::{Data, DiskTo, Store, VirtualMachineTo};
use crate::commands::{Ctx, Fault, place};
use crate::errors::chain;
use crate::storage::mounts::mounted_at;
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
    let inside = RelativePath::new(path.trim_start_matches('/'))?;
    let on_host = vm.config_drive_location.as_deref().is_some_and(|place| place.eq_ignore_ascii_case("HOST"));
    if on_host && path.starts_with("configdrive") {
        let config = ctx.config()?;
        let cache = PathBuf::from(config.text("host.cache.location").unwrap_or("/var/cache/cloud"));
        return Ok(Some(Disc { path: inside.under(&cache.join("config")), secondary: None }));
    }
    let pools = &ctx.services.storage.pools;
    match &image.image_data_store {
        Some(Store::Nfs(store)) => {
            let url = store.url.trim_end_matches('/');
            let directory =
                inside.directory().map_or_else(|| url.to_owned(), |below| format!("{url}/{below}"));
            let path = pools.secondary_path(&directory)?.join(inside.file_name());
            Ok(Some(Disc { path, secondary: Some(directory) }))
        }
        Some(store @ Store::Primary(_)) => {
            let pool = place::pool(ctx, Some(store), "The image of a CD-ROM drive").await?;
            Ok(Some(Disc { path: inside.under(&pool.local_path), secondary: None }))
        }
        Some(Store::Other { .. }) | None => Err(Fault::new(format!(
            "The image {inside} of a CD-ROM drive is on storage that this agent does not mount"
        ))),
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

    /// Unmounts what it is on, unless another guest reads from there.
    pub async fn give_back(&self, ctx: &Ctx) {
        let Some(directory) = &self.secondary else { return };
        let mounted = self.path.parent().is_some_and(|target| matches!(mounted_at(target), Ok(Some(_))));
        if !mounted {
            return;
        }
        let pools = &ctx.services.storage.pools;
        let given_back = match pools.secondary(directory).await {
            Ok(mount) => mount.release().await,
            Err(error) => Err(error),
        };
        if let Err(error) = given_back {
            tracing::warn!(directory, "Secondary storage stays mounted: {}", chain(&error));
        }
    }
}
