//! Snapshots of the disks of guests that do not run, on real images. Guests that run are in the tests
//! against a real libvirt.

use crate::commands::testing::Bench;
use crate::journal::faults::{Fault, Faults};
use crate::storage::testing::{qemu_img, run};
use serde_json::{Value, json};
use std::path::Path;

const API: &str = "com.cloud.agent.api.storage";
const SNAPSHOT: &str = "org.apache.cloudstack.storage.to.SnapshotObjectTO";
const VOLUME: &str = "org.apache.cloudstack.storage.to.VolumeObjectTO";
const GUEST: &str = "i-2-3-VM";

async fn ask(bench: &mut Bench, command: &str, fields: Value) -> Value {
    let (class, answer) = bench.answer(&format!("{API}.{command}DiskOnlyVmSnapshotCommand"), fields).await;
    let own = matches!(command, "Create" | "Revert");
    let expected = if own {
        format!("{API}.{command}DiskOnlyVmSnapshotAnswer")
    } else {
        "com.cloud.agent.api.Answer".into()
    };
    assert_eq!(class, expected);
    answer
}

async fn good(bench: &mut Bench, command: &str, fields: Value) -> Value {
    let answer = ask(bench, command, fields).await;
    assert_eq!(answer["result"], true, "{answer}");
    answer
}

async fn refused(bench: &mut Bench, command: &str, fields: Value) -> String {
    let answer = ask(bench, command, fields).await;
    assert_eq!(answer["result"], false, "{answer}");
    answer["details"].as_str().unwrap().to_owned()
}

async fn write(path: &Path, byte: u8) {
    let command = format!("write -q -P {byte} {byte}M 1M");
    run(&["qemu-io", "-f", "qcow2", "-c", &command, path.to_str().unwrap()]).await.unwrap();
}

/// Each byte is at its own place.
async fn has(path: &Path, bytes: &[u8]) {
    for byte in 1..8_u8 {
        let wanted = if bytes.contains(&byte) { byte } else { 0 };
        let command = format!("read -q -P {wanted} {byte}M 1M");
        run(&["qemu-io", "-r", "-f", "qcow2", "-c", &command, path.to_str().unwrap()]).await.unwrap();
    }
}

async fn image(bench: &Bench, name: &str, base: Option<&str>) {
    let path = bench.pool_dir().join(name);
    let base = base.map(|base| bench.pool_dir().join(base));
    let mut words = vec!["qemu-img", "create", "-q", "-f", "qcow2"];
    if let Some(base) = &base {
        words.extend(["-F", "qcow2", "-b", base.to_str().unwrap()]);
    }
    words.push(path.to_str().unwrap());
    if base.is_none() {
        words.push("8M");
    }
    run(&words).await.unwrap();
}

/// A stack of images, each over the one before, each with a byte of its own: 1, 2 ...
async fn stack(bench: &Bench, names: &[&str]) {
    let mut base = None;
    for (number, name) in (1..).zip(names) {
        image(bench, name, base).await;
        write(&bench.pool_dir().join(name), number).await;
        base = Some(name);
    }
}

fn volume(bench: &Bench, uuid: &str, path: &str) -> Value {
    let mut volume = bench.volume(path)[VOLUME].clone();
    volume["uuid"] = json!(uuid);
    volume
}

fn create(bench: &Bench, volumes: &[(&str, &str)]) -> Value {
    let volumes: Vec<Value> = volumes.iter().map(|(uuid, path)| volume(bench, uuid, path)).collect();
    json!({"vmState": "Stopped", "volumeTOs": volumes, "vmName": GUEST,
        "target": {"id": 2, "snapshotName": "s", "type": "Disk", "current": false, "quiescevm": false}})
}

/// `SnapshotObjectTO` of a file, with the volume as it is now.
fn snapshot(bench: &Bench, path: &str, now: &str) -> Value {
    json!({"path": path, "volume": volume(bench, "v", now), "dataStore": bench.store(), "vmName": GUEST, "name": "s", "id": 2})
}

