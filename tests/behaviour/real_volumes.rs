//! Volumes on real images, under a real QEMU and without it.

use crate::harness::LIMIT;
use crate::real::cage::Cage;
use crate::real::guest::Guest;
use crate::real::host::Host;
use crate::real::{edge, with_libvirt};
use serde_json::{Value, json};
use std::path::PathBuf;

const API: &str = "com.cloud.agent.api.storage";
const MIB: u64 = 1 << 20;
const PASSPHRASE: &[u8] = b"canary-passphrase";
const PASSPHRASE_BASE64: &str = "Y2FuYXJ5LXBhc3NwaHJhc2U=";

fn pool_dir(host: &Host) -> PathBuf {
    host.node.path("pool")
}

/// The host's pool as `StorageFilerTO`.
fn filer(host: &Host) -> Value {
    json!({"id": 1, "uuid": host.pool.to_string(), "host": "127.0.0.1", "path": pool_dir(host), "port": 0,
        "type": "Filesystem"})
}

/// The host's pool as `PrimaryDataStoreTO` in its wrapper.
fn store(host: &Host) -> Value {
    json!({"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": {"uuid": host.pool.to_string(), "name": "local",
        "id": 1, "poolType": "Filesystem", "host": "127.0.0.1", "path": pool_dir(host), "port": 0}})
}

/// A guest that has booted from a volume of 4 MiB in the host's pool; gives the volume's name.
async fn guest<'a>(cage: &'a Cage, host: &Host) -> (Guest<'a>, String) {
    let guest = Guest::new(cage, &pool_dir(host)).await;
    guest.start().await;
    guest.boots().await;
    let name = guest.disk.file_name().unwrap().to_str().unwrap().to_owned();
    (guest, name)
}

fn resize(host: &Host, volume: &str, guest: &str, sizes: (u64, u64)) -> Value {
    json!({"path": volume, "pool": filer(host), "currentSize": sizes.0, "newSize": sizes.1, "shrinkOk": false,
        "vmInstance": guest, "managed": false, "passphrase": [], "wait": 0})
}

/// Resizes a volume; gives the size that the answer tells.
async fn resized(host: &Host, command: Value) -> u64 {
    let answer = host.good(&format!("{API}.ResizeVolumeCommand"), command).await;
    answer["newSize"].as_u64().unwrap()
}

async fn refused(host: &Host, class: &str, command: Value) -> String {
    let (name, answer) = host.ask(class, command).await;
    assert_eq!(answer["result"], false, "{name}: {answer}");
    answer["details"].as_str().unwrap().to_owned()
}

/// Size of a disk as the guest sees it.
async fn seen(guest: &Guest<'_>, cage: &Cage, device: &str) -> u64 {
    let printed = cage.virsh(&["domblkinfo", &guest.name, device]).await;
    let line = printed.lines().find(|line| line.starts_with("Capacity:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// What the header of an image says.
async fn header(cage: &Cage, path: &std::path::Path) -> Value {
    let words = ["qemu-img", "info", "-U", "--output=json", path.to_str().unwrap()];
    serde_json::from_str(&cage.run(&words).await.unwrap()).unwrap()
}

#[test]
fn a_volume_grows_under_its_guest_and_without_it() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let (guest, volume) = guest(cage, &host).await;
        let to = |size: u64| resize(&host, &volume, &guest.name, (4 * MIB, size));
        for _ in 0..2 {
            assert_eq!(resized(&host, to(8 * MIB)).await, 8 * MIB);
            assert_eq!(seen(&guest, cage, "vda").await, 8 * MIB);
        }
        let class = format!("{API}.ResizeVolumeCommand");
        let details = refused(&host, &class, to(5 * MIB)).await;
        assert!(details.contains("stop the guest first"), "{details}");
        // A layer below what the guest writes to.
        cage.virsh(&["snapshot-create-as", &guest.name, "s", "--disk-only", "--no-metadata"]).await;
        let details = refused(&host, &class, to(16 * MIB)).await;
        assert!(details.contains(&format!("is below disk vda of {}", guest.name)), "{details}");
        let overlay = format!("{volume}.s");
        let grow = resize(&host, &overlay, &guest.name, (8 * MIB, 16 * MIB));
        assert_eq!(resized(&host, grow).await, 16 * MIB);
        assert_eq!(seen(&guest, cage, "vda").await, 16 * MIB);
        guest.virsh("destroy").await;
        let grow = resize(&host, &overlay, &guest.name, (16 * MIB, 24 * MIB));
        assert_eq!(resized(&host, grow).await, 24 * MIB);
        assert_eq!(header(cage, &pool_dir(&host).join(&overlay)).await["virtual-size"], 24 * MIB);
        host.undisturbed();
    });
}

