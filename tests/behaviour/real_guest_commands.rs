//! Guests started, stopped and rebooted by a server's commands, on a real libvirtd with QEMU.

use crate::harness::LIMIT;
use crate::real::edge::{BRIDGE, Edge, Volume, guest_name, id};
use crate::real::guest::boot_disk;
use crate::real::whole::{doomed, encrypted, has_device, nothing_is_left, on_vxlan, secret_of};
use crate::real::with_libvirt;
use serde_json::{Value, json};

const API: &str = "com.cloud.agent.api";
const MIB: u64 = 1 << 20;

/// A volume from which a guest boots that obeys the power button.
async fn bootable(edge: &Edge<'_>) -> Volume {
    let volume = Volume { uuid: id(), kind: "ROOT", device: 0, size: 4 * MIB };
    boot_disk(edge.cage, &edge.pool_dir().join(&volume.uuid)).await;
    volume
}

/// A volume from which nothing boots: nobody listens to the power button.
async fn empty(edge: &Edge<'_>, name: &str) -> Volume {
    let mut volume = edge.data_volume(name, 0, 8 * MIB).await;
    volume.kind = "ROOT";
    volume
}

/// Waits until the boot sector of the guest runs.
async fn boots(edge: &Edge<'_>, name: &str, reads: u64) {
    edge.until("the guest boots", async || reads_of(edge, name).await > reads).await;
}

async fn reads_of(edge: &Edge<'_>, name: &str) -> u64 {
    let printed = edge.cage.virsh(&["domblkstat", name, "hda"]).await;
    let line = printed.lines().find(|line| line.contains(" rd_req "));
    line.unwrap().split_whitespace().last().unwrap().parse().unwrap()
}

async fn stop(edge: &Edge<'_>, name: &str, force: bool) -> Value {
    let fields = json!({"vmName": name, "forceStop": force, "checkBeforeCleanup": false, "isProxy": false,
        "vlanToPersistenceMap": {"untagged": true}, "volumesToDisconnect": [], "executeInSequence": false});
    edge.good(&format!("{API}.StopCommand"), fields).await
}

async fn refused(edge: &Edge<'_>, vm: &Value) -> String {
    let fields = json!({"vm": vm, "hostIp": "127.0.0.1", "executeInSequence": false});
    edge.refused(&format!("{API}.StartCommand"), fields, "StartAnswer").await
}

#[test]
fn a_guest_starts_once_and_shuts_down_when_asked() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let name = guest_name();
        edge.make_config_drive(&name, "Zm9vYmFy").await;
        let (root, data) = (bootable(&edge).await, edge.data_volume(&name, 1, 8 * MIB).await);
        let vm = edge.guest(&name, &id(), &[root, data]);
        let answer = edge.start(&vm).await;
        assert_eq!(answer["vm"]["disks"].as_array().unwrap().len(), 4, "{answer}");
        let xml = edge.xml(&name).await.unwrap();
        for part in ["vdb", "hda", "hdc", "hdd", &format!("configdrive/{name}.iso"), BRIDGE, "type='qemu'"] {
            assert!(xml.contains(part), "{part}: {xml}");
        }
        assert_eq!(edge.start(&vm).await["result"], true, "a second start changes nothing");
        let again = edge.xml(&name).await.unwrap();
        assert_eq!(again, xml);
        boots(&edge, &name, 0).await;
        stop(&edge, &name, false).await;
        nothing_is_left(&edge, &name).await;
        let tap = xml.split("<target dev='vnet").nth(1).unwrap().split('\'').next().unwrap();
        assert!(!has_device(cage, &format!("vnet{tap}")).await, "its card is still on the bridge");
        assert!(edge.host.node.logged("WARN", "did not shut down in time").is_empty());
        // Gone already, and never known.
        stop(&edge, &name, false).await;
        stop(&edge, "i-9-999-VM", true).await;
        edge.host.undisturbed();
    });
}

#[test]
fn a_guest_that_does_not_listen_is_ended() {
    with_libvirt(async |cage| {
        let edge = Edge::with(cage, &[("stop.script.timeout", "2")]).await;
        let name = guest_name();
        let root = empty(&edge, &name).await;
        edge.start(&edge.guest(&name, &id(), &[root])).await;
        let mark = edge.host.mark();
        let (stopped, ping) = tokio::join!(
            stop(&edge, &name, false),
            edge.host
                .ping(mark, "while the guest is waited for", |ping| ping.state(&name) == Some("PowerOn"))
        );
        assert_eq!(stopped["result"], true, "{ping:?}");
        edge.host.node.logs("did not shut down in time", 1).await;
        nothing_is_left(&edge, &name).await;
        edge.host.undisturbed();
    });
}

