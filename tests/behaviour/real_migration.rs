//! Guests that move between two hosts, each with its own libvirtd, QEMU and agent.

use crate::harness::{self, LIMIT};
use crate::real::guest::Guest;
use crate::real::pair::{First, Side, WIRE, with_two_hosts};
use serde_json::{Value, json};
use std::path::Path;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

const BRIDGE: &str = "brvx-5000";
const OWN: &str = "<target dev='vda' bus='virtio'/>";
const SHARED: &str = "<target dev='vda' bus='virtio'/><readonly/>";

/// `NicTO` in a VXLAN.
fn nic(guest: &Guest<'_>, label: &str) -> Value {
    json!({"deviceId": 0, "networkRateMbps": 200, "defaultNic": true, "mac": guest.mac, "broadcastType": "Vxlan",
        "type": "Guest", "broadcastUri": "vxlan://5000", "isolationUri": "vxlan://5000", "name": label,
        "isSecurityGroupEnabled": false})
}

/// `VirtualMachineTO`, as far as migrations need it.
fn vm(guest: &Guest<'_>, nics: &[Value]) -> Value {
    json!({"id": 7, "name": guest.name, "state": "Migrating", "type": "User", "cpus": 1, "minSpeed": 500, "maxSpeed": 500,
        "minRam": 16 << 20, "maxRam": 16 << 20, "arch": "x86_64", "os": "Other Linux (64-bit)", "bootArgs": "",
        "vncPassword": "moved-and-long", "params": {}, "uuid": Uuid::new_v4().to_string(), "disks": [], "nics": nics})
}

fn migrate(guest: &Guest<'_>, to: &Side<'_>) -> Value {
    json!({"vmName": guest.name, "destIp": to.address, "migrateStorage": {}, "migrateStorageManaged": false,
        "migrateNonSharedInc": false, "autoConvergence": false, "hostGuid": "g", "isWindows": false,
        "vmTO": vm(guest, &[nic(guest, WIRE)]), "executeInSequence": false, "migrateDiskInfoList": [],
        "dpdkInterfaceMapping": {}, "newVmCpuShares": 500, "vlanToPersistenceMap": {"5000": true}})
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a guest that runs here is to have.
#[derive(Default)]
struct Wish {
    /// A card in the VXLAN, whose bridge is there.
    network: bool,
    /// A disk that libvirt takes for shared: where it is read only that takes no shared file system.
    shared: bool,
}

async fn running<'a>(side: &Side<'a>, directory: &Path, wish: Wish) -> Guest<'a> {
    let guest = Guest::new(side.cage, directory).await;
    let own = format!(
        "<interface type='ethernet'><mac address='{}'/><target dev='{}'/><model type='rtl8139'/></interface>",
        guest.mac, guest.tap
    );
    let bridged = format!(
        "<interface type='bridge'><mac address='{}'/><source bridge='{BRIDGE}'/><model type='rtl8139'/></interface>",
        guest.mac
    );
    let xml = guest
        .xml()
        .replace(&own, if wish.network { &bridged } else { "" })
        .replace("<target dev='vda' bus='virtio'/>", if wish.shared { SHARED } else { OWN })
        .replace("type='qcow2'/>", "type='qcow2' cache='none'/>")
        .replace("listen='127.0.0.1'", "passwd='old' listen='127.0.0.1'");
    let file = format!("/run/{}.xml", guest.name);
    std::fs::write(side.cage.file(&file), xml).unwrap();
    side.cage.virsh(&["create", &file]).await;
    guest.boots().await;
    guest
}