#[test]
fn an_encrypted_volume_grows_under_its_guest_and_without_it() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let (guest, _) = guest(cage, &host).await;
        let (volume, secret) = (edge::id(), edge::id());
        let data = json!({"org.apache.cloudstack.storage.to.VolumeObjectTO": {"uuid": volume, "volumeType": "DATADISK",
            "dataStore": store(&host), "size": 8 * MIB, "format": "QCOW2", "provisioningType": "THIN", "passphrase": PASSPHRASE}});
        host.good("org.apache.cloudstack.storage.command.CreateObjectCommand", json!({"data": data})).await;
        let path = pool_dir(&host).join(&volume);
        let shown = path.display();
        let file = |name: &str, xml: String| {
            let inside = format!("/run/{name}-{volume}.xml");
            std::fs::write(cage.file(&inside), xml).unwrap();
            inside
        };
        let usage = format!(
            "<secret ephemeral='yes' private='yes'><uuid>{secret}</uuid><usage type='volume'><volume>{shown}</volume></usage></secret>"
        );
        cage.virsh(&["secret-define", &file("secret", usage)]).await;
        cage.virsh(&["secret-set-value", &secret, PASSPHRASE_BASE64]).await;
        let disk = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{shown}'>\
             <encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption></source>\
             <target dev='vdb' bus='virtio'/></disk>"
        );
        cage.virsh(&["attach-device", &guest.name, &file("disk", disk)]).await;
        let command = |size: u64| {
            let mut command = resize(&host, &volume, &guest.name, (8 * MIB, size));
            command["passphrase"] = json!(PASSPHRASE);
            command
        };
        assert_eq!(resized(&host, command(12 * MIB)).await, 12 * MIB);
        assert_eq!(seen(&guest, cage, "vdb").await, 12 * MIB);
        guest.virsh("destroy").await;
        assert_eq!(resized(&host, command(20 * MIB)).await, 20 * MIB);
        let header = header(cage, &path).await;
        assert_eq!((&header["virtual-size"], &header["encrypted"]), (&json!(20 * MIB), &json!(true)));
        let log = format!("{:?}", host.node.log());
        assert!(!log.contains("canary-passphrase"), "the log has the passphrase");
    });
}

/// A second pool of the host.
struct Second {
    uuid: String,
    directory: PathBuf,
}

impl Second {
    fn new(host: &Host) -> Second {
        let directory = host.node.path("second");
        std::fs::create_dir(&directory).unwrap();
        Second { uuid: edge::id(), directory }
    }

    /// Moves a guest's volume here, under `name` or one of the agent's own.
    fn command(&self, host: &Host, guest: &str, volume: &str, name: Option<&str>) -> Value {
        let data = |store: Value, path: Option<&str>| {
            json!({"org.apache.cloudstack.storage.to.VolumeObjectTO": {"uuid": volume, "volumeType": "ROOT", "dataStore": store,
                "size": 4 * MIB, "path": path, "format": "QCOW2", "vmName": guest, "provisioningType": "THIN", "passphrase": []}})
        };
        let here = json!({"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": {"uuid": self.uuid, "name": "second",
            "id": 2, "poolType": "Filesystem", "host": "127.0.0.1", "path": self.directory, "port": 0}});
        json!({"volumeId": 5, "volumePath": volume, "attachedVmName": guest, "volumeType": "ROOT",
            "srcData": data(store(host), Some(volume)), "destData": data(here, name), "wait": 60})
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.directory).unwrap().map(Result::unwrap);
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }
}

