//! Snapshots of volumes from their beginning to their end, on real images. Guests that run are in the
//! tests against a real libvirt.

use crate::commands::storage::testing::Secondary;
use crate::commands::testing::Bench;
use crate::journal::faults::{Fault, Faults};
use crate::storage::testing::{qemu_img, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const STORAGE: &str = "org.apache.cloudstack.storage.command";
const SNAPSHOT: &str = "org.apache.cloudstack.storage.to.SnapshotObjectTO";
const VOLUME: &str = "org.apache.cloudstack.storage.to.VolumeObjectTO";
const MIB: u64 = 1 << 20;

async fn ask(bench: &mut Bench, command: &str, fields: Value) -> Value {
    let (class, answer) = bench.answer(&format!("{STORAGE}.{command}"), fields).await;
    let expected = match command {
        "CreateObjectCommand" => format!("{STORAGE}.CreateObjectAnswer"),
        "CopyCommand" => format!("{STORAGE}.CopyCmdAnswer"),
        _ => "com.cloud.agent.api.Answer".to_owned(),
    };
    assert_eq!(class, expected);
    answer
}

async fn good(bench: &mut Bench, command: &str, fields: Value) -> Value {
    let answer = ask(bench, command, fields).await;
    assert_eq!(answer["result"], true, "{answer}");
    answer
}

/// The command must fail; gives its details.
async fn refused(bench: &mut Bench, command: &str, fields: Value) -> String {
    let answer = ask(bench, command, fields).await;
    assert_eq!(answer["result"], false, "{answer}");
    let details = answer["details"].as_str().unwrap().to_owned();
    assert!(!details.contains('\n') && !details.is_empty());
    details
}

fn snapshot(bench: &Bench, path: Option<&str>) -> Value {
    let volume = bench.volume("v")[VOLUME].clone();
    json!({SNAPSHOT: {"path": path, "volume": volume, "dataStore": bench.store(), "vmName": "i-2-3-VM",
        "name": "i-2-3-VM_DATA-1_20261128", "hypervisorType": "KVM", "id": 9, "quiescevm": false, "physicalSize": 0,
        "accountId": 2, "followRedirects": false}})
}

/// Fills the first MiB of an image with a byte.
async fn write(path: &Path, byte: u8) {
    let command = format!("write -q -P {byte} 0 1M");
    run(&["qemu-io", "-f", "qcow2", "-c", &command, path.to_str().unwrap()]).await.unwrap();
}

async fn has(path: &Path, byte: u8) {
    let command = format!("read -q -P {byte} 0 1M");
    run(&["qemu-io", "-r", "-U", "-f", "qcow2", "-c", &command, path.to_str().unwrap()]).await.unwrap();
}

/// A volume "v" over a template "t"; its first MiB is full of 7s. Gives its path.
async fn volume(bench: &Bench) -> PathBuf {
    let [template, path] = ["t", "v"].map(|name| bench.pool_dir().join(name));
    let [template_, path_] = [template.to_str().unwrap(), path.to_str().unwrap()];
    run(&["qemu-img", "create", "-q", "-f", "qcow2", template_, "8M"]).await.unwrap();
    let over = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", template_, path_];
    run(&over).await.unwrap();
    write(&path, 7).await;
    path
}

/// Takes a snapshot; gives its path.
async fn take(bench: &mut Bench) -> PathBuf {
    let data = snapshot(bench, None);
    let answer = good(bench, "CreateObjectCommand", json!({"data": data})).await;
    PathBuf::from(answer["data"][SNAPSHOT]["path"].as_str().unwrap())
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_snapshot_is_taken_reverted_to_and_deleted() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    let path = volume(&bench).await;
    let data = snapshot(&bench, None);
    let answer = good(&mut bench, "CreateObjectCommand", json!({"data": data})).await;
    let taken = answer["data"][SNAPSHOT]["path"].as_str().unwrap();
    let size = std::fs::metadata(taken).unwrap().len();
    let expected = json!({"path": taken, "id": 0, "quiescevm": false, "physicalSize": size, "accountId": 0, "followRedirects": false});
    assert_eq!(answer["data"][SNAPSHOT], expected);
    let taken = PathBuf::from(taken);
    assert_eq!(taken.parent().unwrap(), bench.pool_dir().join("snapshots"));
    assert_eq!(images.backing_chain(&taken).await.unwrap().len(), 1);
    has(&taken, 7).await;

    write(&path, 9).await;
    let data = snapshot(&bench, taken.to_str());
    for _ in 0..2 {
        let revert = json!({"data": data[SNAPSHOT], "dataOnPrimaryStorage": data[SNAPSHOT], "_executeInSequence": true});
        let answer = good(&mut bench, "RevertSnapshotCommand", revert).await;
        assert_eq!(answer["details"], "RevertSnapshotCommand executes successfully");
        has(&path, 7).await;
    }
    for _ in 0..2 {
        let answer = good(&mut bench, "DeleteCommand", json!({"data": data})).await;
        let name = taken.file_name().unwrap().to_str().unwrap();
        assert_eq!(answer["details"], format!("Snapshot {name} removed successfully."));
        assert!(!taken.exists());
    }
    has(&path, 7).await;
}

#[tokio::test]
async fn an_interrupted_snapshot_is_none() {
    if qemu_img().is_none() {
        return;
    }
    // Steps of the journal: directory, file, commit.
    for at in 1..=3 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
            let path = volume(&bench).await;
            let data = snapshot(&bench, None);
            let details = refused(&mut bench, "CreateObjectCommand", json!({"data": data})).await;
            assert!(
                details.contains("Failed take snapshot for volume [DATA-1], in VM [i-2-3-VM]"),
                "{details}"
            );
            bench.ctx.services.journal.recover().await;
            assert_eq!(bench.pool_files(), ["t", "v"], "{fault:?}");
            has(&path, 7).await;
            has(&take(&mut bench).await, 7).await;
        }
    }
}

