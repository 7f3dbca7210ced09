//! What the commands about snapshots of whole guests have in common. Such a snapshot has the memory of
//! the guest, and is inside its disk images.

use crate::commands::to::{Data, Echo, VmSnapshotTo, VolumeObject};
use crate::commands::{Claims, Ctx, Fault, Key, place};
use crate::storage::names::VolumeName;

/// The guest and all of its volumes.
pub(super) fn claims(guest: &str, volumes: &[Echo<VolumeObject>]) -> Claims {
    let volume =
        |volume: &Echo<VolumeObject>| place::exclusive(&Data::Volume(Box::new(volume.value.clone())));
    volumes.iter().map(volume).fold(Claims::from(Key::Guest(guest.to_owned())), Claims::and)
}

/// The name of the snapshot, which goes into libvirt's files.
pub(super) fn name(target: Option<&VmSnapshotTo>) -> Result<&str, Fault> {
    let target = target.ok_or_else(|| Fault::new("The command does not say which snapshot"))?;
    checked(&target.snapshot_name)
}

pub(super) fn checked(name: &str) -> Result<&str, Fault> {
    let checked = VolumeName::new(name);
    checked.map_err(|_| {
        Fault::new(format!(
            "{name:?} cannot name a snapshot: letters, digits, dots, dashes and underscores only"
        ))
    })?;
    Ok(name)
}

/// Whether libvirt knows the snapshot.
pub(super) async fn is_known(ctx: &Ctx, guest: &str, snapshot: &str) -> Result<bool, Fault> {
    let known = ctx.services.hypervisor.snapshots(guest).await?;
    Ok(known.iter().any(|known| known.name == snapshot))
}

#[cfg(test)]
pub(super) mod testing {
    //! A guest with one volume, and a snapshot of it on the wire.

    use crate::commands::testing::Bench;
    use crate::hypervisor::SnapshotOptions;
    use serde_json::{Value, json};

    pub const GUEST: &str = "i-2-3-VM";
    pub const SNAPSHOT: &str = "i-2-3-VM_VS_20261128100000";

    pub fn target(name: &str, kind: &str) -> Value {
        json!({"id": 1, "snapshotName": name, "type": kind, "createTime": 1_795_370_733_000_i64, "current": true,
            "quiescevm": false, "x": 7})
    }

    pub fn command(bench: &Bench, kind: &str) -> Value {
        let volume = bench.volume("v")["org.apache.cloudstack.storage.to.VolumeObjectTO"].clone();
        json!({"vmUuid": "2af90b76-b28d-418f-a6f6-c8696971a2f4", "volumeTOs": [volume], "vmName": GUEST,
            "target": target(SNAPSHOT, kind), "guestOSType": "Other Linux (64-bit)", "platformEmulator": "Other Linux"})
    }

    /// Starts the guest.
    pub async fn start(bench: &Bench) {
        bench.guest(GUEST, &bench.pool_dir().join("v")).await;
    }

    /// Takes the snapshot, past the command for it.
    pub async fn take(bench: &Bench) {
        let (hypervisor, options) = (&bench.ctx.services.hypervisor, SnapshotOptions::default());
        let document = format!("<domainsnapshot><name>{SNAPSHOT}</name></domainsnapshot>");
        hypervisor.create_snapshot(GUEST, &document, options, bench.ctx.deadline).await.unwrap();
    }

    /// Names of the snapshots that libvirt knows.
    pub async fn known(bench: &Bench) -> Vec<String> {
        let known = bench.ctx.services.hypervisor.snapshots(GUEST).await.unwrap();
        known.into_iter().map(|known| known.name).collect()
    }
}
