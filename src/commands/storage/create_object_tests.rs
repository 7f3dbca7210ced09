//! On real images.

use crate::commands::testing::Bench;
use crate::journal::faults::{Fault, Faults};
use crate::storage::testing::{Small, qemu_img, run};
use serde_json::{Value, json};

const CLASS: &str = "org.apache.cloudstack.storage.command.CreateObjectCommand";
const VOLUME: &str = "org.apache.cloudstack.storage.to.VolumeObjectTO";
const STORE: &str = "org.apache.cloudstack.storage.to.PrimaryDataStoreTO";
const MIB: u64 = 1 << 20;
const OTHER: &str = "9572a059-c161-4d90-8fb4-2cc51dcc2325";

async fn create(bench: &mut Bench, data: &Value) -> Value {
    let (class, fields) = bench.answer(CLASS, json!({"data": data})).await;
    assert_eq!(class, "org.apache.cloudstack.storage.command.CreateObjectAnswer");
    fields
}

async fn refused(bench: &mut Bench, data: &Value) -> String {
    let answer = create(bench, data).await;
    assert_eq!(answer["result"], false, "{answer}");
    answer["details"].as_str().unwrap().to_owned()
}

fn with(bench: &Bench, members: &[(&str, Value)]) -> Value {
    let mut data = bench.volume("v");
    data[VOLUME]["path"] = Value::Null;
    for (member, value) in members {
        data[VOLUME][*member] = value.clone();
    }
    data
}

#[tokio::test]
async fn a_volume_is_created_once() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    let expected = json!({"data": {VOLUME: {"size": 64 * MIB, "path": "v", "accountId": 0, "format": "QCOW2", "id": 0,
        "directDownload": false, "deployAsIs": false, "followRedirects": false}},
        "result": true, "contextMap": {}, "wait": 0, "bypassHostMaintenance": false});
    for _ in 0..2 {
        let data = with(&bench, &[("format", Value::Null)]);
        assert_eq!(create(&mut bench, &data).await, expected);
        assert_eq!(bench.pool_files(), ["v"]);
    }
    let info = images.backing_chain(&bench.pool_dir().join("v")).await.unwrap();
    assert_eq!((info[0].format.as_str(), info[0].virtual_size), ("qcow2", 64 * MIB));
    let larger = with(&bench, &[("size", json!(65 * MIB))]);
    assert!(refused(&mut bench, &larger).await.contains("exists already and is another volume"));
    let raw = with(&bench, &[("format", json!("RAW")), ("uuid", json!("r"))]);
    assert_eq!(create(&mut bench, &raw).await["data"][VOLUME]["format"], "RAW");
}

#[tokio::test]
async fn an_encrypted_volume_says_so() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    let data = with(&bench, &[("passphrase", json!([99, 97, 110, 97, 114, 121]))]);
    assert_eq!(create(&mut bench, &data).await["data"][VOLUME]["encryptFormat"], "luks");
    assert!(images.backing_chain(&bench.pool_dir().join("v")).await.unwrap()[0].encrypted);
    let binary = with(&bench, &[("passphrase", json!([-1, -2])), ("uuid", json!("b"))]);
    assert!(refused(&mut bench, &binary).await.contains("is not text"));
}

#[tokio::test]
async fn volumes_that_cannot_be_leave_nothing() {
    let mut bench = Bench::with_pool().await;
    let store = json!({STORE: {"uuid": OTHER}});
    let nfs = json!({"com.cloud.agent.api.to.NfsTO": {"_url": "nfs://h/x"}});
    for (member, value, words) in [
        ("uuid", json!("../x"), "cannot name a volume"),
        ("uuid", json!("-x y"), "cannot name a volume"),
        ("size", json!(0), "cannot have a size of 0 bytes"),
        ("size", json!(-5), "cannot have a size of -5 bytes"),
        ("format", json!("VMDK"), "cannot be of format"),
        ("dataStore", store, "was not found"),
        ("dataStore", nfs, "unsupported protocol"),
        ("dataStore", Value::Null, "has no data store"),
    ] {
        let data = with(&bench, &[(member, value)]);
        let details = refused(&mut bench, &data).await;
        assert!(details.contains(words), "{member}: {details}");
    }
    assert!(refused(&mut bench, &json!({"x.Y": {}})).await.contains("unsupported type"));
    assert!(bench.pool_files().is_empty());
}

