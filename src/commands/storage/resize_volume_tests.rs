//! On real images; guests of libvirt's test driver have no disks that could be resized.

use crate::commands::storage::testing::guest_over;
use crate::commands::testing::Bench;
use crate::storage::qemu_img::{Access, ImageFormat};
use crate::storage::testing::{qemu_img, run};
use serde_json::{Value, json};
use std::path::Path;

const CLASS: &str = "com.cloud.agent.api.storage.ResizeVolumeCommand";
const MIB: u64 = 1 << 20;

async fn resize(bench: &mut Bench, current: u64, new: u64, more: &[(&str, Value)]) -> Value {
    let mut command = json!({"path": "v", "pool": bench.filer(), "currentSize": current, "newSize": new,
        "shrinkOk": false, "vmInstance": "none", "managed": false, "passphrase": []});
    for (member, value) in more {
        command[*member] = value.clone();
    }
    let (class, fields) = bench.answer(CLASS, command).await;
    assert_eq!(class, "com.cloud.agent.api.storage.ResizeVolumeAnswer");
    fields
}

async fn refused(bench: &mut Bench, current: u64, new: u64, more: &[(&str, Value)]) -> String {
    let answer = resize(bench, current, new, more).await;
    assert_eq!((&answer["result"], answer.get("newSize")), (&json!(false), None), "{answer}");
    answer["details"].as_str().unwrap().to_owned()
}

async fn image(path: &Path, format: &str, size: &str) {
    run(&["qemu-img", "create", "-q", "-f", format, path.to_str().unwrap(), size]).await.unwrap();
}

async fn size_of(path: &Path, format: ImageFormat) -> u64 {
    qemu_img().unwrap().info(path, Some(format), Access::Shared).await.unwrap().virtual_size
}

#[tokio::test]
async fn a_volume_grows_once() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let path = bench.pool_dir().join("v");
    image(&path, "qcow2", "8M").await;
    let expected = json!({"newSize": 16 * MIB, "result": true, "details": "success", "contextMap": {}, "wait": 0,
        "bypassHostMaintenance": false});
    for _ in 0..2 {
        assert_eq!(resize(&mut bench, 8 * MIB, 16 * MIB, &[]).await, expected);
        assert_eq!(size_of(&path, ImageFormat::Qcow2).await, 16 * MIB);
    }
    // What has that size for the server is not even looked at.
    let same = resize(&mut bench, 16 * MIB, 16 * MIB, &[("path", json!("gone"))]).await;
    assert_eq!(same, expected);
    let path = bench.pool_dir().join("v").to_str().unwrap().to_owned();
    assert_eq!(resize(&mut bench, 8 * MIB, 17 * MIB, &[("path", json!(path))]).await["newSize"], 17 * MIB);
}

#[tokio::test]
async fn only_raw_volumes_shrink_and_only_on_request() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let path = bench.pool_dir().join("v");
    image(&path, "qcow2", "8M").await;
    let shrink = [("shrinkOk", json!(true))];
    let details = refused(&mut bench, 8 * MIB, MIB, &[]).await;
    assert!(details.contains("would shrink the volume"), "{details}");
    assert_eq!(refused(&mut bench, 8 * MIB, MIB, &shrink).await, "Unable to shrink volumes of type QCOW2");
    // The server may be wrong about the present size.
    assert!(refused(&mut bench, MIB, 2 * MIB, &shrink).await.contains("would shrink the volume"));
    assert_eq!(size_of(&path, ImageFormat::Qcow2).await, 8 * MIB);
    assert_eq!(resize(&mut bench, 8 * MIB, 9 * MIB, &shrink).await["newSize"], 9 * MIB);
    std::fs::remove_file(&path).unwrap();
    image(&path, "raw", "8M").await;
    assert!(refused(&mut bench, 8 * MIB, MIB, &[]).await.contains("would shrink the volume"));
    assert_eq!(resize(&mut bench, 8 * MIB, MIB, &shrink).await["newSize"], MIB);
    assert_eq!(size_of(&path, ImageFormat::Raw).await, MIB);
}

