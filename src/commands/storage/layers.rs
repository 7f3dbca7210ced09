//! Layers of disks: images over one another that snapshots without memory leave behind, as the commands
//! about such snapshots have them in common.

use super::files;
use crate::commands::to::Data;
use crate::commands::{Ctx, Fault, place};
use crate::hypervisor::PowerState;
use crate::storage::disk::DEADLINE;
use crate::storage::names::RelativePath;
use crate::storage::pools::Pool;
use crate::storage::qemu_img::{ImageFormat, Source, Target};
use std::path::{Path, PathBuf};

/// A file among the layers of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub pool: Pool,
    pub path: PathBuf,
}

impl Layer {
    /// The file need not exist.
    pub async fn of(ctx: &Ctx, data: Option<&Data>) -> Result<Layer, Fault> {
        let data = data.ok_or_else(|| Fault::new("The command does not name all layers"))?;
        let named = match data {
            Data::Volume(volume) => volume.path.as_deref().or(Some(&volume.uuid)),
            other => other.path(),
        };
        let named = named.unwrap_or_default();
        let pool = place::pool(ctx, data.store(), &format!("Layer {named:?}")).await?;
        let path = RelativePath::below(&pool.local_path, named)?.under(&pool.local_path);
        Ok(Layer { pool, path })
    }

    pub async fn exists(&self, ctx: &Ctx) -> Result<bool, Fault> {
        Ok(ctx.services.storage.disks.exists(&self.path).await?)
    }

    /// The file below it.
    pub async fn backing(&self, ctx: &Ctx) -> Result<Option<PathBuf>, Fault> {
        let facts = ctx.services.storage.volumes.inspect(&self.path, Some(ImageFormat::Qcow2)).await?;
        Ok(facts.backing)
    }

    /// Fails if a guest has it open, here or on another host.
    pub async fn not_in_use(&self, ctx: &Ctx) -> Result<(), Fault> {
        files::not_in_use(ctx, &self.path).await?;
        if ctx.services.storage.images.is_locked(&self.path).await? {
            let shown = self.path.display();
            return Err(Fault::new(format!("{shown} is in use by another process, on another host perhaps")));
        }
        Ok(())
    }

    /// Makes an empty image over it, as a guest that does not run goes on with.
    pub async fn put_over(&self, ctx: &Ctx, new: &Path) -> Result<(), Fault> {
        let (target, below) =
            (Target::new(new, ImageFormat::Qcow2), Source::new(&self.path, ImageFormat::Qcow2));
        Ok(ctx.services.storage.images.create_over(target, below, None).await?)
    }
}

/// Bytes of a file.
pub(super) async fn length(ctx: &Ctx, path: &Path) -> Result<u64, Fault> {
    let read = |path: &Path| Ok(path.metadata()?.len());
    Ok(ctx.services.storage.disks.run("looking at", path, DEADLINE, read).await?)
}

/// Whether the guest runs on this host. `told` is the state that the server has of it: if it is wrong
/// about a guest that runs, that may run elsewhere with the same files.
pub(super) async fn runs_here(ctx: &Ctx, guest: &str, told: &str) -> Result<bool, Fault> {
    let state = ctx.services.hypervisor.state(guest).await?;
    let runs = state.is_some_and(|(state, _)| state.power() != PowerState::Off);
    if !runs && told == "Running" {
        return Err(Fault::new(format!("Guest {guest} does not run on this host: see where it runs")));
    }
    Ok(runs)
}