fn tree(bench: &Bench, parent: &str, child: Value, grandchildren: &[&str]) -> Value {
    let grandchildren: Vec<Value> =
        grandchildren.iter().map(|path| json!({SNAPSHOT: snapshot(bench, path, "v")})).collect();
    json!({"parent": {SNAPSHOT: snapshot(bench, parent, "v")}, "child": child, "grandChildren": grandchildren})
}

fn merge(trees: &[Value]) -> Value {
    json!({"snapshotMergeTreeToList": trees, "vmState": "Stopped", "vmName": GUEST})
}

#[tokio::test]
async fn the_disks_go_on_in_new_files() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    stack(&bench, &["t", "a"]).await;
    stack(&bench, &["b"]).await;
    let command = create(&bench, &[("u-a", "a"), ("u-b", "b")]);
    let answer = good(&mut bench, "Create", command).await;
    let map = answer["mapVolumeToSnapshotSizeAndNewVolumePath"].as_object().unwrap();
    assert_eq!(map.len(), 2);
    for (uuid, base, bytes) in [("u-a", "a", &[1, 2][..]), ("u-b", "b", &[1])] {
        let base = bench.pool_dir().join(base);
        assert_eq!(map[uuid]["t"], std::fs::metadata(&base).unwrap().len());
        let new = bench.pool_dir().join(map[uuid]["u"].as_str().unwrap());
        assert_eq!(images.backing_chain(&new).await.unwrap()[0].backing.as_ref(), Some(&base));
        write(&new, 7).await;
        has(&base, bytes).await;
        has(&new, &[bytes, &[7]].concat()).await;
    }
}

#[tokio::test]
async fn an_interrupted_snapshot_of_disks_is_none() {
    if qemu_img().is_none() {
        return;
    }
    // Steps of the journal: one for each disk, commit.
    for at in 1..=3 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
            stack(&bench, &["a"]).await;
            stack(&bench, &["b"]).await;
            let command = create(&bench, &[("u-a", "a"), ("u-b", "b")]);
            refused(&mut bench, "Create", command.clone()).await;
            bench.ctx.services.journal.recover().await;
            assert_eq!(bench.pool_files(), ["a", "b"], "{fault:?}");
            good(&mut bench, "Create", command).await;
            assert_eq!(bench.pool_files().len(), 4);
        }
    }
}

#[tokio::test]
async fn disks_that_cannot_be_frozen_are_told() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    stack(&bench, &["a"]).await;
    let path = bench.pool_dir().join("a");
    let raw = bench.pool_dir().join("r");
    std::fs::write(&raw, vec![0; 1 << 20]).unwrap();
    let mut running = create(&bench, &[("u-a", "a")]);
    running["vmState"] = json!("Running");
    assert!(refused(&mut bench, "Create", running).await.contains("does not run on this host"));
    let mut of_raw = create(&bench, &[("u-r", "r")]);
    of_raw["volumeTOs"][0]["format"] = json!("RAW");
    assert!(refused(&mut bench, "Create", of_raw).await.contains("not of the format QCOW2"));
    let mut encrypted = create(&bench, &[("u-a", "a")]);
    encrypted["volumeTOs"][0]["passphrase"] = json!([1]);
    assert!(refused(&mut bench, "Create", encrypted).await.contains("encrypted"));
    for (fields, words) in [
        (create(&bench, &[]), "no volume"),
        (create(&bench, &[("u", "../a")]), "not a path inside"),
        (create(&bench, &[("u", "none")]), "was not found"),
    ] {
        let details = refused(&mut bench, "Create", fields).await;
        assert!(details.contains(words), "{details}");
    }
    bench.guest("i-9-9-VM", &path).await;
    let other = create(&bench, &[("u-a", "a")]);
    assert!(refused(&mut bench, "Create", other).await.contains("is disk vda of i-9-9-VM"));
    assert_eq!(bench.pool_files(), ["a", "r"]);
}