/// Powers the guest off by its button, which takes a guest that really runs.
async fn shuts_down(side: &Side<'_>, guest: &str) {
    side.cage.virsh(&["shutdown", guest]).await;
    let gone = async {
        while side.state(guest).await.is_some() {
            sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("the guest does not shut down");
}

async fn refused(side: &Side<'_>, class: &str, fields: Value, answer: &str) -> String {
    let (name, fields) = side.host.ask(class, fields).await;
    assert_eq!((name.as_str(), &fields["result"]), (answer, &json!(false)), "{fields}");
    fields["details"].as_str().unwrap().to_owned()
}

#[test]
fn a_guest_moves_with_its_network() {
    with_two_hosts(&First::default(), async |here, there| {
        let directory = tempfile::tempdir().unwrap();
        here.host.good("SetupPersistentNetworkCommand", json!({"nic": probe()})).await;
        let guest = running(here, directory.path(), Wish { network: true, shared: true }).await;
        let name = guest.name.as_str();
        let cards = vm(&guest, &[nic(&guest, WIRE)]);
        let answer =
            there.host.good("PrepareForMigrationCommand", json!({"vm": cards, "rollback": false})).await;
        assert!(answer["newVmCpuShares"].as_u64().unwrap() >= 2, "{answer}");
        assert!(there.has_device(BRIDGE).await);

        here.host.good("MigrateCommand", migrate(&guest, there)).await;
        assert_eq!(here.state(name).await, None);
        assert_eq!(there.state(name).await.as_deref(), Some("running"));
        assert!(!here.has_device(BRIDGE).await, "the last guest has left the bridge");
        let xml = there.xml(name).await;
        for wanted in ["passwd='moved-an'", "listen='10.77.0.2'", "address='10.77.0.2'", BRIDGE] {
            assert!(xml.contains(wanted), "{wanted} is not in {xml}");
        }
        let ports = there.cage.run(&["ip", "-o", "link", "show", "master", BRIDGE]).await.unwrap();
        assert!(ports.contains("vnet"), "{ports}");
        there.host.node.logs("Guest has arrived from another host", 1).await;
        // Asked again by a server that lost the answer.
        let again = refused(here, "MigrateCommand", migrate(&guest, there), "MigrateAnswer").await;
        assert!(again.contains("does not run on this host"), "{again}");
        // And back, which proves that it really runs.
        let cards = vm(&guest, &[nic(&guest, WIRE)]);
        here.host.good("PrepareForMigrationCommand", json!({"vm": cards, "rollback": false})).await;
        there.host.good("MigrateCommand", migrate(&guest, here)).await;
        assert!(here.has_device(BRIDGE).await && !there.has_device(BRIDGE).await);
        shuts_down(here, name).await;
        harness::flawless(&here.host.server);
        harness::flawless(&there.host.server);
    });
}

/// A card that has the bridge of the VXLAN made.
fn probe() -> Value {
    json!({"type": "Guest", "broadcastType": "Vxlan", "broadcastUri": "vxlan://5000", "name": WIRE})
}

#[test]
fn a_guest_that_cannot_move_stays_as_it_was() {
    with_two_hosts(&First::default(), async |here, there| {
        let directory = tempfile::tempdir().unwrap();
        here.host.good("SetupPersistentNetworkCommand", json!({"nic": probe()})).await;
        let guest = running(here, directory.path(), Wish { network: true, ..Wish::default() }).await;
        let name = guest.name.as_str();
        let copy = directory.path().join("copy");
        image(there, &copy, "4M").await;
        let mut command = migrate(&guest, there);
        let info = copied(&guest.disk, &copy);
        command["migrateStorage"] = json!({text(&guest.disk): info});
        command["migrateDiskInfoList"] = json!([info]);
        here.cage.virsh(&["snapshot-create-as", name, "kept"]).await;
        // Nobody has prepared the destination.
        let told = refused(here, "MigrateCommand", command, "MigrateAnswer").await;
        assert!(guest.disk.exists());
        assert!(told.contains("stays here") && told.contains(BRIDGE), "{told}");
        assert_eq!(here.state(name).await.as_deref(), Some("running"));
        assert_eq!(there.state(name).await, None);
        assert!(here.has_device(BRIDGE).await);
        assert_eq!(here.cage.virsh(&["snapshot-list", "--name", name]).await, "kept");

        // A second network that cannot be: nothing of the first is left, nor of an encrypted disk.
        let encrypted = json!([{"data": {"org.apache.cloudstack.storage.to.VolumeObjectTO": {"path": "volume-1",
            "passphrase": [99, 97, 110]}}, "diskSeq": 1, "type": "DATADISK"}]);
        let secrets = async || there.cage.virsh(&["secret-list"]).await;
        let cards = [
            nic(&guest, WIRE),
            json!({"deviceId": 1, "mac": guest.mac, "type": "Guest",
            "broadcastType": "Vxlan", "broadcastUri": "vxlan://6000", "name": "nowhere"}),
        ];
        let mut fields = json!({"vm": vm(&guest, &cards), "rollback": false});
        fields["vm"]["disks"] = encrypted.clone();
        let told = refused(there, "PrepareForMigrationCommand", fields, "PrepareForMigrationAnswer").await;
        assert!(told.contains("nowhere"), "{told}");
        assert!(!there.has_device(BRIDGE).await);
        assert_eq!(secrets().await, "");

        // Prepared, and then not wanted.
        let mut cards = vm(&guest, &cards[..1]);
        cards["disks"] = encrypted;
        there.host.good("PrepareForMigrationCommand", json!({"vm": cards, "rollback": false})).await;
        assert!(there.has_device(BRIDGE).await);
        assert!(secrets().await.contains("volume-1"));
        for _ in 0..2 {
            there.host.good("PrepareForMigrationCommand", json!({"vm": cards, "rollback": true})).await;
            assert!(!there.has_device(BRIDGE).await && !there.has_device("vxlan5000").await);
            assert_eq!(secrets().await, "");
        }
        // What servers send after a migration that failed.
        there.host.good("PrepareForMigrationCommand", json!({"vm": cards, "rollback": false})).await;
        let stop = json!({"vmName": name, "forceStop": true, "checkBeforeCleanup": false, "isProxy": false,
            "vlanToPersistenceMap": {"5000": true}, "volumesToDisconnect": [], "executeInSequence": false});
        there.host.good("StopCommand", stop).await;
        assert!(!there.has_device(BRIDGE).await && !there.has_device("vxlan5000").await);
        shuts_down(here, name).await;
    });
}

/// `MigrateDiskInfo` for a disk that is copied to `to`.
fn copied(from: &Path, to: &Path) -> Value {
    json!({"serialNumber": from.file_name().unwrap().to_str(), "diskType": "FILE", "driverType": "QCOW2", "source": "FILE",
        "sourceText": to, "isSourceDiskOnStorageFileSystem": true})
}

async fn image(side: &Side<'_>, path: &Path, size: &str) {
    side.cage.run(&["qemu-img", "create", "-q", "-f", "qcow2", text(path), size]).await.unwrap();
}

#[test]
fn a_disk_moves_with_its_guest() {
    with_two_hosts(&First::default(), async |here, there| {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let guest = running(here, directory.path(), Wish::default()).await;
        let copy = other.path().join("copy");
        image(there, &copy, "4M").await;
        let info = copied(&guest.disk, &copy);
        let mut command = migrate(&guest, there);
        command["migrateStorage"] = json!({guest.disk.file_name().unwrap().to_str().unwrap(): info});
        command["migrateDiskInfoList"] = json!([info]);
        command["autoConvergence"] = json!(true);
        let mut odd = command.clone();
        odd["migrateStorage"] = json!({"no-such-volume": info});
        let told = refused(here, "MigrateCommand", odd, "MigrateAnswer").await;
        assert!(told.contains("no disk no-such-volume") && guest.disk.exists(), "{told}");

        here.host.good("MigrateCommand", command).await;
        assert_eq!(here.state(&guest.name).await, None);
        assert!(there.xml(&guest.name).await.contains(text(&copy)));
        assert!(!guest.disk.exists(), "the copied file is still on the source");
        shuts_down(there, &guest.name).await;
    });
}

#[test]
fn a_migration_that_takes_too_long_is_ended() {
    let lines = [("vm.migrate.speed", "1"), ("vm.migrate.pauseafter", "1000")];
    let slow = First { lines: &lines, ..First::default() };
    with_two_hosts(&slow, async |here, there| {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let guest = running(here, directory.path(), Wish { shared: true, ..Wish::default() }).await;
        here.host.good("SetHostParamsCommand", json!({"params": {"migratewait": "3"}})).await;
        let (large, copy) = (directory.path().join("large"), other.path().join("large"));
        // Random bytes are not sent any faster.
        let fill = format!(
            "head -c 64M /dev/urandom >{0}.raw && qemu-img convert -O qcow2 {0}.raw {0}",
            text(&large)
        );
        here.cage.run(&["sh", "-c", &fill]).await.unwrap();
        let options =
            ["--driver", "qemu", "--subdriver", "qcow2", "--cache", "none", "--targetbus", "virtio"];
        let attach = ["attach-disk", &guest.name, text(&large), "vdb"];
        here.cage.virsh(&[&attach[..], &options[..]].concat()).await;
        image(there, &copy, "64M").await;
        let info = copied(&large, &copy);
        let mut command = migrate(&guest, there);
        command["migrateStorage"] = json!({"large": info});
        command["migrateDiskInfoList"] = json!([info]);
        let told = refused(here, "MigrateCommand", command, "MigrateAnswer").await;
        let expected = format!(
            "Migration of VM [{}] was cancelled by CloudStack due to time out after 3 seconds.",
            guest.name
        );
        assert_eq!(told, expected);
        // Not paused any more either.
        assert_eq!(here.state(&guest.name).await.as_deref(), Some("running"));
        assert_eq!(there.state(&guest.name).await, None);
        assert!(large.exists());
        assert_eq!(here.host.node.logged("INFO", "Guest is paused until it has been migrated").len(), 1);
        shuts_down(here, &guest.name).await;
    });
}

/// A guest in the VXLAN of `here`, for which `there` is ready.
async fn about_to_move<'a>(here: &Side<'a>, there: &Side<'_>, directory: &Path) -> Guest<'a> {
    here.host.good("SetupPersistentNetworkCommand", json!({"nic": probe()})).await;
    let guest = running(here, directory, Wish { network: true, shared: true }).await;
    let cards = vm(&guest, &[nic(&guest, WIRE)]);
    there.host.good("PrepareForMigrationCommand", json!({"vm": cards, "rollback": false})).await;
    guest
}

/// Steps of the journal: resume after an error, remove the bridge, the mark that the guest has left.
#[test]
fn a_guest_that_has_left_is_never_said_to_be_here() {
    with_two_hosts(&First { fault: Some("error:3"), ..First::default() }, async |here, there| {
        let directory = tempfile::tempdir().unwrap();
        let guest = about_to_move(here, there, directory.path()).await;
        here.host.good("MigrateCommand", migrate(&guest, there)).await;
        assert_eq!(there.state(&guest.name).await.as_deref(), Some("running"));
        assert_eq!(here.state(&guest.name).await, None);
        assert_eq!(here.host.node.logged("ERROR", "Left behind by a guest that has moved").len(), 1);
    });
}

#[test]
fn an_agent_that_dies_before_a_migration_leaves_the_guest_alone() {
    for fault in ["kill:1", "kill:2", "error:2"] {
        with_two_hosts(&First { fault: Some(fault), ..First::default() }, async |here, there| {
            let directory = tempfile::tempdir().unwrap();
            let guest = about_to_move(here, there, directory.path()).await;
            let answers =
                timeout(LIMIT, here.host.send("MigrateCommand", migrate(&guest, there))).await.unwrap();
            assert!(answers.is_err() || fault.starts_with("error"), "{fault}");
            here.restart_agent().await;
            assert_eq!(here.state(&guest.name).await.as_deref(), Some("running"), "{fault}");
            assert!(here.has_device(BRIDGE).await, "{fault}");
            // The server asks anew.
            here.host.good("MigrateCommand", migrate(&guest, there)).await;
            assert!(!here.has_device(BRIDGE).await, "{fault}");
            shuts_down(there, &guest.name).await;
        });
    }
}

#[test]
fn what_a_dead_agent_has_not_tidied_up_the_next_one_does() {
    with_two_hosts(&First { fault: Some("kill:3"), ..First::default() }, async |here, there| {
        let directory = tempfile::tempdir().unwrap();
        let guest = about_to_move(here, there, directory.path()).await;
        let answers = timeout(LIMIT, here.host.send("MigrateCommand", migrate(&guest, there))).await.unwrap();
        assert!(answers.is_err(), "the agent was to die");
        assert_eq!(there.state(&guest.name).await.as_deref(), Some("running"));
        assert!(here.has_device(BRIDGE).await);
        here.restart_agent().await;
        here.host.node.logs("Bridge is removed", 1).await;
        assert!(!here.has_device(BRIDGE).await);
        shuts_down(there, &guest.name).await;
    });
}
