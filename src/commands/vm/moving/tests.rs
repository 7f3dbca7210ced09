//! What moves is described by documents as libvirt gives them; real migrations are in
//! `tests/behaviour/real_migration.rs`.

use super::departure;
use super::move_storage::{MigrateDiskInfo, moved};
use crate::commands::testing::Bench;
use crate::commands::to::VirtualMachineTo;
use crate::commands::vm::launch::discs;
use crate::hypervisor::{DomainState, Guest, xml};
use crate::journal::Action;
use crate::journal::faults::{Fault, Faults};
use crate::network::testing::{in_own_network, skip};
use crate::storage::names::name_uuid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

const PREPARE: &str = "com.cloud.agent.api.PrepareForMigrationCommand";
const MIGRATE: &str = "com.cloud.agent.api.MigrateCommand";
const SECRET: &str = "6e3a1b7e-3d7c-4a47-9d6a-1f5a5d6c7b80";

/// As libvirt describes it, in short.
fn document() -> String {
    let nic = |mac: u8, bridge: &str| {
        format!(
            "<interface type='bridge'><mac address='1e:00:00:00:00:{mac:02x}'/><source bridge='{bridge}'/></interface>"
        )
    };
    let nics =
        [nic(1, "breth0-100"), nic(2, "breth0-100"), nic(3, "breth0-200"), nic(4, "cloudbr0")].concat();
    format!(
        "<domain type='kvm'><name>i-2-3-VM</name><memory>524288</memory><devices>\
         <disk type='file' device='disk'><source file='/mnt/a/root'/><target dev='vda'/></disk>\
         <disk type='file' device='disk'><source file='/mnt/a/data'><encryption format='luks'>\
         <secret type='passphrase' uuid='{SECRET}'/></encryption></source><target dev='vdb'/></disk>\
         <disk type='file' device='cdrom'><source file='/configdrive/i-2-3-VM.iso'/><target dev='hdd'/></disk>\
         {nics}</devices></domain>"
    )
}

fn guest() -> Guest {
    let description = xml::domain(&document()).unwrap();
    Guest { state: DomainState::Running, persistent: false, description }
}

fn info(serial: &str, to: &str) -> MigrateDiskInfo {
    let info = json!({"serialNumber": serial, "diskType": "FILE", "driverType": "QCOW2", "source": "FILE",
        "sourceText": to, "isSourceDiskOnStorageFileSystem": true});
    serde_json::from_value(info).unwrap()
}

fn wanted(infos: &[(&str, &str)]) -> BTreeMap<String, MigrateDiskInfo> {
    infos.iter().map(|(key, to)| ((*key).to_owned(), info(key, to))).collect()
}

#[test]
fn disks_that_cannot_move_are_named() {
    let disks = guest().description.disks;
    for (key, to, words) in [
        ("gone", "/mnt/b/x", "no disk gone"),
        ("", "/mnt/b/x", "no disk"),
        ("i-2-3-VM.iso", "/mnt/b/x", "no disk i-2-3-VM.iso"),
        ("root", "x", "path \"x\""),
        ("root", "/mnt/../etc/shadow", "path"),
    ] {
        let fault = moved(&disks, &wanted(&[(key, to)]), false).unwrap_err();
        assert!(fault.text().contains(words), "{key} {to}: {fault}");
    }
}

#[test]
fn a_guest_takes_along_what_only_it_needed() {
    let disks = wanted(&[("root", "/mnt/b/root2"), ("data", "/mnt/a/data")]);
    let moved = moved(&guest().description.disks, &disks, false).unwrap();
    let infos: Vec<MigrateDiskInfo> = disks.into_values().collect();
    let keep = BTreeMap::from([("200".to_owned(), Some(false)), ("100".to_owned(), None)]);
    let expected = [
        Action::Unplug { bridge: "breth0-100".into(), delete: true },
        Action::UndefineSecret { uuid: SECRET.into() },
        // The other one is where it is to be.
        Action::RemoveFile { path: "/mnt/a/root".into() },
    ];
    assert_eq!(departure::actions(&guest(), &moved, &infos, &keep), expected);
    // Nothing is deleted that was not copied, or that the server does not name.
    let files = |moved: &[_], infos: &[_]| {
        let actions = departure::actions(&guest(), moved, infos, &keep);
        actions.iter().any(|action| matches!(action, Action::RemoveFile { .. }))
    };
    assert!(!files(&[], &infos) && !files(&moved, &[]) && !files(&moved, &[info("", "/mnt/b/x")]));
}