/// The file that the guest's first disk writes to.
async fn source(guest: &Guest<'_>, cage: &Cage) -> PathBuf {
    let printed = cage.virsh(&["domblklist", &guest.name]).await;
    let line = printed.lines().find(|line| line.split_whitespace().next() == Some("vda")).unwrap();
    line.split_whitespace().last().unwrap().into()
}

#[test]
fn the_disk_of_a_running_guest_moves_to_another_pool() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let (guest, volume) = guest(cage, &host).await;
        cage.virsh(&["snapshot-create-as", &guest.name, "s", "--disk-only", "--no-metadata"]).await;
        let (overlay, second) = (format!("{volume}.s"), Second::new(&host));
        let class = format!("{API}.MigrateVolumeCommand");
        let below = second.command(&host, &guest.name, &volume, None);
        let details = refused(&host, &class, below).await;
        assert!(details.contains("is below disk vda"), "{details}");
        assert!(second.files().is_empty());
        // Twice, as after a lost connection.
        for _ in 0..2 {
            let command = second.command(&host, &guest.name, &overlay, Some("moved"));
            assert_eq!(host.good(&class, command).await["volumePath"], "moved");
            assert_eq!(source(&guest, cage).await, second.directory.join("moved"));
            assert_eq!(second.files(), ["moved"]);
        }
        let header = header(cage, &second.directory.join("moved")).await;
        assert_eq!((&header["virtual-size"], header.get("backing-filename")), (&json!(4 * MIB), None));
        // A stale image is not copied for a guest that has left it.
        let again = second.command(&host, &guest.name, &overlay, None);
        let details = refused(&host, &class, again).await;
        assert!(details.contains("runs without this volume"), "{details}");
        for old in [&overlay, &volume] {
            let data = json!({"org.apache.cloudstack.storage.to.VolumeObjectTO": {"uuid": old, "path": old, "dataStore": store(&host)}});
            host.good("org.apache.cloudstack.storage.command.DeleteCommand", json!({"data": data})).await;
        }
        assert!(!guest.disk.exists());
        guest.shuts_itself_down().await;
        host.undisturbed();
    });
}

#[test]
fn a_move_that_is_interrupted_at_any_step_leaves_the_guest_on_one_whole_disk() {
    with_libvirt(async |cage| {
        let mut host = Host::new(cage).await;
        let second = Second::new(&host);
        let (guest, volume) = guest(cage, &host).await;
        let class = format!("{API}.MigrateVolumeCommand");
        // Steps of the journal: the copy, the move, the copy's undo forgotten, the commit.
        let faults = ["error", "kill"].iter().flat_map(|kind| (1..=4).map(move |at| format!("{kind}:{at}")));
        for fault in faults {
            let launcher = [cage.launcher(), vec!["env".into(), format!("AGENT_FAULT={fault}")]].concat();
            host.node.launched_by(launcher);
            host.node.start();
            host.node.is_registered().await;
            let command = second.command(&host, &guest.name, &volume, Some("moved"));
            let answer = tokio::time::timeout(LIMIT, host.send(&class, command)).await.expect("no answer");
            if fault.starts_with("kill") {
                assert!(answer.is_err(), "{fault}: the agent lives");
                host.node.ended().await;
                host.node.launched_by(cage.launcher());
                host.node.start();
            } else {
                let answer: Value = answer.unwrap().elements[0].read().unwrap();
                assert_eq!(answer["result"], false, "{fault}: {answer}");
            }
            let journal = host.node.path("state/journal");
            host.node.until("all is undone", |_| std::fs::read_dir(&journal).unwrap().count() == 0).await;
            let moved = second.directory.join("moved");
            let commit = fault.ends_with('4');
            let expected = if commit { &moved } else { &guest.disk };
            assert_eq!(source(&guest, cage).await, *expected, "{fault}");
            assert_eq!(moved.exists(), commit, "{fault}");
            assert!(!cage.virsh(&["blockjob", &guest.name, "vda"]).await.contains("Block Copy"), "{fault}");
            if commit {
                // The guest is where the command would have brought it: start over.
                guest.virsh("destroy").await;
                std::fs::remove_file(moved).unwrap();
                guest.start().await;
                guest.boots().await;
            }
            host.node.stop().await;
        }
        guest.shuts_itself_down().await;
    });
}
