//! On real images.

use crate::commands::storage::testing::{Secondary, filled, interruptions, overlay};
use crate::commands::testing::Bench;
use crate::journal::faults::{Fault, Faults};
use crate::storage::testing::{Small, qemu_img, run};
use serde_json::{Value, json};
use std::path::Path;

const CLASS: &str = "org.apache.cloudstack.storage.command.CopyCommand";
const TEMPLATE: &str = "org.apache.cloudstack.storage.to.TemplateObjectTO";
const VOLUME: &str = "org.apache.cloudstack.storage.to.VolumeObjectTO";
const MIB: u64 = 1 << 20;

async fn copy(bench: &mut Bench, source: &Value, dest: &Value) -> Value {
    let command =
        json!({"srcTO": source, "destTO": dest, "executeInSequence": true, "options": {}, "options2": {}});
    let (class, fields) = bench.answer(CLASS, command).await;
    assert_eq!(class, "org.apache.cloudstack.storage.command.CopyCmdAnswer");
    fields
}

/// The copy must fail; gives its details.
async fn refused(bench: &mut Bench, source: &Value, dest: &Value) -> String {
    let answer = copy(bench, source, dest).await;
    assert_eq!(answer["result"], false, "{answer}");
    assert!(answer.get("newData").is_none());
    let details = answer["details"].as_str().unwrap().to_owned();
    assert!(!details.contains('\n') && !details.is_empty());
    details
}

async fn good(bench: &mut Bench, source: &Value, dest: &Value) -> Value {
    let answer = copy(bench, source, dest).await;
    assert_eq!(answer["result"], true, "{answer}");
    answer["newData"].clone()
}

async fn image(path: &Path, size: &str) {
    run(&["qemu-img", "create", "-q", "-f", "qcow2", path.to_str().unwrap(), size]).await.unwrap();
}

fn template(bench: &Bench, path: &str) -> Value {
    json!({TEMPLATE: {"path": path, "uuid": "t-uuid", "id": 202, "format": "QCOW2", "accountId": 1, "hvm": true,
        "imageDataStore": bench.store(), "name": "202-1-x", "size": 64 * MIB, "directDownload": true}})
}

fn changed(mut data: Value, class: &str, member: &str, value: Value) -> Value {
    data[class][member] = value;
    data
}

/// A template of 8 MiB, and the wish for a root disk of it.
async fn cloning(bench: &Bench) -> (Value, Value) {
    filled(&bench.pool_dir().join("t"), "8M").await;
    (template(bench, "t"), changed(bench.volume("root"), VOLUME, "path", Value::Null))
}

#[tokio::test]
async fn a_root_disk_is_an_overlay_over_its_template() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    let (from, to) = cloning(&bench).await;
    let expected = json!({VOLUME: {"path": "root", "size": 64 * MIB, "format": "QCOW2", "accountId": 0, "id": 0,
        "directDownload": false, "deployAsIs": false, "followRedirects": false}});
    for _ in 0..2 {
        assert_eq!(good(&mut bench, &from, &to).await, expected);
        assert_eq!(bench.pool_files(), ["root", "t"]);
    }
    let chain = images.backing_chain(&bench.pool_dir().join("root")).await.unwrap();
    assert_eq!((chain.len(), chain[0].virtual_size), (2, 64 * MIB));
    // A root disk smaller than its template is made as large.
    let small = changed(changed(to, VOLUME, "size", json!(512)), VOLUME, "uuid", json!("small"));
    assert_eq!(good(&mut bench, &from, &small).await[VOLUME]["size"], 8 * MIB);
}