fn iso(path: &str, store: Value, location: &str) -> VirtualMachineTo {
    let image =
        json!({"org.apache.cloudstack.storage.to.TemplateObjectTO": {"path": path, "imageDataStore": store}});
    let vm = json!({"name": "i-2-3-VM", "configDriveLocation": location,
        "disks": [{"data": image, "diskSeq": 3, "type": "ISO"}]});
    serde_json::from_value(vm).unwrap()
}

#[tokio::test]
async fn discs_are_at_the_same_place_on_all_hosts() {
    let bench = Bench::with_pool().await;
    let nfs = json!({"com.cloud.agent.api.to.NfsTO": {"_url": "nfs://10.0.0.9/export", "_role": "Image"}});
    let mounted = format!("/mnt/{}/x.iso", name_uuid("10.0.0.9/export/template/tmpl/1/203"));
    let pool = bench.pool_dir().join("configdrive/i-2-3-VM.iso");
    for (path, store, location, expected) in [
        ("template/tmpl/1/203/x.iso", nfs.clone(), "SECONDARY", mounted.as_str()),
        (
            "configdrive/i-2-3-VM.iso",
            bench.store(),
            "HOST",
            "/var/cache/cloud/config/configdrive/i-2-3-VM.iso",
        ),
        ("configdrive/i-2-3-VM.iso", bench.store(), "PRIMARY", pool.to_str().unwrap()),
    ] {
        let vm = iso(path, store, location);
        let disc = discs::find(&bench.ctx, &vm, &vm.disks[0]).await.unwrap().unwrap();
        assert_eq!(disc.path, PathBuf::from(expected));
    }
    let empty = iso("", nfs.clone(), "SECONDARY");
    assert_eq!(discs::find(&bench.ctx, &empty, &empty.disks[0]).await.unwrap(), None);
    for (path, store) in [("../x.iso", nfs), ("x.iso", json!({"com.cloud.agent.api.to.S3TO": {"uuid": "u"}}))]
    {
        let vm = iso(path, store, "SECONDARY");
        assert!(discs::find(&bench.ctx, &vm, &vm.disks[0]).await.is_err(), "{path}");
    }
}

fn vm(label: &str) -> Value {
    json!({"name": "i-2-3-VM", "cpus": 2, "minSpeed": 1000, "disks": [], "nics": [{"deviceId": 0, "mac": "1e:00:00:00:00:01",
        "type": "Guest", "broadcastType": "Vlan", "broadcastUri": "vlan://untagged", "name": label}]})
}

#[tokio::test]
async fn a_destination_answers_with_the_weight_that_it_gives() {
    let mut bench = Bench::new().await;
    std::fs::create_dir_all(bench.dir().join("sys/class/net/cloudbr1/bridge")).unwrap();
    for (rollback, shares) in
        [(false, json!(2000)), (false, json!(2000)), (true, Value::Null), (true, Value::Null)]
    {
        let fields = json!({"vm": vm("cloudbr1"), "rollback": rollback});
        let (class, fields) = bench.answer(PREPARE, fields).await;
        assert_eq!(class, "com.cloud.agent.api.PrepareForMigrationAnswer");
        assert_eq!((&fields["result"], &fields["newVmCpuShares"]), (&json!(true), &shares), "{fields}");
        assert_eq!(fields["dpdkInterfaceMapping"], json!({}));
    }
}

