//! Steps of `DeleteCommand` for snapshots on primary storage: the file, and that of its checkpoint if
//! there is one. Snapshots inside the images of a guest are deleted with the guest's own snapshot.

use crate::commands::to::SnapshotObject;
use crate::commands::{Ctx, Fault, NoFields, Reply, place};
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::pools::Pool;
use std::path::PathBuf;

pub(super) async fn delete(ctx: &Ctx, snapshot: &SnapshotObject) -> Result<Reply<NoFields>, Fault> {
    let path = snapshot.path.as_deref().unwrap_or_default();
    let name = VolumeName::last_of(path)?;
    delete_files(ctx, snapshot, path)
        .await
        .map_err(|fault| Fault::new(format!("Failed to remove snapshot {name}: {}", fault.text())))?;
    Ok(Reply::done().details(format!("Snapshot {name} removed successfully.")))
}

async fn delete_files(ctx: &Ctx, snapshot: &SnapshotObject, path: &str) -> Result<(), Fault> {
    let pool = place::pool(ctx, snapshot.data_store.as_ref(), "It").await?;
    // A name alone is one inside the image of a volume; the pool may have a file of that name.
    if !path.contains('/') {
        return Ok(());
    }
    let storage = &ctx.services.storage;
    let file = below(&pool, path, "snapshots")?;
    if storage.disks.exists(&file).await? {
        storage.volumes.delete(&pool.local_path, &file).await?;
        tracing::info!(snapshot = %file.display(), "Snapshot is deleted");
    }
    if let Some(path) = snapshot.checkpoint_path.as_deref().filter(|path| !path.is_empty()) {
        storage.disks.delete(&below(&pool, path, "checkpoints")?).await?;
    }
    Ok(())
}

/// The file of a path that leads into one of the pool's own directories.
fn below(pool: &Pool, path: &str, directory: &str) -> Result<PathBuf, Fault> {
    let inside = RelativePath::below(&pool.local_path, path)?;
    match inside.as_str().split_once('/') {
        Some((first, _)) if first == directory => Ok(inside.under(&pool.local_path)),
        _ => Err(Fault::new(format!("{inside} is not below {directory} in storage pool {}", pool.uuid))),
    }
}