#[tokio::test]
async fn provisioning_and_setting_make_full_copies() {
    let Some(images) = qemu_img() else { return };
    let mut bench = Bench::with_pool().await;
    let (from, to) = cloning(&bench).await;
    let sparse = changed(to.clone(), VOLUME, "provisioningType", json!("SPARSE"));
    good(&mut bench, &from, &sparse).await;
    assert_eq!(images.backing_chain(&bench.pool_dir().join("root")).await.unwrap().len(), 1);
    std::fs::write(bench.dir().join("agent.properties"), bench.properties() + "create.full.clone=true\n")
        .unwrap();
    bench.ctx.services.config.reload().await;
    let other = changed(to, VOLUME, "uuid", json!("other"));
    good(&mut bench, &from, &other).await;
    assert_eq!(images.backing_chain(&bench.pool_dir().join("other")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_encrypted_root_disk_says_so() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let (from, to) = cloning(&bench).await;
    let passphrase: Vec<i8> = b"canary-passphrase".iter().map(|byte| *byte as i8).collect();
    let to = changed(to, VOLUME, "passphrase", json!(passphrase));
    let new = good(&mut bench, &from, &to).await;
    assert_eq!((&new[VOLUME]["encryptFormat"], &new[VOLUME]["size"]), (&json!("luks"), &json!(64 * MIB)));
}

#[tokio::test]
async fn clones_that_cannot_be_leave_nothing() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let (from, to) = cloning(&bench).await;
    let gone = template(&bench, "gone");
    assert!(refused(&mut bench, &gone, &to).await.contains("gone was not found"));
    for name in ["../x", "/etc/passwd", "a b", "", ".x", "x;id"] {
        let to = changed(to.clone(), VOLUME, "uuid", json!(name));
        let details = refused(&mut bench, &from, &to).await;
        assert!(details.contains("cannot name a volume"), "{details}");
    }
    let store = json!({"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": {"uuid": "11111111-2222-3333-4444-555555555555"}});
    let nowhere = changed(from.clone(), TEMPLATE, "imageDataStore", store);
    assert!(refused(&mut bench, &nowhere, &to).await.contains("was not found"));
    // A template that wants to read a file of the host.
    let secret = bench.dir().join("secret.qcow2");
    image(&secret, "1M").await;
    overlay(&bench.pool_dir().join("evil"), &secret).await;
    let evil = template(&bench, "evil");
    assert!(refused(&mut bench, &evil, &to).await.contains("outside its storage"));
    assert_eq!(bench.pool_files(), ["evil", "t"]);
    // Another volume of that name.
    image(&bench.pool_dir().join("root"), "1M").await;
    assert!(refused(&mut bench, &from, &to).await.contains("exists already and is another volume"));
    assert_eq!(bench.pool_files(), ["evil", "root", "t"]);
}

#[tokio::test]
async fn a_full_pool_is_named_and_keeps_nothing() {
    if qemu_img().is_none() {
        return;
    }
    let Some(small) = Small::of("8m").await else { return };
    let mut bench = Bench::with_pool_at(small.directory.path()).await;
    let (from, to) = cloning(&bench).await;
    let fat = changed(to, VOLUME, "provisioningType", json!("FAT"));
    let details = refused(&mut bench, &from, &fat).await;
    assert!(details.contains("bytes and") && details.contains("are free"), "{details}");
    assert_eq!(bench.pool_files(), ["t"]);
}

#[tokio::test]
async fn an_interrupted_clone_is_no_clone() {
    if qemu_img().is_none() {
        return;
    }
    // Steps of the journal: the file, the commit.
    for at in 1..=2 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
            let (from, to) = cloning(&bench).await;
            refused(&mut bench, &from, &to).await;
            bench.ctx.services.journal.recover().await;
            assert_eq!(bench.pool_files(), ["t"], "{fault:?}");
            good(&mut bench, &from, &to).await;
        }
    }
}

#[tokio::test]
async fn a_template_comes_from_secondary_storage() {
    let Some(secondary) = Secondary::new().await else { return };
    filled(&secondary.content.path().join("x.qcow2"), "8M").await;
    let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
    let expected = json!({TEMPLATE: {"path": "t-uuid", "size": 8 * MIB, "format": "QCOW2", "accountId": 0, "hvm": false,
        "id": 0, "bootable": false, "directDownload": false, "deployAsIs": false, "followRedirects": false}});
    let to = changed(template(&bench, ""), TEMPLATE, "path", Value::Null);
    for path in ["template/tmpl/1/3/x.qcow2", "template/tmpl/1/3/"] {
        let from = changed(template(&bench, path), TEMPLATE, "imageDataStore", secondary.store());
        assert_eq!(good(&mut bench, &from, &to).await, expected);
        assert_eq!(bench.pool_files(), ["t-uuid"]);
        assert!(secondary.is_unmounted());
    }
    let log = secondary.nfs.log();
    assert!(log[0].contains("10.0.0.1:/export/secondary/template/tmpl/1/3"), "{log:?}");
    // At once as a volume.
    let from = changed(template(&bench, "a/x.qcow2"), TEMPLATE, "imageDataStore", secondary.store());
    let to = bench.volume("v");
    assert_eq!(good(&mut bench, &from, &to).await[VOLUME]["size"], 64 * MIB);
}