#[tokio::test]
async fn a_destination_that_lacks_something_says_what() {
    let mut bench = Bench::new().await;
    let mut named = vm("cloudbr9");
    named["name"] = json!("../x");
    for (vm, words) in [(vm("cloudbr9"), "Bridge cloudbr9 for guest traffic"), (named, "name of a guest")] {
        let (class, fields) = bench.answer(PREPARE, json!({"vm": vm, "rollback": false})).await;
        assert_eq!(class, "com.cloud.agent.api.PrepareForMigrationAnswer");
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().contains(words), "{fields}");
    }
}

#[tokio::test]
async fn a_guest_that_cannot_leave_goes_on() {
    let mut bench = Bench::with_node(super::super::node::XML).await;
    let long = "9".repeat(300);
    for (fields, words) in [
        (
            json!({"vmName": "i-2-3-VM", "destIp": "127.0.0.1"}),
            "Cannot connect to libvirt at qemu+tcp://127.0.0.1/system",
        ),
        (
            json!({"vmName": "i-2-3-VM", "destinationIp": "::1", "newVmCpuShares": 5}),
            "qemu+tcp://[::1]/system",
        ),
        (json!({"vmName": "i-2-3-VM", "destIp": "kvm2"}), "\"kvm2\" is not the IP address"),
        (json!({"vmName": "i-2-3-VM", "destIp": long}), "is not the IP address"),
        (json!({"vmName": "i-2-4-VM", "destIp": "127.0.0.1"}), "does not run on this host"),
        (json!({"vmName": "gone", "destIp": "127.0.0.1"}), "does not run on this host"),
        (json!({"vmName": "../x", "destIp": "127.0.0.1"}), "name of a guest"),
    ] {
        let (class, answer) = bench.answer(MIGRATE, fields.clone()).await;
        assert_eq!((class.as_str(), &answer["result"]), ("com.cloud.agent.api.MigrateAnswer", &json!(false)));
        assert!(answer["details"].as_str().unwrap().contains(words), "{fields}: {answer}");
        let state = bench.ctx.services.hypervisor.state("i-2-3-VM").await.unwrap();
        assert!(matches!(state, Some((DomainState::Running, _))), "{state:?}");
    }
    assert_eq!(*bench.ctx.services.journal.unfinished().borrow(), 0);
}

#[test]
fn an_interrupted_preparation_is_none() {
    in_own_network(async |net| {
        net.host().await;
        if net.try_ip("link add link lo name probe type vxlan id 1 dstport 8472").await.is_err() {
            return skip("this kernel has no VXLAN devices");
        }
        net.ip("link del probe").await;
        let before = net.devices();
        let nic = |id: u32| {
            json!({"deviceId": id, "mac": "1e:00:00:00:00:01", "type": "Guest", "broadcastType": "Vxlan",
            "broadcastUri": format!("vxlan://{id}"), "name": "cloudbr1"})
        };
        let mut vm = vm("cloudbr1");
        vm["nics"] = json!([nic(5000), nic(6000)]);
        // Steps of the journal: two bridges, commit.
        for at in 1..=3 {
            for fault in [Fault::Error { at }, Fault::Crash { at }] {
                let mut bench = Bench::with_network_and_faults(net.settings(), Faults::new(fault)).await;
                let (_, fields) = bench.answer(PREPARE, json!({"vm": vm, "rollback": false})).await;
                assert_eq!(fields["result"], false, "{fault:?}: {fields}");
                bench.ctx.services.journal.recover().await;
                assert_eq!(net.devices(), before, "{fault:?}");
            }
        }
        let mut bench = Bench::with_network_and_faults(net.settings(), Faults::default()).await;
        for (rollback, bridges) in [(false, true), (false, true), (true, false), (true, false)] {
            let (_, fields) = bench.answer(PREPARE, json!({"vm": vm, "rollback": rollback})).await;
            assert_eq!(fields["result"], true, "{fields}");
            assert_eq!(net.is_there("brvx-5000") && net.is_there("brvx-6000"), bridges);
        }
        assert_eq!(net.devices(), before);
    });
}