#[tokio::test]
async fn an_encrypted_volume_gives_an_encrypted_snapshot() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    let mut data = bench.volume("v");
    data[VOLUME]["passphrase"] = json!([99, 97, 110]);
    good(&mut bench, "CreateObjectCommand", json!({"data": data})).await;
    let mut of = snapshot(&bench, None);
    of[SNAPSHOT]["volume"] = data[VOLUME].clone();
    let answer = good(&mut bench, "CreateObjectCommand", json!({"data": of})).await;
    let taken = PathBuf::from(answer["data"][SNAPSHOT]["path"].as_str().unwrap());
    assert!(images.backing_chain(&taken).await.unwrap()[0].encrypted);
    of[SNAPSHOT]["path"] = json!(taken);
    good(&mut bench, "RevertSnapshotCommand", json!({"data": of[SNAPSHOT]})).await;
    assert!(images.backing_chain(&bench.pool_dir().join("v")).await.unwrap()[0].encrypted);
}

#[tokio::test]
async fn snapshots_that_cannot_be_leave_nothing() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let missing = snapshot(&bench, None);
    let details = refused(&mut bench, "CreateObjectCommand", json!({"data": missing})).await;
    assert!(details.contains(bench.pool_dir().join("v").to_str().unwrap()), "{details}");
    volume(&bench).await;
    let mut incremental = missing.clone();
    incremental[SNAPSHOT]["kvmIncrementalSnapshot"] = json!(true);
    let details = refused(&mut bench, "CreateObjectCommand", json!({"data": incremental})).await;
    assert!(details.contains("kvm.incremental.snapshot"), "{details}");
    let mut of_nothing = missing.clone();
    of_nothing[SNAPSHOT]["volume"] = Value::Null;
    let details = refused(&mut bench, "CreateObjectCommand", json!({"data": of_nothing})).await;
    assert!(details.contains("which volume"), "{details}");

    let guest = bench.guest("i-2-3-VM", &bench.pool_dir().join("v")).await;
    let mut encrypted = missing.clone();
    encrypted[SNAPSHOT]["volume"]["passphrase"] = json!([99]);
    let details = refused(&mut bench, "CreateObjectCommand", json!({"data": encrypted})).await;
    assert!(details.contains("encrypted volume snapshots aren't supported"), "{details}");
    let revert = refused(&mut bench, "RevertSnapshotCommand", json!({"data": missing[SNAPSHOT]})).await;
    assert!(revert.contains("is disk vda of i-2-3-VM"), "{revert}");
    bench.ctx.services.hypervisor.destroy(&guest).await.unwrap();
    assert_eq!(bench.pool_files(), ["t", "v"]);
}

