//! `com.cloud.agent.api.storage.CreateDiskOnlyVmSnapshotCommand` (4.21): a snapshot of all disks of a
//! guest at one moment, without its memory. The files that the disks are on stay as they are, and the
//! guest goes on in new ones over them.

use super::files;
use super::layers::{self, Layer};
use super::overlays::{self, Frozen, Overlay};
use crate::commands::to::{Data, VmSnapshotTo, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply, place};
use crate::journal::Action;
use crate::storage::names::VolumeName;
use crate::storage::qemu_img::ImageFormat;
use crate::wire::lenient;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateDiskOnlyVmSnapshotCommand {
    #[serde(default, rename = "volumeTOs", deserialize_with = "lenient::or_default")]
    volumes: Vec<VolumeObject>,
    #[serde(default)]
    target: Option<VmSnapshotTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
    /// A `VirtualMachine.State`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_state: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateDiskOnlyVmSnapshotAnswer {
    /// By the id of the volume.
    map_volume_to_snapshot_size_and_new_volume_path: BTreeMap<String, Pair>,
}

/// `com.cloud.utils.Pair`
#[derive(Debug, serde::Serialize)]
struct Pair {
    /// Bytes of the file that stays.
    t: u64,
    /// Name of the file that the volume goes on in.
    u: String,
}

impl Command for CreateDiskOnlyVmSnapshotCommand {
    type Answer = CreateDiskOnlyVmSnapshotAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.storage.CreateDiskOnlyVmSnapshotAnswer";

    fn claims(&self) -> Claims {
        let volume = |volume: &VolumeObject| place::exclusive(&Data::Volume(Box::new(volume.clone())));
        let guest = Claims::from(Key::Guest(self.vm_name.clone()));
        self.volumes.iter().map(volume).fold(guest, Claims::and)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<CreateDiskOnlyVmSnapshotAnswer>, Fault> {
        let guest = &self.vm_name;
        let mut disks = Vec::new();
        for volume in &self.volumes {
            disks.push(Disk::of(&ctx, volume).await?);
        }
        if disks.is_empty() {
            return Err(Fault::new(format!("The command names no volume of {guest}")));
        }
        let map = if layers::runs_here(&ctx, guest, &self.vm_state).await? {
            let quiesce = self.target.as_ref().is_some_and(|target| target.quiescevm);
            freeze_running(&ctx, guest, &disks, quiesce).await?
        } else {
            freeze_stopped(&ctx, guest, &disks).await?
        };
        tracing::info!(guest, disks = disks.len(), "Snapshot of the guest's disks is taken");
        let fields = CreateDiskOnlyVmSnapshotAnswer { map_volume_to_snapshot_size_and_new_volume_path: map };
        Ok(Reply::ok(fields))
    }
}

/// A disk of the guest.
struct Disk {
    /// Id of the volume.
    uuid: String,
    layer: Layer,
    new_name: VolumeName,
    new: PathBuf,
}

impl Disk {
    async fn of(ctx: &Ctx, volume: &VolumeObject) -> Result<Disk, Fault> {
        let layer = Layer::of(ctx, Some(&Data::Volume(Box::new(volume.clone())))).await?;
        let format = volume.format.as_deref().and_then(ImageFormat::named);
        let facts = ctx.services.storage.volumes.inspect(&layer.path, format).await?;
        let shown = layer.path.display();
        if facts.format != ImageFormat::Qcow2 {
            return Err(Fault::new(format!(
                "{shown} is not of the format QCOW2: nothing can be put over it"
            )));
        }
        if facts.encrypted || !volume.passphrase.is_empty() {
            return Err(Fault::new(format!("{shown} is encrypted: such snapshots of it are not supported")));
        }
        let new_name = files::random_name(ctx, "")?;
        let new = layer.pool.volume(&new_name);
        Ok(Disk { uuid: volume.uuid.clone(), layer, new_name, new })
    }
}

async fn sizes(ctx: &Ctx, disks: &[Disk]) -> Result<BTreeMap<String, Pair>, Fault> {
    let mut map = BTreeMap::new();
    for disk in disks {
        let t = layers::length(ctx, &disk.layer.path).await?;
        map.insert(disk.uuid.clone(), Pair { t, u: disk.new_name.to_string() });
    }
    Ok(map)
}

async fn freeze_running(
    ctx: &Ctx,
    guest: &str,
    disks: &[Disk],
    quiesce: bool,
) -> Result<BTreeMap<String, Pair>, Fault> {
    let described = overlays::disks(ctx, guest).await?;
    let mut all = Vec::new();
    for disk in disks {
        let device = overlays::device_of(&described, &disk.layer.path, guest)?.to_owned();
        all.push(Overlay { device, base: disk.layer.path.clone(), path: disk.new.clone() });
    }
    let frozen = Frozen { guest, overlays: &all, quiesce };
    let mut work = ctx.services.journal.begin("take a snapshot of disks", guest, &ctx.logid).await;
    let result = async {
        frozen.begin(ctx, &mut work).await?;
        sizes(ctx, disks).await
    };
    let result = result.await;
    match work.settle(result).await {
        Err(fault) => Err(frozen.explained(ctx, fault).await),
        good => good,
    }
}

async fn freeze_stopped(ctx: &Ctx, guest: &str, disks: &[Disk]) -> Result<BTreeMap<String, Pair>, Fault> {
    for disk in disks {
        disk.layer.not_in_use(ctx).await?;
    }
    let mut work = ctx.services.journal.begin("take a snapshot of disks", guest, &ctx.logid).await;
    let result = async {
        for disk in disks {
            work.before(Action::RemoveFile { path: disk.new.clone() }).await?;
            disk.layer.put_over(ctx, &disk.new).await?;
        }
        sizes(ctx, disks).await
    };
    let result = result.await;
    work.settle(result).await
}

#[cfg(test)]
#[path = "disk_only_tests.rs"]
mod tests;