#[tokio::test]
async fn layers_are_merged_and_what_is_over_them_stays_the_same() {
    let Some(images) = qemu_img() else { return };
    // The child is the volume, or a snapshot with the volume and a branch over it.
    let mut bench = Bench::with_pool().await;
    stack(&bench, &["t", "s1", "s2", "v"]).await;
    image(&bench, "branch", Some("s2")).await;
    let path = |name: &str| bench.pool_dir().join(name);
    let [s1, v, branch] = ["s1", "v", "branch"].map(path);
    let child = json!({SNAPSHOT: snapshot(&bench, "s2", "v")});
    let command = merge(&[tree(&bench, "s1", child, &["v", "branch"])]);
    for _ in 0..2 {
        good(&mut bench, "Merge", command.clone()).await;
        assert_eq!(bench.pool_files(), ["branch", "s1", "t", "v"]);
        has(&v, &[1, 2, 3, 4]).await;
        has(&branch, &[1, 2, 3]).await;
    }
    std::fs::remove_file(branch).unwrap();
    let child = json!({VOLUME: volume(&bench, "v", "v")});
    let command = merge(&[tree(&bench, "s1", child, &[])]);
    for _ in 0..2 {
        good(&mut bench, "Merge", command.clone()).await;
        assert_eq!(bench.pool_files(), ["s1", "t"]);
        has(&s1, &[1, 2, 3, 4]).await;
    }
    assert_eq!(images.backing_chain(&s1).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_interrupted_merge_loses_nothing_and_can_be_repeated() {
    if qemu_img().is_none() {
        return;
    }
    // Steps of the journal: removal of the one and of the other, commit.
    for at in 1..=3 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
            stack(&bench, &["s1", "s2", "v"]).await;
            stack(&bench, &["w1", "w"]).await;
            let [child, other] = [("s2", SNAPSHOT), ("w", VOLUME)].map(|(path, class)| match class {
                SNAPSHOT => json!({SNAPSHOT: snapshot(&bench, path, "v")}),
                _ => json!({VOLUME: volume(&bench, "w", path)}),
            });
            let trees = [tree(&bench, "s1", child, &["v"]), tree(&bench, "w1", other, &[])];
            if fault == (Fault::Error { at: 3 }) {
                // All is merged, and there is no way back.
                good(&mut bench, "Merge", merge(&trees)).await;
            } else {
                refused(&mut bench, "Merge", merge(&trees)).await;
            }
            let [v, w, w1] = ["v", "w", "w1"].map(|name| bench.pool_dir().join(name));
            bench.ctx.services.journal.recover().await;
            has(&v, &[1, 2, 3]).await;
            has(if w.exists() { &w } else { &w1 }, &[1, 2]).await;
            good(&mut bench, "Merge", merge(&trees)).await;
            assert_eq!(bench.pool_files(), ["s1", "v", "w1"], "{fault:?}");
            has(&v, &[1, 2, 3]).await;
            has(&w1, &[1, 2]).await;
        }
    }
}

#[tokio::test]
async fn a_merge_that_would_change_others_is_refused() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    stack(&bench, &["s1", "s2", "v"]).await;
    let s2 = json!({SNAPSHOT: snapshot(&bench, "s2", "v")});
    let unnamed = merge(&[tree(&bench, "s1", s2.clone(), &[])]);
    assert!(refused(&mut bench, "Merge", unnamed).await.contains("/v is based on"));
    let v = json!({VOLUME: volume(&bench, "v", "v")});
    let wrong = merge(&[tree(&bench, "s1", v, &[])]);
    assert!(refused(&mut bench, "Merge", wrong).await.contains("is not based on"));
    let none = merge(&[tree(&bench, "s1", json!({SNAPSHOT: snapshot(&bench, "none", "v")}), &[])]);
    good(&mut bench, "Merge", none).await;
    image(&bench, "branch", Some("s1")).await;
    let command = merge(&[tree(&bench, "s1", s2, &["v"])]);
    assert!(refused(&mut bench, "Merge", command.clone()).await.contains("branch is based on"));
    std::fs::remove_file(bench.pool_dir().join("branch")).unwrap();
    bench.guest("i-9-9-VM", &bench.pool_dir().join("s2")).await;
    assert!(refused(&mut bench, "Merge", command).await.contains("i-9-9-VM"));
    has(&bench.pool_dir().join("s1"), &[1]).await;
    assert_eq!(bench.pool_files(), ["s1", "s2", "v"]);
}

