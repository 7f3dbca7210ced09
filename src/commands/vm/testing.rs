//! What tests of starts and stops have in common: a guest as servers describe it, with its volume and
//! its bridge on the host of the test.

use crate::commands::testing::Bench;
use crate::hypervisor::{Flavour, Passwords};
use crate::storage::testing::run;
use crate::xml::{self, Element};
use serde_json::{Value, json};

pub const NAME: &str = "i-2-3-VM";
pub const UUID: &str = "6a1b1f0e-0d53-4b5c-9f3c-3a2f8b1c7d10";
const VOLUME: &str = "org.apache.cloudstack.storage.to.VolumeObjectTO";
const TEMPLATE: &str = "org.apache.cloudstack.storage.to.TemplateObjectTO";
const START: &str = "com.cloud.agent.api.StartCommand";
const STOP: &str = "com.cloud.agent.api.StopCommand";

/// Puts the bridge on the host, and the volume "root" into the pool if qemu-img is there.
pub async fn prepare(bench: &Bench) {
    std::fs::create_dir_all(bench.dir().join("sys/class/net/cloudbr0/bridge")).unwrap();
    let path = bench.pool_dir().join("root");
    // The test driver does not look into it.
    if run(&["qemu-img", "create", "-q", "-f", "qcow2", path.to_str().unwrap(), "8M"]).await.is_err() {
        std::fs::write(path, "no image").unwrap();
    }
}

/// One volume, an empty CD-ROM and one card.
pub fn vm(bench: &Bench) -> Value {
    let mut root = bench.volume("root");
    root[VOLUME]["volumeType"] = json!("ROOT");
    json!({"id": 3, "name": NAME, "type": "User", "uuid": UUID, "cpus": 1, "minSpeed": 500, "minRam": 134_217_728,
        "maxRam": 134_217_728, "arch": "x86_64", "os": "Other Linux (64-bit)", "platformEmulator": "Other Linux",
        "vncPassword": "canarysecret", "params": {}, "future": {"kept": true},
        "disks": [{"data": root, "diskSeq": 0, "path": "root", "type": "ROOT"}, disc(3, &json!({"format": "ISO"}))],
        "nics": [{"deviceId": 0, "mac": "02:00:4c:5f:00:05", "type": "Guest", "broadcastType": "Native",
            "broadcastUri": "vlan://untagged", "name": "cloudbr0", "networkRateMbps": 200}]})
}

/// An ISO image as a `DiskTO`.
pub fn disc(number: i64, template: &Value) -> Value {
    json!({"data": {TEMPLATE: template}, "diskSeq": number, "type": "ISO"})
}

pub async fn start(bench: &mut Bench, vm: &Value) -> Value {
    let (class, fields) = bench.answer(START, json!({"vm": vm, "hostIp": "10.99.0.2"})).await;
    assert_eq!(class, "com.cloud.agent.api.StartAnswer");
    assert_eq!(fields["vm"]["future"], json!({"kept": true}), "the server reads the guest of every answer");
    fields
}

pub async fn started(bench: &mut Bench, vm: &Value) {
    let answer = start(bench, vm).await;
    assert_eq!(answer["result"], true, "{answer}");
}

/// The line that says why not.
pub async fn not_started(bench: &mut Bench, vm: &Value) -> String {
    let answer = start(bench, vm).await;
    assert_eq!(answer["result"], false, "{answer}");
    let details = answer["details"].as_str().unwrap().to_owned();
    assert!(!details.contains('\n') && !details.contains("canary"), "{details}");
    details
}

pub async fn stop(bench: &mut Bench, members: Value) -> Value {
    let mut fields = json!({"vmName": NAME, "forceStop": true, "checkBeforeCleanup": false,
        "vlanToPersistenceMap": {"untagged": true}, "volumesToDisconnect": []});
    for (member, value) in members.as_object().unwrap() {
        fields[member] = value.clone();
    }
    let (class, fields) = bench.answer(STOP, fields).await;
    assert_eq!(class, "com.cloud.agent.api.StopAnswer");
    fields
}

pub async fn exists(bench: &Bench) -> bool {
    bench.ctx.services.hypervisor.describe(NAME, Passwords::LeftOut).await.unwrap().is_some()
}

/// The guest's document, passwords included.
pub async fn document(bench: &Bench) -> Element {
    let text = bench.ctx.services.hypervisor.domain_xml(NAME, Flavour::Secure).await.unwrap().unwrap();
    xml::parse(&text).unwrap()
}

/// Records of unfinished work.
pub fn records(bench: &Bench) -> usize {
    std::fs::read_dir(bench.dir().join("journal")).unwrap().count()
}
