//! `com.cloud.agent.api.storage.RevertDiskOnlyVmSnapshotCommand` (4.21): the disks of a guest that does
//! not run go back to a snapshot of them. Each gets a new file over the snapshot's; the old one goes.

use super::files;
use super::layers::Layer;
use crate::commands::to::{Data, Echo, SnapshotObject, Store, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply, place};
use crate::journal::Action;
use crate::storage::names::VolumeName;
use crate::wire::lenient;
use std::path::PathBuf;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevertDiskOnlyVmSnapshotCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    snapshot_object_tos: Vec<Snapshot>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
}

/// `SnapshotObjectTO`, of which the volume goes into the answer.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    volume: Option<Echo<VolumeObject>>,
    #[serde(default)]
    data_store: Option<Store>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevertDiskOnlyVmSnapshotAnswer {
    volume_object_tos: Vec<Echo<VolumeObject>>,
}

impl Snapshot {
    fn data(&self) -> Data {
        let (path, data_store) = (self.path.clone(), self.data_store.clone());
        Data::Snapshot(Box::new(SnapshotObject { path, data_store, ..SnapshotObject::default() }))
    }

    fn volume(&self) -> Option<Data> {
        self.volume.as_ref().map(|volume| Data::Volume(Box::new(volume.value.clone())))
    }
}

impl Command for RevertDiskOnlyVmSnapshotCommand {
    type Answer = RevertDiskOnlyVmSnapshotAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.storage.RevertDiskOnlyVmSnapshotAnswer";

    fn claims(&self) -> Claims {
        let guest = Claims::from(Key::Guest(self.vm_name.clone()));
        let of = |snapshot: &Snapshot| {
            let volume = snapshot.volume().as_ref().map_or_else(Claims::none, place::exclusive);
            place::shared(&snapshot.data()).and(volume)
        };
        self.snapshot_object_tos.iter().map(of).fold(guest, Claims::and)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<RevertDiskOnlyVmSnapshotAnswer>, Fault> {
        let guest = &self.vm_name;
        let mut disks = Vec::new();
        for snapshot in &self.snapshot_object_tos {
            disks.push(Disk::of(&ctx, snapshot).await?);
        }
        let mut work = ctx.services.journal.begin("revert disks", guest, &ctx.logid).await;
        let result = async {
            for disk in &disks {
                work.before(Action::RemoveFile { path: disk.new.clone() }).await?;
                disk.snapshot.put_over(&ctx, &disk.new).await?;
                if disk.is_old_free(&ctx).await? {
                    work.after_commit(Action::RemoveFile { path: disk.old.path.clone() }).await?;
                }
            }
            Ok::<(), Fault>(())
        };
        let result = result.await;
        work.settle(result).await?;
        tracing::info!(guest, disks = disks.len(), "Disks of the guest are reverted");
        let mut volume_object_tos = Vec::new();
        for (snapshot, disk) in self.snapshot_object_tos.into_iter().zip(disks) {
            if let Some(mut volume) = snapshot.volume {
                volume.set("path", disk.new_name.as_str());
                volume_object_tos.push(volume);
            }
        }
        Ok(Reply::ok(RevertDiskOnlyVmSnapshotAnswer { volume_object_tos }))
    }
}

/// A disk of the guest.
struct Disk {
    snapshot: Layer,
    old: Layer,
    new_name: VolumeName,
    new: PathBuf,
}

impl Disk {
    async fn of(ctx: &Ctx, snapshot: &Snapshot) -> Result<Disk, Fault> {
        let old = Layer::of(ctx, snapshot.volume().as_ref()).await?;
        let snapshot = Layer::of(ctx, Some(&snapshot.data())).await?;
        // Whether it can be read at all, before anything is changed.
        snapshot.backing(ctx).await?;
        if old.exists(ctx).await? {
            old.not_in_use(ctx).await?;
        }
        let new_name = files::random_name(ctx, "")?;
        let new = snapshot.pool.volume(&new_name);
        Ok(Disk { snapshot, old, new_name, new })
    }

    /// Whether nothing is based on the file that the disk was on.
    async fn is_old_free(&self, ctx: &Ctx) -> Result<bool, Fault> {
        if self.old.path == self.snapshot.path {
            return Ok(false);
        }
        let based = ctx.services.storage.volumes.based_on(&self.old.pool.local_path, &self.old.path).await?;
        if let Some(other) = based.first() {
            tracing::warn!(file = %self.old.path.display(), other = %other.display(), "The file stays, since another is based on it");
        }
        Ok(based.is_empty())
    }
}
