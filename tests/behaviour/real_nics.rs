//! Network cards of running guests come, go and move, on a real libvirtd and QEMU.

use crate::real::cage::Cage;
use crate::real::edge::{self, BRIDGE, Edge};
use crate::real::guest::Guest;
use crate::real::with_libvirt;
use crate::real_devices::{captured, fails, interrupted};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;

const PLUG: &str = "com.cloud.agent.api.PlugNicCommand";
const UNPLUG: &str = "com.cloud.agent.api.UnPlugNicCommand";
const REPLUG: &str = "com.cloud.agent.api.ReplugNicCommand";
/// The network id that tests here make a bridge for; other tests of the cage have none.
const ID: u32 = 5083;

/// A guest that gives up what is to be unplugged.
async fn guest<'a>(edge: &Edge<'a>) -> Guest<'a> {
    let guest = Guest::new(edge.cage, &edge.pool_dir()).await;
    guest.start().await;
    guest.boots().await;
    guest
}

/// One that never reacts to anything.
async fn silent<'a>(edge: &Edge<'a>) -> Guest<'a> {
    let guest = Guest::new(edge.cage, &edge.pool_dir()).await;
    guest.forgets_everything().await;
    guest.start().await;
    guest
}

/// `NicTO` of a second card.
fn nic(guest: &Guest<'_>, uri: &str) -> Value {
    let mut nic = edge::nic(&guest.name, 1);
    nic["broadcastUri"] = json!(uri);
    nic["broadcastType"] = json!(if uri.starts_with("vxlan") { "Vxlan" } else { "Vlan" });
    nic["pxeDisable"] = json!(true);
    nic
}

fn plug(guest: &Guest<'_>, nic: &Value) -> Value {
    json!({"nic": nic, "instanceName": guest.name, "vmType": "DomainRouter", "details": {}})
}

fn unplug(guest: &Guest<'_>, nic: &Value, persistence: Value) -> Value {
    json!({"nic": nic, "instanceName": guest.name, "vlanToPersistenceMap": persistence})
}

/// Tap and bridge of the guest's card.
async fn card(cage: &Cage, guest: &Guest<'_>, nic: &Value) -> Option<(String, String)> {
    let listed = cage.virsh(&["domiflist", &guest.name]).await;
    let line = listed.lines().find(|line| line.contains(nic["mac"].as_str().unwrap()))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    Some((words[0].to_owned(), words[2].to_owned()))
}

async fn is_there(cage: &Cage, device: &str) -> bool {
    cage.run(&["ip", "link", "show", device]).await.is_ok()
}

/// Whether this kernel can make a bridge for a network id.
async fn has_vxlan(cage: &Cage) -> bool {
    let probe = ["ip", "link", "add", "probe", "type", "vxlan", "id", "1", "dstport", "8472", "dev", BRIDGE];
    let has = cage.run(&probe).await.is_ok();
    if has {
        cage.run(&["ip", "link", "del", "probe"]).await.unwrap();
    } else {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: bridges of network ids in {test}: no VXLAN devices here");
    }
    has
}

#[test]
fn a_card_comes_and_goes_as_real_servers_ask_for_it() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = guest(&edge).await;
        let (mut request, their_class, theirs) = captured(PLUG).remove(0);
        request["instanceName"] = json!(guest.name);
        request["nic"]["mac"] = edge::nic(&guest.name, 1)["mac"].take();
        // Its VLAN takes a kernel with VLANs.
        request["nic"]["broadcastUri"] = json!("vlan://untagged");
        let nic = request["nic"].clone();
        let mut tap = String::new();
        for _ in 0..2 {
            let (class, answer) = edge.host.ask(PLUG, request.clone()).await;
            assert!(their_class.ends_with(&class));
            // The captured one failed since its kernel could not limit bandwidth.
            assert_eq!((&answer["result"], &answer["details"]), (&json!(true), &json!("success")));
            let names = |answer: &Value| answer.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(names(&answer), names(&theirs));
            let (device, bridge) = card(cage, &guest, &nic).await.expect("the guest has the card");
            assert!(device.starts_with("vnet") && bridge == BRIDGE, "{device} {bridge}");
            assert!(edge.taps().await.contains(&device));
            tap = device;
        }
        let xml = edge.xml(&guest.name).await.unwrap();
        assert!(xml.contains("<rom enabled='no'/>") && xml.contains("<model type='virtio'/>"), "{xml}");
        for _ in 0..2 {
            edge.good(UNPLUG, unplug(&guest, &nic, json!({"untagged": true}))).await;
            assert_eq!(card(cage, &guest, &nic).await, None);
            assert!(!edge.taps().await.contains(&tap) && is_there(cage, BRIDGE).await);
        }
        edge.host.undisturbed();
    });
}