#[tokio::test]
async fn only_snapshots_are_deleted() {
    let mut bench = Bench::with_pool().await;
    let kept = ["v", "snapshots/s", "checkpoints/c"].map(|name| bench.pool_dir().join(name));
    for path in &kept {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    let outside = bench.dir().join("snapshots");
    std::fs::write(&outside, "x").unwrap();
    for path in
        [kept[0].to_str().unwrap(), outside.to_str().unwrap(), "snapshots/../v", "/etc/passwd", "../x", ""]
    {
        let data = snapshot(&bench, Some(path));
        refused(&mut bench, "DeleteCommand", json!({"data": data})).await;
    }
    // Inside an image, where the guest's own snapshot is deleted.
    let data = snapshot(&bench, Some("v"));
    good(&mut bench, "DeleteCommand", json!({"data": data})).await;
    assert!(outside.exists() && kept.iter().all(|path| path.exists()));
    let mut data = snapshot(&bench, kept[1].to_str());
    data[SNAPSHOT]["checkpointPath"] = json!(kept[2]);
    good(&mut bench, "DeleteCommand", json!({"data": data})).await;
    assert_eq!(kept.map(|path| path.exists()), [true, false, false]);
}

/// The wish for a copy on secondary storage.
fn backup(bench: &Bench, secondary: &Secondary, taken: &Path, options: Value) -> Value {
    let mut to = snapshot(bench, Some("snapshots/2/5"));
    to[SNAPSHOT]["dataStore"] = secondary.store();
    json!({"srcTO": snapshot(bench, taken.to_str()), "destTO": to, "options": options, "options2": {}})
}

#[tokio::test]
async fn a_snapshot_on_secondary_storage_is_complete_or_none() {
    let Some(secondary) = Secondary::new().await else { return };
    // Steps of the journal: directory, file, commit.
    for at in 1..=3 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, Faults::new(fault)).await;
            volume(&bench).await;
            let mut data = snapshot(&bench, None);
            data[SNAPSHOT]["imageStore"] = secondary.store();
            refused(&mut bench, "CreateObjectCommand", json!({"data": data})).await;
            // As after a restart, when it is not mounted any more.
            assert!(secondary.is_unmounted(), "{fault:?}");
            bench.ctx.services.journal.recover().await;
            assert_eq!(secondary.files(), [""; 0], "{fault:?}");
            assert!(!secondary.content.path().join("snapshots/2/5").exists(), "{fault:?}");
            assert_eq!(bench.pool_files(), ["t", "v"], "{fault:?}");

            let answer = good(&mut bench, "CreateObjectCommand", json!({"data": data})).await;
            let path = answer["data"][SNAPSHOT]["path"].as_str().unwrap();
            assert!(path.starts_with("snapshots/2/5/"), "{path}");
            has(&secondary.content.path().join(path), 7).await;
            assert!(secondary.is_unmounted(), "{fault:?}");
            std::fs::remove_dir_all(secondary.content.path().join("snapshots")).unwrap();
        }
    }
}

#[tokio::test]
async fn a_snapshot_moves_to_secondary_storage_and_becomes_a_volume() {
    let Some(secondary) = Secondary::new().await else { return };
    let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
    volume(&bench).await;
    let taken = take(&mut bench).await;
    let name = taken.file_name().unwrap().to_str().unwrap().to_owned();
    for keep in [json!({"snapshot.backup.to.secondary": "false"}), json!({"typeDescription": "x"}), json!({})]
    {
        assert!(taken.exists(), "{keep}");
        let command = backup(&bench, &secondary, &taken, keep);
        let answer = good(&mut bench, "CopyCommand", command).await;
        let path = format!("snapshots/2/5/{name}");
        let size = std::fs::metadata(secondary.content.path().join(&path)).unwrap().len();
        assert_eq!(secondary.files(), [path.as_str()]);
        assert!(secondary.is_unmounted());
        let new = json!({"path": path, "physicalSize": size, "id": 0, "quiescevm": false, "accountId": 0, "followRedirects": false});
        assert_eq!(answer["newData"][SNAPSHOT], new);
    }
    assert!(names_in(&bench.pool_dir().join("snapshots")).is_empty());

    // As secondary storage has the directory, not the export, here.
    std::fs::rename(
        secondary.content.path().join("snapshots/2/5").join(&name),
        secondary.content.path().join(&name),
    )
    .unwrap();
    let mut from = snapshot(&bench, Some(&format!("snapshots/2/5/{name}")));
    from[SNAPSHOT]["dataStore"] = secondary.store();
    let mut to = bench.volume("new");
    let command = json!({"srcTO": from, "destTO": to, "options": {}, "options2": {}});
    let answer = good(&mut bench, "CopyCommand", command).await;
    let expected = json!({"path": "new", "size": 8 * MIB, "format": "QCOW2", "accountId": 0, "id": 0,
        "directDownload": false, "deployAsIs": false, "followRedirects": false});
    assert_eq!(answer["newData"][VOLUME], expected);
    has(&bench.pool_dir().join("new"), 7).await;
    to[VOLUME]["path"] = Value::Null;
    let command = json!({"srcTO": from, "destTO": to, "options": {}, "options2": {}});
    let answer = good(&mut bench, "CopyCommand", command).await;
    has(&bench.pool_dir().join(answer["newData"][VOLUME]["path"].as_str().unwrap()), 7).await;
    let command = json!({"srcTO": from, "destTO": {"org.apache.cloudstack.storage.to.TemplateObjectTO": {}}});
    assert_eq!(refused(&mut bench, "CopyCommand", command).await, "operation not supported");
}