#[tokio::test]
async fn templates_that_do_not_come_leave_nothing() {
    let Some(secondary) = Secondary::new().await else { return };
    filled(&secondary.content.path().join("x.qcow2"), "8M").await;
    overlay(&secondary.content.path().join("evil.qcow2"), &secondary.content.path().join("x.qcow2")).await;
    let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
    let to = template(&bench, "");
    for (path, words) in [
        ("a/gone.qcow2", "was not found"),
        ("a/../../x.qcow2", "is not a path inside"),
        ("", "is not a path inside"),
        ("a/evil.qcow2", "outside its storage"),
    ] {
        let from = changed(template(&bench, path), TEMPLATE, "imageDataStore", secondary.store());
        let details = refused(&mut bench, &from, &to).await;
        assert!(details.contains(words), "{path}: {details}");
        assert!(bench.pool_files().is_empty() && secondary.is_unmounted(), "{path}");
    }
    let s3 = json!({"com.cloud.agent.api.to.S3TO": {"uuid": "u"}});
    let from = changed(template(&bench, "a/x.qcow2"), TEMPLATE, "imageDataStore", s3);
    assert!(refused(&mut bench, &from, &to).await.contains("unsupported protocol"));
}

#[tokio::test]
async fn a_volume_goes_to_secondary_storage_and_back() {
    let Some(secondary) = Secondary::new().await else { return };
    let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
    filled(&bench.pool_dir().join("t"), "8M").await;
    overlay(&bench.pool_dir().join("v"), &bench.pool_dir().join("t")).await;
    let from = bench.volume("v");
    let away = changed(
        changed(from.clone(), VOLUME, "dataStore", secondary.store()),
        VOLUME,
        "path",
        json!("volumes/2/5"),
    );
    let new = good(&mut bench, &from, &away).await;
    let path = new[VOLUME]["path"].as_str().unwrap().to_owned();
    assert!(path.starts_with("volumes/2/5/") && path.ends_with(".qcow2"), "{path}");
    assert_eq!(secondary.files(), std::slice::from_ref(&path));
    // Mounted at its own directory on the way back; the stand-in has the same content everywhere.
    std::fs::rename(secondary.content.path().join(&path), secondary.content.path().join("back.qcow2"))
        .unwrap();
    let back = changed(away, VOLUME, "path", json!("volumes/2/5/back"));
    let new = good(&mut bench, &back, &from).await;
    let name = new[VOLUME]["path"].as_str().unwrap();
    let image = qemu_img().unwrap().backing_chain(&bench.pool_dir().join(name)).await.unwrap();
    assert_eq!((image.len(), image[0].virtual_size), (1, 8 * MIB));
    assert!(secondary.is_unmounted());
}

#[tokio::test]
async fn interrupted_copies_from_secondary_storage_are_none() {
    let Some(secondary) = Secondary::new().await else { return };
    filled(&secondary.content.path().join("x.qcow2"), "8M").await;
    // Steps of the journal: the file, the commit.
    for fault in interruptions(2) {
        let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, Faults::new(fault)).await;
        let from = changed(template(&bench, "a/x.qcow2"), TEMPLATE, "imageDataStore", secondary.store());
        let to = template(&bench, "");
        refused(&mut bench, &from, &to).await;
        bench.ctx.services.journal.recover().await;
        assert!(bench.pool_files().is_empty() && secondary.is_unmounted(), "template, {fault:?}");
        good(&mut bench, &from, &to).await;
        let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, Faults::new(fault)).await;
        let from = changed(bench.volume("v"), VOLUME, "dataStore", secondary.store());
        let from = changed(from, VOLUME, "path", json!("volumes/2/5/x"));
        let to = bench.volume("v");
        refused(&mut bench, &from, &to).await;
        bench.ctx.services.journal.recover().await;
        assert!(bench.pool_files().is_empty() && secondary.is_unmounted(), "volume, {fault:?}");
        good(&mut bench, &from, &to).await;
    }
}

#[tokio::test]
async fn interrupted_copies_to_secondary_storage_are_none() {
    let Some(secondary) = Secondary::new().await else { return };
    // Steps of the journal: directory, file, commit.
    for fault in interruptions(3) {
        let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, Faults::new(fault)).await;
        filled(&bench.pool_dir().join("v"), "8M").await;
        let from = bench.volume("v");
        let to = changed(from.clone(), VOLUME, "dataStore", secondary.store());
        let to = changed(to, VOLUME, "path", json!("volumes/2/5"));
        refused(&mut bench, &from, &to).await;
        bench.ctx.services.journal.recover().await;
        assert!(secondary.is_empty() && secondary.is_unmounted(), "{fault:?}: {:?}", secondary.files());
        assert_eq!(bench.pool_files(), ["v"]);
    }
}