#[test]
fn what_is_missing_is_named_and_nothing_is_changed() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = silent(&edge).await;
        let mut lost = nic(&guest, "vlan://untagged");
        lost["name"] = json!("no-such-bridge");
        let details = edge.refused(PLUG, plug(&guest, &lost), "PlugNicAnswer").await;
        assert!(
            details.contains("Bridge no-such-bridge for guest traffic does not exist: create it"),
            "{details}"
        );
        let good = nic(&guest, "vlan://untagged");
        let mut odd = plug(&guest, &good);
        odd["nic"]["mac"] = json!("ff:ff:ff:ff:ff:ff");
        let details = edge.refused(PLUG, odd, "PlugNicAnswer").await;
        assert!(details.contains("multicast"), "{details}");
        assert_eq!(cage.virsh(&["domiflist", &guest.name]).await.lines().count(), 1);

        // The guest gets it and does not give it back.
        edge.good(PLUG, plug(&guest, &good)).await;
        let mut command = unplug(&guest, &good, json!({}));
        command["wait"] = json!(2);
        let details = edge.refused(UNPLUG, command, "UnPlugNicAnswer").await;
        assert!(
            details.contains("has not given network card") && details.contains("stop the guest"),
            "{details}"
        );
        assert!(card(cage, &guest, &good).await.is_some());
        cage.virsh(&["destroy", &guest.name]).await;
        let details = edge.refused(UNPLUG, unplug(&guest, &good, json!({})), "UnPlugNicAnswer").await;
        assert!(details.contains(&format!("No guest named {}", guest.name)), "{details}");
    });
}

#[test]
fn an_interrupted_plug_is_none_and_the_bridge_goes_with_its_last_card() {
    with_libvirt(async |cage| {
        let mut edge = Edge::up(cage).await;
        let guest = guest(&edge).await;
        let (vxlan, bridge) = (has_vxlan(cage).await, format!("brvx-{ID}"));
        let nic = nic(&guest, &if vxlan { format!("vxlan://{ID}") } else { "vlan://untagged".to_owned() });
        edge.host.node.stop().await;
        // Without a bridge to be made there is a step less.
        let steps = if vxlan { 3 } else { 2 };
        for fault in (1..=steps).flat_map(|step| [format!("error:{step}"), format!("kill:{step}")]) {
            fails(&mut edge, &fault, PLUG, plug(&guest, &nic)).await;
            edge.until(&fault, async || {
                card(cage, &guest, &nic).await.is_none() && !is_there(cage, &bridge).await
            })
            .await;
            edge.host.node.stop().await;
        }
        crate::real_devices::restart(&mut edge, None).await;
        edge.good(PLUG, plug(&guest, &nic)).await;
        assert_eq!(is_there(cage, &bridge).await, vxlan);
        edge.good(UNPLUG, unplug(&guest, &nic, json!({ID.to_string(): false}))).await;
        assert_eq!(is_there(cage, &bridge).await, vxlan, "its network is persistent");
        // The card is gone; the bridge is asked for all the same.
        edge.good(UNPLUG, unplug(&guest, &nic, json!({}))).await;
        assert!(!is_there(cage, &bridge).await);
        edge.host.node.stop().await;
        for fault in ["error:1", "error:2", "kill:1", "kill:2"] {
            crate::real_devices::restart(&mut edge, None).await;
            edge.good(PLUG, plug(&guest, &nic)).await;
            edge.host.node.stop().await;
            if vxlan {
                // With nothing to undo, an end that cannot be written down is an end.
                let unplug = unplug(&guest, &nic, json!({}));
                let succeeded = interrupted(&mut edge, fault, UNPLUG, unplug).await;
                assert_eq!(succeeded, fault == "error:2", "{fault}");
            } else {
                crate::real_devices::restart(&mut edge, None).await;
            }
            edge.good(UNPLUG, unplug(&guest, &nic, json!({}))).await;
            assert!(card(cage, &guest, &nic).await.is_none() && !is_there(cage, &bridge).await, "{fault}");
            edge.host.node.stop().await;
        }
    });
}

