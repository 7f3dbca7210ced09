//! On real images. Guests of libvirt's test driver cannot have their disks moved; the tests against a
//! real QEMU are in `tests/behaviour/real_volumes.rs`.

use crate::commands::storage::testing::{filled, guest_over, interruptions, overlay};
use crate::commands::testing::{Bench, POOL};
use crate::journal::faults::Faults;
use crate::journal::{Action, JournalError};
use crate::storage::testing::qemu_img;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const CLASS: &str = "com.cloud.agent.api.storage.MigrateVolumeCommand";
const VOLUME: &str = "org.apache.cloudstack.storage.to.VolumeObjectTO";
const STORE: &str = "org.apache.cloudstack.storage.to.PrimaryDataStoreTO";
const OTHER: &str = "9572a059-c161-4d90-8fb4-2cc51dcc2325";
const GUEST: &str = "i-2-3-VM";

/// Directory of the pool that volumes are moved to.
fn other(bench: &Bench) -> PathBuf {
    let other = bench.dir().join("other");
    std::fs::create_dir_all(&other).unwrap();
    other
}

fn names(bench: &Bench) -> Vec<String> {
    let entries = std::fs::read_dir(other(bench)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn command(bench: &Bench, path: Value) -> Value {
    let mut dest = bench.volume("v");
    dest[VOLUME]["path"] = path;
    dest[VOLUME]["dataStore"] =
        json!({STORE: {"uuid": OTHER, "poolType": "Filesystem", "path": other(bench)}});
    json!({"volumeId": 5, "volumePath": "v", "srcData": bench.volume("v"), "destData": dest,
        "attachedVmName": null, "srcDetails": {}, "destDetails": null, "wait": 60})
}

async fn migrate(bench: &mut Bench, command: Value) -> Value {
    let (class, fields) = bench.answer(CLASS, command).await;
    assert_eq!(class, "com.cloud.agent.api.storage.MigrateVolumeAnswer");
    fields
}

async fn refused(bench: &mut Bench, command: Value) -> String {
    let answer = migrate(bench, command).await;
    assert_eq!((&answer["result"], answer.get("volumePath")), (&json!(false), None), "{answer}");
    answer["details"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_volume_that_nobody_has_open_is_copied_whole() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    filled(&bench.pool_dir().join("t"), "8M").await;
    overlay(&bench.pool_dir().join("v"), &bench.pool_dir().join("t")).await;
    let new = command(&bench, json!("new"));
    for _ in 0..2 {
        let expected = json!({"volumePath": "new", "result": true, "contextMap": {}, "wait": 0, "bypassHostMaintenance": false});
        assert_eq!(migrate(&mut bench, new.clone()).await, expected);
        assert_eq!(names(&bench), ["new"]);
    }
    let chain = images.backing_chain(&other(&bench).join("new")).await.unwrap();
    assert_eq!((chain.len(), chain[0].virtual_size), (1, 8 << 20));
    // Named by pools, under a name of the agent's own.
    std::fs::remove_file(other(&bench).join("new")).unwrap();
    let pools = json!({"volumePath": "v", "sourcePool": bench.filer(),
        "pool": {"uuid": OTHER, "type": "Filesystem", "path": other(&bench)}});
    let answer = migrate(&mut bench, pools).await;
    assert_eq!(json!(names(&bench)), json!([answer["volumePath"]]), "{answer}");
    // The server deletes the old one.
    assert_eq!(bench.pool_files(), ["t", "v"]);
}

#[tokio::test]
async fn an_interrupted_move_leaves_the_old_volume_alone() {
    if qemu_img().is_none() {
        return;
    }
    // Steps of the journal: the file, the commit.
    for fault in interruptions(2) {
        let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
        filled(&bench.pool_dir().join("v"), "8M").await;
        let new = command(&bench, json!("new"));
        refused(&mut bench, new.clone()).await;
        bench.ctx.services.journal.recover().await;
        assert!(names(&bench).is_empty(), "{fault:?}");
        assert_eq!(bench.pool_files(), ["v"]);
        assert_eq!(migrate(&mut bench, new).await["result"], true);
    }
}

#[tokio::test]
async fn a_guest_that_was_moved_before_is_not_given_its_old_disk() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    filled(&bench.pool_dir().join("v"), "8M").await;
    let moved = other(&bench).join("new");
    filled(&moved, "8M").await;
    let before = std::fs::metadata(&moved).unwrap().modified().unwrap();
    bench.guest(GUEST, &moved).await;
    let mut again = command(&bench, json!("new"));
    again["attachedVmName"] = json!(GUEST);
    assert_eq!(migrate(&mut bench, again.clone()).await["volumePath"], "new");
    assert_eq!(std::fs::metadata(&moved).unwrap().modified().unwrap(), before);
    again["destData"][VOLUME]["path"] = Value::Null;
    let details = refused(&mut bench, again).await;
    assert!(details.contains("i-2-3-VM runs without this volume"), "{details}");
    assert_eq!(names(&bench), ["new"]);
}

#[tokio::test]
async fn a_disk_that_cannot_be_mirrored_stays() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let path = bench.pool_dir().join("v");
    filled(&path, "8M").await;
    let guest = bench.guest(GUEST, &path).await;
    let mut new = command(&bench, Value::Null);
    new["attachedVmName"] = json!(GUEST);
    // The test driver has no such call.
    refused(&mut bench, new.clone()).await;
    assert!(names(&bench).is_empty());
    bench.ctx.services.hypervisor.destroy(&guest).await.unwrap();
    guest_over(&bench, GUEST, Path::new("/other"), &path).await;
    let details = refused(&mut bench, new).await;
    assert!(details.contains("is below disk vda of i-2-3-VM"), "{details}");
    assert!(names(&bench).is_empty());
}

#[tokio::test]
async fn the_target_of_a_move_goes_only_if_the_guest_cannot_be_on_it() {
    for (guest_on, may_be_moved, stays) in [
        (Some("new"), false, true),
        (Some("new"), true, true),
        (Some("v"), false, false),
        (Some("v"), true, false),
        (None, false, false),
        // It may have been moved, and ended since.
        (None, true, true),
    ] {
        let bench = Bench::with_pool().await;
        let target = bench.pool_dir().join("new");
        std::fs::write(&target, "x").unwrap();
        if let Some(file) = guest_on {
            bench.guest(GUEST, &bench.pool_dir().join(file)).await;
        }
        let journal = &bench.ctx.services.journal;
        let mut work = journal.begin("move", GUEST, "").await;
        let (guest, device) = (GUEST.to_owned(), "vda".to_owned());
        let undo = Action::EndCopy { guest, device, target: target.clone(), may_be_moved };
        work.before(undo).await.unwrap();
        assert!(work.settle(Err::<(), _>(JournalError::Injected { step: 0 })).await.is_err());
        assert_eq!(target.exists(), stays, "{guest_on:?}, {may_be_moved}");
        assert_eq!(*journal.unfinished().borrow(), 0);
    }
}

#[tokio::test]
async fn what_cannot_be_moved_is_said() {
    let mut bench = Bench::with_pool().await;
    std::fs::write(bench.pool_dir().join("v"), "x").unwrap();
    for (member, value, words) in [
        ("srcDetails", json!({"iqn": "/iqn/0"}), "Managed storage"),
        ("destDetails", json!({"iqn": "/iqn/0"}), "Managed storage"),
        ("srcData", bench.volume("gone"), "was not found"),
        ("srcData", bench.volume("a b"), "cannot name a volume"),
        ("destData", bench.volume("v"), "is in that pool already"),
        ("destData", bench.volume("../.."), "cannot name a volume"),
    ] {
        let mut new = command(&bench, json!("new"));
        new[member] = value;
        let details = refused(&mut bench, new).await;
        assert!(details.contains(words), "{member}: {details}");
        assert!(names(&bench).is_empty());
    }
    let nowhere = json!({"volumePath": "v", "sourcePool": {"uuid": POOL}});
    assert!(refused(&mut bench, nowhere).await.contains("is not the UUID"));
}
