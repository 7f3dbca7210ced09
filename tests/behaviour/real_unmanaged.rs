//! Guests that CloudStack does not know, or knows no more, on a real libvirt.

use crate::harness;
use crate::real::edge::{Edge, guest_name, id};
use crate::real::guest::Guest;
use crate::real::host::Host;
use crate::real::pair::{First, with_two_hosts};
use crate::real::with_libvirt;
use serde_json::{Value, json};

fn question(managed: &[&str]) -> Value {
    json!({"managedInstancesNames": managed})
}

#[test]
fn a_guest_is_offered_for_import_until_it_is_managed() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        let name = guest.name.as_str();
        guest.start().await;
        let answer = host.good("GetUnmanagedInstancesCommand", question(&["i-9-9-VM"])).await;
        let told = &answer["unmanagedInstances"][name];
        assert_eq!(
            (&told["powerState"], &told["cpuCores"], &told["memory"]),
            (&json!("PowerOn"), &json!(1), &json!(16))
        );
        let disk = &told["disks"][0];
        assert_eq!((&disk["label"], &disk["capacity"]), (&json!("vda"), &json!(4 << 20)));
        assert_eq!(disk["imagePath"], json!(guest.disk));
        assert_eq!(
            (&disk["datastoreHost"], &disk["datastorePath"]),
            (&json!("127.0.0.1"), &json!(host.node.path("pool")))
        );
        let nic = &told["nics"][0];
        assert_eq!((&nic["macAddress"], &nic["network"]), (&json!(guest.mac), &json!(guest.tap)));
        assert!(nic["pciSlot"].as_str().unwrap().parse::<u8>().unwrap() > 0, "{nic}");
        let answer = host.good("GetUnmanagedInstancesCommand", question(&[name])).await;
        assert!(answer["unmanagedInstances"].get(name).is_none());
        harness::flawless(&host.server);
    });
}

#[test]
fn a_guest_that_is_given_up_outlasts_its_run() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        let name = guest.name.as_str();
        guest.start().await;
        host.good("PrepareUnmanageVMInstanceCommand", json!({"instanceName": name})).await;
        for _ in 0..2 {
            let fields =
                json!({"instanceName": name, "executeInSequence": false, "isConfigDriveAttached": false});
            let answer = host.good("UnmanageInstanceCommand", fields).await;
            assert_eq!(answer["details"], "Successfully unmanaged");
        }
        assert_eq!(cage.virsh(&["domstate", name]).await, "running");
        guest.virsh("destroy").await;
        assert_eq!(cage.virsh(&["domstate", name]).await, "shut off");
        guest.virsh("start").await;
        guest.virsh("undefine").await;
        harness::flawless(&host.server);
    });
}

#[test]
fn a_stopped_guest_that_is_given_up_can_be_started_by_its_owner() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let name = guest_name();
        let mut root = edge.data_volume(&name, 0, 8 << 20).await;
        root.kind = "ROOT";
        let vm = edge.guest(&name, &id(), &[root]);
        let fields = json!({"instanceName": name, "executeInSequence": false, "vm": vm, "isConfigDriveAttached": false});
        edge.good("com.cloud.agent.api.UnmanageInstanceCommand", fields).await;
        assert_eq!(cage.virsh(&["domstate", &name]).await, "shut off");
        cage.virsh(&["start", &name]).await;
        cage.virsh(&["destroy", &name]).await;
        cage.virsh(&["undefine", &name]).await;
        edge.host.undisturbed();
    });
}

#[test]
fn stopped_guests_of_a_remote_host_are_listed() {
    with_two_hosts(&First::default(), async |here, there| {
        let directory = tempfile::tempdir().unwrap();
        let (runs, stopped) =
            (Guest::new(there.cage, directory.path()).await, Guest::new(there.cage, directory.path()).await);
        runs.start().await;
        std::fs::write(there.cage.file("/run/stopped.xml"), stopped.xml()).unwrap();
        there.cage.virsh(&["define", "/run/stopped.xml"]).await;
        let fields = json!({"remoteIp": there.address, "username": "root", "password": "canary"});
        let answer = here.host.good("GetRemoteVmsCommand", fields).await;
        assert_eq!(
            (&answer["remoteIp"], &answer["vmNames"]),
            (&json!(there.address), &json!([stopped.name]))
        );
        let disk = &answer["unmanagedInstances"][&stopped.name]["disks"][0];
        assert_eq!(
            (&disk["datastoreHost"], &disk["datastorePath"]),
            (&json!(there.address), &json!(directory.path()))
        );
        assert_eq!((&disk["imagePath"], &disk["capacity"]), (&json!(stopped.disk), &json!(4 << 20)));
    });
}