#[test]
fn a_reboot_leaves_the_guest_running() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let name = guest_name();
        let root = bootable(&edge).await;
        let vm = edge.guest(&name, &id(), &[root]);
        edge.start(&vm).await;
        boots(&edge, &name, 0).await;
        let before = reads_of(&edge, &name).await;
        let answer = edge.good(&format!("{API}.RebootCommand"), json!({"vmName": name, "vm": vm})).await;
        assert!(answer["vncPort"].is_u64(), "{answer}");
        boots(&edge, &name, before).await;
        assert!(edge.runs(&name).await);
        stop(&edge, &name, true).await;
        nothing_is_left(&edge, &name).await;
        let gone = json!({"vmName": name});
        let details = edge.refused(&format!("{API}.RebootCommand"), gone, "RebootAnswer").await;
        assert!(details.contains("does not exist"), "{details}");
    });
}

#[test]
fn what_was_made_for_a_guest_goes_with_it() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let name = guest_name();
        let (volume, vm) = encrypted(&edge, &name).await;
        let vm = on_vxlan(vm, 71);
        let answer = edge.start(&vm).await;
        assert!(!answer.to_string().contains("115,101,99"), "the passphrase went back");
        assert!(secret_of(cage, &volume).await && has_device(cage, "brvx-71").await);
        let map =
            |delete: bool| json!({"vmName": name, "forceStop": true, "vlanToPersistenceMap": {"71": delete}});
        // The network is to stay.
        edge.good(&format!("{API}.StopCommand"), map(false)).await;
        assert!(!secret_of(cage, &volume).await && has_device(cage, "brvx-71").await);
        nothing_is_left(&edge, &name).await;
        edge.start(&vm).await;
        edge.good(&format!("{API}.StopCommand"), map(true)).await;
        assert!(!secret_of(cage, &volume).await && !has_device(cage, "brvx-71").await);
        // A guest that has ended by itself leaves its bridge to the stop that follows.
        edge.start(&vm).await;
        cage.virsh(&["destroy", &name]).await;
        assert!(has_device(cage, "brvx-71").await);
        edge.good(&format!("{API}.StopCommand"), map(true)).await;
        assert!(!has_device(cage, "brvx-71").await);
        edge.host.undisturbed();
    });
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let name = guest_name();
        let (volume, vm) = encrypted(&edge, &name).await;
        let vm = on_vxlan(vm, 72);
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut vm = vm.clone();
            change(&mut vm);
            vm
        };
        let second = |card: Value| {
            changed(&move |vm| {
                let mut nic = vm["nics"][0].clone();
                for (member, value) in card.as_object().unwrap() {
                    nic[member] = value.clone();
                }
                nic["deviceId"] = json!(1);
                vm["nics"].as_array_mut().unwrap().push(nic);
            })
        };
        let missing =
            second(json!({"broadcastType": "Native", "broadcastUri": "vlan://untagged", "name": "nobr0"}));
        let wrong = changed(&|vm| {
            vm["disks"][0]["data"]["org.apache.cloudstack.storage.to.VolumeObjectTO"]["passphrase"] =
                json!(b"wrong");
        });
        let huge = changed(&|vm| {
            for member in ["minRam", "maxRam"] {
                vm[member] = json!(1_u64 << 50);
            }
        });
        let lost = changed(&|vm| {
            vm["disks"][0]["data"]["org.apache.cloudstack.storage.to.VolumeObjectTO"]["path"] = json!(id())
        });
        for (vm, words) in [
            (missing, "Bridge nobr0 for guest traffic does not exist"),
            (lost, "was not found"),
            (wrong, "libvirt refused starting the guest"),
            (huge, "not enough memory"),
        ] {
            let details = refused(&edge, &vm).await;
            assert!(details.contains(words), "{words}: {details}");
            nothing_is_left(&edge, &name).await;
            assert!(!secret_of(cage, &volume).await, "{words}: the passphrase is left");
            assert!(!has_device(cage, "brvx-72").await, "{words}: the bridge is left");
        }
        // Where the kernel has VLANs this one starts.
        let vlan = changed(&|vm| {
            vm["nics"][0]["broadcastType"] = json!("Vlan");
            vm["nics"][0]["broadcastUri"] = json!("vlan://72");
        });
        let fields = json!({"vm": vlan, "hostIp": "127.0.0.1", "executeInSequence": false});
        let (_, answer) = edge.host.ask(&format!("{API}.StartCommand"), fields).await;
        if answer["result"] == true {
            stop(&edge, &name, true).await;
        } else {
            let details = answer["details"].as_str().unwrap();
            assert!(details.contains("modprobe 8021q"), "{details}");
        }
        nothing_is_left(&edge, &name).await;
        edge.start(&vm).await;
        let details = refused(&edge, &changed(&|vm| vm["uuid"] = json!(id()))).await;
        assert!(details.contains("Another guest with the name"), "{details}");
        edge.good(&format!("{API}.StopCommand"), json!({"vmName": name, "forceStop": true})).await;
        assert!(!has_device(cage, "brvx-72").await && !secret_of(cage, &volume).await);
        edge.host.undisturbed();
    });
}