#[tokio::test]
async fn a_full_pool_is_named_and_keeps_nothing() {
    if qemu_img().is_none() {
        return;
    }
    let Some(small) = Small::of("1m").await else { return };
    let mut bench = Bench::with_pool_at(small.directory.path()).await;
    let fat = with(&bench, &[("provisioningType", json!("FAT"))]);
    let details = refused(&mut bench, &fat).await;
    assert!(details.contains("67108864 bytes and"), "{details}");
    std::fs::write(bench.pool_dir().join("full"), vec![1; MIB as usize]).unwrap();
    let thin = with(&bench, &[]);
    let details = refused(&mut bench, &thin).await;
    assert!(details.contains("no space is left"), "{details}");
    assert_eq!(bench.pool_files(), ["full"]);
}

#[tokio::test]
async fn an_interrupted_creation_is_none() {
    if qemu_img().is_none() {
        return;
    }
    for at in 1..=2 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
            let data = with(&bench, &[]);
            refused(&mut bench, &data).await;
            bench.ctx.services.journal.recover().await;
            assert!(bench.pool_files().is_empty(), "{fault:?}");
            assert_eq!(create(&mut bench, &data).await["result"], true);
        }
    }
}

/// A pool `OTHER` with a template in it, and the file that a guest is migrated onto.
async fn migrating(bench: &Bench, kind: &str, scope: &str) -> Value {
    let other = bench.dir().join("other");
    std::fs::create_dir_all(&other).unwrap();
    let template = other.join("t");
    run(&["qemu-img", "create", "-q", "-f", "qcow2", template.to_str().unwrap(), "8M"]).await.unwrap();
    bench
        .ctx
        .services
        .hypervisor
        .ensure_dir_pool(OTHER.parse().unwrap(), other.to_str().unwrap())
        .await
        .unwrap();
    let options = json!({"srcPoolUuid": OTHER, "srcPoolType": "Filesystem", "type": kind, "scopeType": scope,
        "srcBackingFilePath": "t", "copySrcTemplate": true, "srcVolumeUuid": "old", "timeout": 60});
    with(bench, &[("migrationOptions", options)])
}

#[tokio::test]
async fn a_migrated_disk_finds_its_template() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    let data = migrating(&bench, "LinkedClone", "CLUSTER").await;
    for _ in 0..2 {
        assert_eq!(create(&mut bench, &data).await["result"], true);
        assert_eq!(bench.pool_files(), ["t", "v"]);
    }
    let chain = images.backing_chain(&bench.pool_dir().join("v")).await.unwrap();
    assert_eq!((chain.len(), chain[0].virtual_size), (2, 64 * MIB));
    let mut bench = Bench::with_pool().await;
    let full = migrating(&bench, "FullClone", "CLUSTER").await;
    assert_eq!(create(&mut bench, &full).await["result"], true);
    assert_eq!(bench.pool_files(), ["v"]);
    let mut bench = Bench::with_pool().await;
    let host = migrating(&bench, "LinkedClone", "HOST").await;
    assert!(refused(&mut bench, &host).await.contains("lacks the template \"t\""));
    assert!(bench.pool_files().is_empty());
}

#[tokio::test]
async fn an_interrupted_migration_target_is_none() {
    if qemu_img().is_none() {
        return;
    }
    // Steps of the journal: template, disk, commit.
    for at in 1..=3 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
            let data = migrating(&bench, "LinkedClone", "CLUSTER").await;
            refused(&mut bench, &data).await;
            bench.ctx.services.journal.recover().await;
            assert!(bench.pool_files().is_empty(), "{fault:?}: {:?}", bench.pool_files());
        }
    }
}