#[tokio::test]
async fn disks_go_back_to_a_snapshot() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    stack(&bench, &["s1", "s2", "v"]).await;
    let command = json!({"snapshotObjectTos": [snapshot(&bench, "s1", "v")], "vmName": GUEST});
    let answer = good(&mut bench, "Revert", command.clone()).await;
    let mut expected = volume(&bench, "v", "v");
    let new = answer["volumeObjectTos"][0]["path"].as_str().unwrap();
    expected["path"] = json!(new);
    assert_eq!(answer["volumeObjectTos"], json!([expected]));
    let new = bench.pool_dir().join(new);
    has(&new, &[1]).await;
    assert!(!bench.pool_dir().join("v").exists() && bench.pool_dir().join("s2").exists());
    assert_eq!(images.backing_chain(&new).await.unwrap().len(), 2);
    // The answer was lost: the volume is gone, and the snapshot is still there.
    good(&mut bench, "Revert", command).await;
    // A file that something is based on stays.
    let command = json!({"snapshotObjectTos": [snapshot(&bench, "s1", "s1")], "vmName": GUEST});
    good(&mut bench, "Revert", command).await;
    assert!(bench.pool_dir().join("s1").exists());
}

#[tokio::test]
async fn an_interrupted_way_back_keeps_the_disks() {
    if qemu_img().is_none() {
        return;
    }
    // Steps of the journal: new file, removal of the old one, commit.
    for at in 1..=3 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
            stack(&bench, &["s1", "v"]).await;
            let command = json!({"snapshotObjectTos": [snapshot(&bench, "s1", "v")], "vmName": GUEST});
            refused(&mut bench, "Revert", command.clone()).await;
            bench.ctx.services.journal.recover().await;
            let files = bench.pool_files();
            if fault == (Fault::Crash { at: 3 }) {
                // Committed: it is finished, whatever the server has heard.
                assert!(files.len() == 2 && !files.contains(&"v".to_owned()), "{files:?}");
            } else {
                assert_eq!(files, ["s1", "v"], "{fault:?}");
            }
            let answer = good(&mut bench, "Revert", command).await;
            has(&bench.pool_dir().join(answer["volumeObjectTos"][0]["path"].as_str().unwrap()), &[1]).await;
        }
    }
}

#[tokio::test]
async fn files_of_snapshots_are_deleted_unless_something_needs_them() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    stack(&bench, &["s1", "s2"]).await;
    let delete = |names: &[&str]| {
        let all: Vec<Value> =
            names.iter().map(|name| json!({SNAPSHOT: snapshot(&bench, name, "v")})).collect();
        json!({"snapshots": all})
    };
    let [first, both] = [delete(&["s1"]), delete(&["s2", "s1", "none"])];
    assert!(refused(&mut bench, "Delete", first).await.contains("is still the backing file of"));
    let guest = bench.guest("i-9-9-VM", &bench.pool_dir().join("s2")).await;
    assert!(refused(&mut bench, "Delete", both.clone()).await.contains("i-9-9-VM"));
    assert_eq!(bench.pool_files(), ["s1", "s2"]);
    bench.ctx.services.hypervisor.destroy(&guest).await.unwrap();
    for _ in 0..2 {
        good(&mut bench, "Delete", both.clone()).await;
        assert!(bench.pool_files().is_empty());
    }
}
