//! A guest with everything that is made for one: an encrypted disk with its passphrase, a bridge of its
//! network.

use super::cage::Cage;
use super::edge::{Edge, Volume, id};
use serde_json::{Value, json};

const API: &str = "com.cloud.agent.api";
const MIB: u64 = 1 << 20;

/// The guest's only card on a network with an id.
pub fn on_vxlan(mut vm: Value, number: u32) -> Value {
    let nic = &mut vm["nics"][0];
    nic["broadcastType"] = json!("Vxlan");
    nic["broadcastUri"] = json!(format!("vxlan://{number}"));
    vm
}

pub async fn has_device(cage: &Cage, name: &str) -> bool {
    cage.run(&["ip", "link", "show", name]).await.is_ok()
}

/// Whether libvirt has a secret for a volume.
pub async fn secret_of(cage: &Cage, volume: &Volume) -> bool {
    cage.virsh(&["secret-list"]).await.contains(&volume.uuid)
}

/// An encrypted volume and the guest that has it as its root disk.
pub async fn encrypted(edge: &Edge<'_>, name: &str) -> (Volume, Value) {
    let volume = Volume { uuid: id(), kind: "ROOT", device: 0, size: 8 * MIB };
    let passphrase = json!(b"secret of the volume");
    let mut data = edge.wrapped_volume(&volume, name);
    let wrapped = "org.apache.cloudstack.storage.to.VolumeObjectTO";
    data[wrapped]["passphrase"] = passphrase.clone();
    edge.good("org.apache.cloudstack.storage.command.CreateObjectCommand", json!({"data": data})).await;
    let mut vm = edge.guest(name, &id(), std::slice::from_ref(&volume));
    vm["disks"][0]["data"][wrapped]["passphrase"] = passphrase;
    (volume, vm)
}

/// No guest of that name, not even defined, and no record of work on it.
pub async fn nothing_is_left(edge: &Edge<'_>, name: &str) {
    assert!(edge.xml(name).await.is_err(), "{name} is still there");
    let records = std::fs::read_dir(edge.host.node.path("state/journal")).unwrap().count();
    assert_eq!(records, 0, "unfinished work is on record");
}

/// Starts the agent anew; `fault` is to happen at a step of the journal, as `kill:2` or `error:2`.
pub async fn doomed(edge: &mut Edge<'_>, fault: &str) {
    edge.host.node.stop().await;
    let wish = ["env".to_owned(), format!("AGENT_FAULT={fault}")];
    edge.host.node.launched_by([edge.cage.launcher(), wish.to_vec()].concat());
    edge.host.node.start();
    edge.host.node.is_registered().await;
}

/// Stops a guest by force; its bridge goes.
pub async fn stop(edge: &Edge<'_>, name: &str) -> Value {
    edge.good(&format!("{API}.StopCommand"), json!({"vmName": name, "forceStop": true})).await
}