/// Sends a command that the agent does not survive, and lets its next life deal with what is left.
async fn killed(edge: &mut Edge<'_>, class: &str, fields: &Value) {
    let answers = edge.host.send(&format!("{API}.{class}"), fields.clone());
    let answers = tokio::time::timeout(LIMIT, answers).await.expect("the connection ends");
    assert!(answers.is_err(), "{class} was answered: {answers:?}");
    edge.host.node.ended().await;
    edge.host.node.launched_by(edge.cage.launcher());
    edge.host.node.start();
    edge.host.node.is_registered().await;
    let journal = edge.host.node.path("state/journal");
    let done = async || std::fs::read_dir(&journal).unwrap().count() == 0;
    edge.until("unfinished work is dealt with", done).await;
}

#[test]
fn an_agent_that_is_killed_while_it_starts_a_guest_takes_it_back() {
    with_libvirt(async |cage| {
        let mut edge = Edge::up(cage).await;
        let name = guest_name();
        let (volume, vm) = encrypted(&edge, &name).await;
        let vm = on_vxlan(vm, 73);
        let fields = json!({"vm": vm, "hostIp": "127.0.0.1", "executeInSequence": false});
        // Steps of the journal: the passphrase, the bridge, the guest, the end.
        for step in 1..=4 {
            doomed(&mut edge, &format!("kill:{step}")).await;
            killed(&mut edge, "StartCommand", &fields).await;
            nothing_is_left(&edge, &name).await;
            assert!(!secret_of(cage, &volume).await && !has_device(cage, "brvx-73").await, "step {step}");
        }
        edge.start(&vm).await;
        edge.good(&format!("{API}.StopCommand"), json!({"vmName": name, "forceStop": true})).await;
        nothing_is_left(&edge, &name).await;
    });
}

#[test]
fn an_agent_that_is_killed_while_it_stops_a_guest_ends_it_or_leaves_it_whole() {
    with_libvirt(async |cage| {
        let mut edge = Edge::up(cage).await;
        let name = guest_name();
        let (volume, vm) = encrypted(&edge, &name).await;
        let vm = on_vxlan(vm, 74);
        let fields = json!({"vmName": name, "forceStop": true});
        // Steps of the journal: the bridge, the passphrase, the end.
        for step in 1..=3 {
            edge.start(&vm).await;
            doomed(&mut edge, &format!("kill:{step}")).await;
            killed(&mut edge, "StopCommand", &fields).await;
            let whole = step < 3;
            assert_eq!(edge.runs(&name).await, whole, "step {step}");
            let rest = (secret_of(cage, &volume).await, has_device(cage, "brvx-74").await);
            assert_eq!(rest, (whole, whole), "step {step}");
        }
        edge.good(&format!("{API}.StopCommand"), fields).await;
        nothing_is_left(&edge, &name).await;
    });
}

#[test]
fn a_system_vm_that_cannot_be_set_up_runs_on_until_the_server_stops_it() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let name = guest_name().replace("i-2", "v");
        let root = empty(&edge, &name).await;
        let mut vm = edge.guest(&name, &id(), &[root]);
        vm["type"] = json!("ConsoleProxy");
        vm["disks"].as_array_mut().unwrap().truncate(1);
        vm["bootArgs"] = json!(" template=domP type=consoleproxy keystore_password=canary");
        // No card of control traffic by which it could be reached.
        for _ in 0..2 {
            let details = refused(&edge, &vm).await;
            assert!(details.contains("no address on the control network"), "{details}");
            assert!(edge.runs(&name).await);
        }
        stop(&edge, &name, true).await;
        nothing_is_left(&edge, &name).await;
        let log = edge.host.node.log();
        assert!(
            !log.iter().any(|line| line.fields.to_string().contains("canary")),
            "boot arguments are in the log"
        );
    });
}