#[tokio::test]
async fn encrypted_volumes_need_their_passphrase() {
    let Some(images) = qemu_img() else { return };
    for format in ["QCOW2", "RAW"] {
        let mut bench = Bench::with_pool().await;
        let mut data = bench.volume("v");
        let volume = &mut data["org.apache.cloudstack.storage.to.VolumeObjectTO"];
        volume["format"] = json!(format);
        volume["passphrase"] = json!(b"canary".to_vec());
        let create = "org.apache.cloudstack.storage.command.CreateObjectCommand";
        assert_eq!(bench.answer(create, json!({"data": data})).await.1["result"], true);
        let passphrase = [("passphrase", json!(b"canary".to_vec()))];
        let wrong = [("passphrase", json!(b"wrong".to_vec()))];
        let details = refused(&mut bench, 64 * MIB, 80 * MIB, &wrong).await;
        assert!(!details.contains("wrong"), "{details}");
        for _ in 0..2 {
            let answer = resize(&mut bench, 64 * MIB, 80 * MIB, &passphrase).await;
            assert_eq!(answer["newSize"], 80 * MIB, "{format}: {answer}");
        }
        let path = bench.pool_dir().join("v");
        let info = images.info(&path, None, Access::Shared).await.unwrap();
        assert!(info.encrypted);
        // A raw one has its header in the size of its file.
        let inside = if format == "RAW" { 64 * MIB } else { 80 * MIB };
        assert_eq!(info.virtual_size, inside, "{format}");
    }
}

#[tokio::test]
async fn an_image_with_content_elsewhere_is_left_alone() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let outside = bench.dir().join("outside");
    let options = format!("data_file={},data_file_raw=on", outside.display());
    let path = bench.pool_dir().join("v");
    let words = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", &options, path.to_str().unwrap(), "1M"];
    run(&words).await.unwrap();
    let details = refused(&mut bench, MIB, 2 * MIB, &[]).await;
    assert!(details.contains("outside its storage"), "{details}");
    assert_eq!(std::fs::metadata(outside).unwrap().len(), MIB);
}

#[tokio::test]
async fn the_image_of_a_running_guest_is_only_touched_through_the_guest() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let path = bench.pool_dir().join("v");
    image(&path, "qcow2", "8M").await;
    let guest = bench.guest("i-2-3-VM", &path).await;
    // The test driver has no such call.
    refused(&mut bench, 8 * MIB, 16 * MIB, &[("vmInstance", json!(guest))]).await;
    assert_eq!(size_of(&path, ImageFormat::Qcow2).await, 8 * MIB);
    bench.ctx.services.hypervisor.destroy(&guest).await.unwrap();
    guest_over(&bench, "i-2-4-VM", Path::new("/other"), &path).await;
    let details = refused(&mut bench, 8 * MIB, 16 * MIB, &[]).await;
    assert!(details.contains("is below disk vda of i-2-4-VM"), "{details}");
    assert_eq!(size_of(&path, ImageFormat::Qcow2).await, 8 * MIB);
}

#[tokio::test]
async fn what_cannot_be_resized_is_said() {
    let mut bench = Bench::with_pool().await;
    let ceph = json!({"uuid": "9572a059-c161-4d90-8fb4-2cc51dcc2325", "type": "RBD", "userInfo": "u:canary"});
    for (member, value, words) in [
        ("path", json!("../.."), "cannot name a volume"),
        ("path", json!("gone"), "was not found"),
        ("newSize", json!(-1), "cannot have a size of -1 bytes"),
        ("managed", json!(true), "Managed storage is not supported"),
        ("pool", ceph, "Storage pools of type RBD are not supported"),
    ] {
        let details = refused(&mut bench, MIB, 2 * MIB, &[(member, value)]).await;
        assert!(details.contains(words) && !details.contains("canary"), "{member}: {details}");
    }
}
