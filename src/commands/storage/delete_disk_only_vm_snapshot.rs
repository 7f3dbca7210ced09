//! `com.cloud.agent.api.storage.DeleteDiskOnlyVmSnapshotCommand` (4.21): deletes files of snapshots of
//! disks that nothing is based on. Those that are gone already are a success.

use super::files;
use super::layers::Layer;
use crate::commands::to::Data;
use crate::commands::{Claims, Command, Ctx, Fault, NoFields, Reply, place};
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
pub struct DeleteDiskOnlyVmSnapshotCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    snapshots: Vec<Data>,
}

impl Command for DeleteDiskOnlyVmSnapshotCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        self.snapshots.iter().map(place::exclusive).fold(Claims::none(), Claims::and)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        for snapshot in &self.snapshots {
            let layer = Layer::of(&ctx, Some(snapshot)).await?;
            if layer.exists(&ctx).await? {
                files::not_in_use(&ctx, &layer.path).await?;
                ctx.services.storage.volumes.delete(&layer.pool.local_path, &layer.path).await?;
                tracing::info!(snapshot = %layer.path.display(), "Snapshot of a disk is deleted");
            }
        }
        Ok(Reply::done())
    }
}