#[tokio::test]
async fn an_interrupted_move_leaves_the_snapshot_where_it_was() {
    let Some(secondary) = Secondary::new().await else { return };
    // Steps of the journal: directory, file, removal of the old one, commit.
    for at in 1..=4 {
        for fault in [Fault::Error { at: at + 3 }, Fault::Crash { at: at + 3 }] {
            let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, Faults::new(fault)).await;
            volume(&bench).await;
            let taken = take(&mut bench).await;
            let command = backup(&bench, &secondary, &taken, json!({}));
            refused(&mut bench, "CopyCommand", command.clone()).await;
            bench.ctx.services.journal.recover().await;
            // With the commit written down, what is left to do is done at the next start.
            let committed = fault == Fault::Crash { at: 7 };
            assert_eq!(taken.exists(), !committed, "{fault:?}");
            assert_eq!(secondary.files().is_empty(), !committed, "{fault:?}: {:?}", secondary.files());
            if matches!(fault, Fault::Error { .. }) {
                good(&mut bench, "CopyCommand", command).await;
                assert!(!taken.exists());
            }
            for entry in std::fs::read_dir(secondary.content.path()).unwrap().flatten() {
                std::fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_snapshot_inside_a_volume_is_copied_without_what_came_later() {
    let Some(secondary) = Secondary::new().await else { return };
    let images = qemu_img().unwrap();
    let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
    let path = volume(&bench).await;
    run(&["qemu-img", "snapshot", "-c", "i-2-3-VM_VS_1", path.to_str().unwrap()]).await.unwrap();
    write(&path, 9).await;
    let command = backup(&bench, &secondary, Path::new("i-2-3-VM_VS_1"), json!({}));
    let answer = good(&mut bench, "CopyCommand", command).await;
    let copy = answer["newData"][SNAPSHOT]["path"].as_str().unwrap();
    assert!(!copy.contains("VS_1"), "{copy}");
    has(&secondary.content.path().join(copy), 7).await;
    has(&path, 9).await;
    let from = snapshot(&bench, Some("i-2-3-VM_VS_1"));
    let to = bench.volume("new");
    good(&mut bench, "CopyCommand", json!({"srcTO": from, "destTO": to})).await;
    has(&bench.pool_dir().join("new"), 7).await;
    // The snapshots of a guest, with its memory, do not go along with copies.
    let taken = take(&mut bench).await;
    has(&taken, 9).await;
    assert!(images.snapshots(&taken).await.unwrap().is_empty());
    assert_eq!(images.snapshots(&path).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_volume_is_reverted_from_secondary_storage_or_stays() {
    let Some(secondary) = Secondary::new().await else { return };
    let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
    let path = volume(&bench).await;
    let taken = take(&mut bench).await;
    let command = backup(&bench, &secondary, &taken, json!({}));
    let answer = good(&mut bench, "CopyCommand", command).await;
    let mut data = snapshot(&bench, answer["newData"][SNAPSHOT]["path"].as_str());
    data[SNAPSHOT]["dataStore"] = secondary.store();
    write(&path, 9).await;
    // The server may still say where it was.
    let gone = snapshot(&bench, taken.to_str());
    let revert = json!({"data": data[SNAPSHOT], "dataOnPrimaryStorage": gone[SNAPSHOT]});
    good(&mut bench, "RevertSnapshotCommand", revert.clone()).await;
    has(&path, 7).await;
    assert!(secondary.is_unmounted());
    write(&path, 9).await;
    data[SNAPSHOT]["path"] = json!("snapshots/2/5/none");
    refused(&mut bench, "RevertSnapshotCommand", json!({"data": data[SNAPSHOT]})).await;
    has(&path, 9).await;
    data[SNAPSHOT]["path"] = json!("../../etc/passwd");
    refused(&mut bench, "RevertSnapshotCommand", json!({"data": data[SNAPSHOT]})).await;
    assert_eq!(bench.pool_files(), ["snapshots", "t", "v"]);
}