#[test]
fn a_card_moves_to_another_network_without_the_guest() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = silent(&edge).await;
        let nic = nic(&guest, "vlan://untagged");
        edge.good(PLUG, plug(&guest, &nic)).await;
        let (tap, _) = card(cage, &guest, &nic).await.unwrap();
        let other = "replugged0";
        cage.run(&["ip", "link", "add", other, "type", "bridge"]).await.unwrap();
        for label in [other, other, BRIDGE] {
            let mut moved = plug(&guest, &nic);
            moved["nic"]["name"] = json!(label);
            edge.good(REPLUG, moved).await;
            assert_eq!(card(cage, &guest, &nic).await, Some((tap.clone(), label.to_owned())));
            let ports = cage.run(&["ip", "-o", "link", "show", "master", label]).await.unwrap();
            assert!(ports.contains(&tap), "{ports}");
        }
        let mut missing = plug(&guest, &nic);
        missing["nic"]["name"] = json!("no-such-bridge");
        let details = edge.refused(REPLUG, missing, "ReplugNicAnswer").await;
        assert!(details.contains("no-such-bridge"), "{details}");
        if has_vxlan(cage).await {
            let bridge = format!("brvx-{}", ID + 1);
            let mut tagged = plug(&guest, &nic);
            tagged["nic"]["broadcastType"] = json!("Vxlan");
            tagged["nic"]["broadcastUri"] = json!(format!("vxlan://{}", ID + 1));
            edge.good(REPLUG, tagged).await;
            assert_eq!(card(cage, &guest, &nic).await, Some((tap.clone(), bridge.clone())));
            edge.good(REPLUG, plug(&guest, &nic)).await;
            assert!(!is_there(cage, &bridge).await);
        }
        cage.run(&["ip", "link", "del", other]).await.unwrap();
    });
}

#[test]
fn an_interrupted_move_is_none() {
    with_libvirt(async |cage| {
        let mut edge = Edge::up(cage).await;
        let guest = silent(&edge).await;
        let vxlan = has_vxlan(cage).await;
        let (from, to, steps) = if vxlan {
            (format!("brvx-{}", ID + 2), format!("brvx-{}", ID + 3), 4)
        } else {
            cage.run(&["ip", "link", "add", "replugged1", "type", "bridge"]).await.unwrap();
            (BRIDGE.to_owned(), "replugged1".to_owned(), 2)
        };
        let on = |bridge: &str| match bridge.strip_prefix("brvx-") {
            Some(id) => nic(&guest, &format!("vxlan://{id}")),
            None => {
                let mut nic = nic(&guest, "vlan://untagged");
                nic["name"] = json!(bridge);
                nic
            }
        };
        edge.good(PLUG, plug(&guest, &on(&from))).await;
        let place = async || card(cage, &guest, &on(&from)).await.unwrap().1;
        edge.host.node.stop().await;
        for fault in (1..=steps).flat_map(|step| [format!("error:{step}"), format!("kill:{step}")]) {
            fails(&mut edge, &fault, REPLUG, plug(&guest, &on(&to))).await;
            // Killed when it was committed, it is finished.
            let end = if vxlan && fault == format!("kill:{steps}") { (&to, &from) } else { (&from, &to) };
            edge.until(&fault, async || place().await == *end.0 && (!vxlan || !is_there(cage, end.1).await))
                .await;
            edge.good(REPLUG, plug(&guest, &on(&to))).await;
            assert_eq!(
                (place().await, !vxlan || !is_there(cage, &from).await),
                (to.clone(), true),
                "{fault}"
            );
            edge.good(REPLUG, plug(&guest, &on(&from))).await;
            edge.host.node.stop().await;
        }
        if !vxlan {
            cage.run(&["ip", "link", "del", "replugged1"]).await.unwrap();
        }
    });
}

#[test]
fn a_new_config_drive_is_seen_with_the_new_card() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = Guest::new(cage, &edge.pool_dir()).await;
        let drive = edge.config_drive(&guest.name);
        std::fs::create_dir_all(drive.parent().unwrap()).unwrap();
        std::fs::write(&drive, vec![0; 64 << 10]).unwrap();
        let disc = format!(
            "<disk type='file' device='cdrom'><source file='{}'/><target dev='hdd' bus='ide'/></disk>",
            drive.display()
        );
        guest.start_as(&guest.xml().replace("<interface", &format!("{disc}<interface"))).await;
        let fresh = drive.with_extension("new");
        std::fs::write(&fresh, vec![0; 128 << 10]).unwrap();
        std::fs::rename(&fresh, &drive).unwrap();
        let capacity = async || guest.counter(&["domblkinfo", &guest.name, "hdd"], "Capacity:").await;
        assert_eq!(capacity().await, 64 << 10);
        let mut command = plug(&guest, &nic(&guest, "vlan://untagged"));
        command["vmType"] = json!("User");
        edge.good(PLUG, command).await;
        assert_eq!(capacity().await, 128 << 10);
    });
}