#[tokio::test]
async fn an_interrupted_move_between_pools_is_none() {
    if qemu_img().is_none() {
        return;
    }
    // Steps of the journal: the file, the commit.
    for fault in interruptions(2) {
        let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
        filled(&bench.pool_dir().join("v"), "8M").await;
        let other = bench.dir().join("other");
        std::fs::create_dir(&other).unwrap();
        let store = json!({"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": {"uuid": "9572a059-c161-4d90-8fb4-2cc51dcc2325",
            "poolType": "Filesystem", "path": other}});
        let from = bench.volume("v");
        let to = changed(changed(from.clone(), VOLUME, "dataStore", store), VOLUME, "path", Value::Null);
        refused(&mut bench, &from, &to).await;
        bench.ctx.services.journal.recover().await;
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0, "{fault:?}");
        assert_eq!(bench.pool_files(), ["v"]);
    }
}

#[tokio::test]
async fn a_template_is_made_of_a_volume_or_not_at_all() {
    let Some(secondary) = Secondary::new().await else { return };
    // Steps of the journal: directory, image, properties, commit.
    for fault in [Fault::None].into_iter().chain(interruptions(4)) {
        let faults = Faults::new(fault);
        let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, faults).await;
        filled(&bench.pool_dir().join("v"), "8M").await;
        let from = bench.volume("v");
        let to =
            changed(template(&bench, "template/tmpl/2/9"), TEMPLATE, "imageDataStore", secondary.store());
        if fault != Fault::None {
            refused(&mut bench, &from, &to).await;
            bench.ctx.services.journal.recover().await;
            assert!(secondary.is_empty(), "{fault:?}: {:?}", secondary.files());
            continue;
        }
        let new = good(&mut bench, &from, &to).await;
        let (path, name) = (new[TEMPLATE]["path"].as_str().unwrap(), new[TEMPLATE]["name"].as_str().unwrap());
        assert_eq!(path, format!("template/tmpl/2/9/{name}.qcow2"));
        assert_eq!((&new[TEMPLATE]["size"], &new[TEMPLATE]["format"]), (&json!(8 * MIB), &json!("QCOW2")));
        let properties = "template/tmpl/2/9/template.properties";
        assert_eq!(secondary.files(), [path, properties]);
        let text = std::fs::read_to_string(secondary.content.path().join(properties)).unwrap();
        let size = new[TEMPLATE]["physicalSize"].as_u64().unwrap();
        for line in [
            format!("uniquename={name}"),
            format!("qcow2.filename={name}.qcow2"),
            format!("qcow2.size={size}"),
            format!("qcow2.virtualsize={}", 8 * MIB),
            "id=1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        std::fs::remove_dir_all(secondary.content.path().join("template")).unwrap();
    }
}

#[tokio::test]
async fn a_volume_moves_between_pools_unless_a_guest_runs_with_it() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let path = bench.pool_dir().join("v");
    filled(&path, "8M").await;
    let other = bench.dir().join("other");
    std::fs::create_dir(&other).unwrap();
    let store = json!({"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": {"uuid": "9572a059-c161-4d90-8fb4-2cc51dcc2325",
        "poolType": "Filesystem", "path": other}});
    let from = bench.volume("v");
    let to = changed(changed(from.clone(), VOLUME, "dataStore", store), VOLUME, "path", Value::Null);
    let guest = bench.guest("i-2-3-VM", &path).await;
    assert!(refused(&mut bench, &from, &to).await.contains("is disk vda of i-2-3-VM"));
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0);
    bench.ctx.services.hypervisor.destroy(&guest).await.unwrap();
    let new = good(&mut bench, &from, &to).await;
    let name = new[VOLUME]["path"].as_str().unwrap();
    assert!(name.ends_with(".qcow2") && other.join(name).exists(), "{new}");
    assert_eq!(new[VOLUME]["format"], "QCOW2");
    // The server deletes the old one.
    assert_eq!(bench.pool_files(), ["v"]);
}

#[tokio::test]
async fn what_is_not_supported_is_said() {
    let mut bench = Bench::with_pool().await;
    let (from, to) = (template(&bench, "t"), bench.volume("v"));
    let command = json!({"srcTO": from, "destTO": to, "options": {"iqn": "/iqn/0"}});
    let answer = bench.answer(CLASS, command).await.1;
    assert!(answer["details"].as_str().unwrap().contains("managed storage"), "{answer}");
    assert!(refused(&mut bench, &from, &Value::Null).await.contains("does not say what to copy"));
    let unknown = json!({"x.Y": {}});
    assert!(refused(&mut bench, &unknown, &to).await.contains("not supported"));
}
