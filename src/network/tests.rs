//! Bridges on a real kernel, each test in a network of its own.

use super::testing::{Net, in_own_network, skip};
use super::*;
use crate::errors::chain;
use std::os::unix::fs::PermissionsExt;

fn plan(traffic: Traffic, broadcast: Broadcast, label: Option<&str>) -> NicPlan {
    NicPlan { traffic, broadcast, label: label.map(str::to_owned), mac: "02:00:00:00:00:01".to_owned() }
}

fn guest(broadcast: Broadcast) -> NicPlan {
    plan(Traffic::Guest, broadcast, Some("cloudbr1"))
}

async fn kernel_has(net: &Net, kind: &str) -> bool {
    let made = net.try_ip(&format!("link add link lo name probe.1 type {kind}")).await.is_ok();
    if made {
        net.ip("link del probe.1").await;
    }
    made
}

/// Two kinds of network ids, of which this kernel may have one, both or none.
const VLAN: (&str, Broadcast, &str, &str) = ("vlan id 1", Broadcast::Vlan(100), "eth0.100", "breth0-100");
const VXLAN: (&str, Broadcast, &str, &str) =
    ("vxlan id 1 dstport 8472", Broadcast::Vxlan(5000), "vxlan5000", "brvx-5000");

#[test]
fn untagged_traffic_uses_the_operators_bridges() {
    in_own_network(async |net| {
        net.host().await;
        let bridges = net.bridges();
        let before = net.devices();
        for (traffic, label) in [
            (Traffic::Guest, Some("cloudbr1")),
            (Traffic::Guest, None),
            (Traffic::Management, Some("other")),
            (Traffic::Storage, None),
        ] {
            let plugged = bridges.plug(&plan(traffic, Broadcast::Native, label)).await.unwrap();
            assert_eq!((plugged.bridge.as_str(), plugged.created.len()), ("cloudbr1", 0));
        }
        let failed =
            bridges.plug(&plan(Traffic::Public, Broadcast::Native, Some("cloudbr1"))).await.unwrap_err();
        assert!(
            failed.to_string().starts_with("Bridge cloudbr0 for public traffic does not exist"),
            "{failed}"
        );
        let failed = bridges.plug(&plan(Traffic::Guest, Broadcast::Native, Some("eth0"))).await.unwrap_err();
        assert!(matches!(failed, NetworkError::NotABridge { .. }), "{failed}");
        let failed = bridges.plug(&plan(Traffic::Guest, Broadcast::Native, Some("../x"))).await.unwrap_err();
        assert!(matches!(failed, NetworkError::Name { .. }), "{failed}");
        assert_eq!(bridges.unplug("cloudbr1", true).await.unwrap(), Unplugged::NotOurs);
        assert_eq!(net.devices(), before);
    });
}

#[test]
fn a_bridge_of_a_vlan_lives_from_the_first_guest_to_the_last() {
    lives_from_first_to_last(VLAN);
}

#[test]
fn a_bridge_of_a_vxlan_lives_from_the_first_guest_to_the_last() {
    lives_from_first_to_last(VXLAN);
}

fn lives_from_first_to_last(
    (kind, broadcast, uplink, bridge): (&'static str, Broadcast, &'static str, &'static str),
) {
    in_own_network(async |net| {
        net.host().await;
        if !kernel_has(net, kind).await {
            return skip(&format!("this kernel has no devices of type {kind}"));
        }
        let bridges = net.bridges();
        let before = net.devices();
        let first = bridges.plug(&guest(broadcast)).await.unwrap();
        assert_eq!(
            (first.bridge.as_str(), first.created.as_slice()),
            (bridge, [uplink, bridge].map(str::to_owned).as_slice())
        );
        assert!(net.settings().root.join("sys/class/net").join(bridge).join("brif").join(uplink).is_dir());
        for device in [uplink, bridge] {
            let ipv6 = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"));
            assert!(ipv6.is_err() || ipv6.is_ok_and(|text| text == "1\n"), "{device}");
            assert_eq!(net.ip(&format!("-6 address show dev {device}")).await, "", "{device}");
        }
        // Again, and from many at once.
        let again = guest(broadcast);
        let (second, third) = tokio::join!(bridges.plug(&again), bridges.plug(&again));
        assert!(second.unwrap().created.is_empty() && third.unwrap().created.is_empty());

        assert_eq!(bridges.unplug(bridge, true).await.unwrap(), Unplugged::InUse { port: None });
        net.guest_on(bridge, "vnet7").await;
        drop(first);
        let in_use = Unplugged::InUse { port: Some("vnet7".to_owned()) };
        assert_eq!(bridges.unplug(bridge, true).await.unwrap(), in_use);
        net.ip("link del vnet7").await;
        assert_eq!(bridges.unplug(bridge, false).await.unwrap(), Unplugged::Persistent);
        assert!(net.is_there(bridge));
        assert_eq!(bridges.unplug(bridge, true).await.unwrap(), Unplugged::Removed);
        assert_eq!(bridges.unplug(bridge, true).await.unwrap(), Unplugged::Absent);
        assert_eq!(net.devices(), before);
        assert!(!net.ip("route show").await.contains("239."), "the multicast route stays");
    });
}

#[test]
fn many_at_once_make_one_bridge() {
    in_own_network(async |net| {
        net.host().await;
        if !kernel_has(net, VXLAN.0).await {
            return skip("this kernel has no VXLAN devices");
        }
        let bridges = net.bridges();
        let plan = guest(VXLAN.1);
        let plugs = tokio::join!(bridges.plug(&plan), bridges.plug(&plan), bridges.plug(&plan));
        let plugs = [plugs.0.unwrap(), plugs.1.unwrap(), plugs.2.unwrap()];
        assert_eq!(plugs.iter().filter(|plug| !plug.created.is_empty()).count(), 1);
    });
}

#[test]
fn undoing_removes_what_was_made_and_nothing_else() {
    in_own_network(async |net| {
        net.host().await;
        if !kernel_has(net, VXLAN.0).await {
            return skip("this kernel has no VXLAN devices");
        }
        let bridges = net.bridges();
        let before = net.devices();
        let plan = guest(VXLAN.1);
        // Two cards of one guest.
        let plugs = vec![bridges.plug(&plan).await.unwrap(), bridges.plug(&plan).await.unwrap()];
        bridges.undo(plugs).await.unwrap();
        assert_eq!(net.devices(), before);

        // Another guest came meanwhile; then it runs.
        let made = bridges.plug(&plan).await.unwrap();
        let other = bridges.plug(&plan).await.unwrap();
        bridges.undo(vec![made]).await.unwrap();
        assert!(net.is_there(VXLAN.3));
        net.guest_on(VXLAN.3, "vnet0").await;
        bridges.undo(vec![other]).await.unwrap();
        assert!(net.is_there(VXLAN.3) && net.is_there(VXLAN.2));

        // Of a bridge that was there only the uplink is taken back.
        net.ip("link del vnet0").await;
        net.ip("link del vxlan5000").await;
        let mended = bridges.plug(&plan).await.unwrap();
        assert_eq!(mended.created, ["vxlan5000"]);
        bridges.undo(vec![mended]).await.unwrap();
        assert!(net.is_there(VXLAN.3) && !net.is_there(VXLAN.2));
        assert_eq!(bridges.unplug(VXLAN.3, true).await.unwrap(), Unplugged::Removed);
    });
}

#[test]
fn a_kernel_without_vlans_is_named_and_nothing_is_left() {
    in_own_network(async |net| {
        net.host().await;
        if kernel_has(net, VLAN.0).await {
            return skip("this kernel has VLAN devices");
        }
        let before = net.devices();
        let failed = net.bridges().plug(&guest(VLAN.1)).await.unwrap_err();
        assert!(matches!(failed, NetworkError::NoVlanSupport { .. }), "{failed:?}");
        assert!(chain(&failed).contains("modprobe 8021q"), "{failed}");
        assert_eq!(net.devices(), before);
    });
}

#[test]
fn a_refusal_in_the_middle_leaves_nothing_behind() {
    in_own_network(async |net| {
        net.host().await;
        if !kernel_has(net, VXLAN.0).await {
            return skip("this kernel has no VXLAN devices");
        }
        // The kernel has one VXLAN of an id: the bridge cannot get a second one under another name.
        net.ip("link add other type vxlan id 5000 group 239.0.19.136 dev cloudbr1 dstport 8472").await;
        let before = net.devices();
        let failed = net.bridges().plug(&guest(VXLAN.1)).await.unwrap_err();
        let text = chain(&failed);
        assert!(text.starts_with("Failed to create vnet 5000") && text.contains("ip link add"), "{text}");
        assert_eq!(net.devices(), before);
    });
}

#[test]
fn what_exists_under_the_name_is_not_touched() {
    in_own_network(async |net| {
        net.host().await;
        net.ip("link add breth0-100 type veth peer name eth0.200").await;
        net.ip("link add name brvx-7 type bridge").await;
        net.ip("tuntap add dev vxlan9 mode tap").await;
        let before = net.devices();
        let bridges = net.bridges();
        for (broadcast, taken) in [
            (Broadcast::Vlan(100), "breth0-100"),
            (Broadcast::Vlan(200), "eth0.200"),
            (Broadcast::Vxlan(9), "vxlan9"),
        ] {
            let failed = bridges.plug(&guest(broadcast)).await.unwrap_err();
            assert!(matches!(&failed, NetworkError::NameTaken { name, .. } if name == taken), "{failed:?}");
        }
        if kernel_has(net, VXLAN.0).await {
            net.ip("link add vxlan8 type vxlan id 8 dstport 8472").await;
            net.ip("link set vxlan8 master brvx-7").await;
            let failed = bridges.plug(&guest(Broadcast::Vxlan(8))).await.unwrap_err();
            assert!(
                matches!(&failed, NetworkError::UplinkInUse { owner, .. } if owner == "brvx-7"),
                "{failed:?}"
            );
            net.ip("link del vxlan8").await;
        }
        assert_eq!(net.devices(), before);
    });
}

#[test]
fn what_cannot_work_is_said_before_anything_is_made() {
    in_own_network(async |net| {
        net.host().await;
        for words in ["link add enp129s0f1np1 type veth peer name p", "link add eth7 type veth peer name q"] {
            net.ip(words).await;
        }
        let before = net.devices();
        let bridges = net.bridges();
        let plug = async |broadcast, label| {
            bridges.plug(&plan(Traffic::Guest, broadcast, Some(label))).await.unwrap_err()
        };
        let long = plug(Broadcast::Vlan(1000), "enp129s0f1np1").await;
        assert!(matches!(long, NetworkError::NameTooLong { .. }), "{long}");
        let down = plug(Broadcast::Vlan(10), "eth7").await;
        assert!(matches!(down, NetworkError::PifDown { .. }), "{down}");
        let absent = plug(Broadcast::Vlan(10), "cloudbr9").await;
        assert!(matches!(absent, NetworkError::NoPif { .. }), "{absent}");
        let trunk = plug(Broadcast::Vlan(4095), "cloudbr1").await;
        assert!(matches!(trunk, NetworkError::NoTrunk { .. }), "{trunk}");
        let other = Bridges::new(Settings { bridge_type: "openvswitch".to_owned(), ..net.settings() });
        let kind = other.plug(&guest(Broadcast::Native)).await.unwrap_err();
        assert!(matches!(kind, NetworkError::BridgeKind { .. }), "{kind}");
        assert_eq!(net.devices(), before);
    });
}

#[test]
fn an_operators_bridge_with_such_a_name_is_kept() {
    in_own_network(async |net| {
        net.ip("link add name br0-1 type bridge").await;
        net.ip("link add name breth9-5 type bridge").await;
        let bridges = net.bridges();
        assert_eq!(bridges.unplug("br0-1", true).await.unwrap(), Unplugged::NotOurs);
        assert_eq!(bridges.unplug("breth9-5", true).await.unwrap(), Unplugged::NotOurs);
        assert!(net.is_there("br0-1") && net.is_there("breth9-5"));
        // One whose interface exists was ours; its uplink is gone.
        net.ip("link add eth9 type veth peer name wire9").await;
        assert_eq!(bridges.unplug("breth9-5", true).await.unwrap(), Unplugged::Removed);
    });
}

#[test]
fn the_script_for_vxlan_is_called_where_there_is_one() {
    in_own_network(async |net| {
        net.host().await;
        let script = net.scripts.path().join("modifyvxlan.sh");
        let log = net.scripts.path().join("log");
        let text = format!(
            "#!/bin/sh\necho \"$@\" >>{}\n[ $4 = 6 ] && {{ echo no such group; exit 1; }}\n\
             [ $2 = delete ] && exec ip link del vxlan$4\nip link add name $8 type bridge\n\
             [ $4 = 7 ] || exit 0\nip link add vxlan7 type vxlan id 7 dstport 8472 && ip link set vxlan7 master $8\n",
            log.display()
        );
        // Written by another process: see the helper of the commands' tests.
        std::fs::write(net.scripts.path().join("source"), text).unwrap();
        let source = net.scripts.path().join("source");
        std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o755)).unwrap();
        let copy = crate::host::exec::Program::new("/bin/cp").arg(&source).arg(&script).run().await.unwrap();
        assert!(copy.success());
        let bridges = net.bridges();
        let plugged = bridges.plug(&guest(Broadcast::Vxlan(5000))).await.unwrap();
        assert_eq!(
            (plugged.bridge.as_str(), plugged.created.as_slice()),
            ("brvx-5000", ["brvx-5000".to_owned()].as_slice())
        );
        let failed = bridges.plug(&guest(Broadcast::Vxlan(6))).await.unwrap_err();
        assert!(chain(&failed).ends_with("modifyvxlan.sh failed: no such group"), "{}", chain(&failed));
        let calls = || std::fs::read_to_string(&log).unwrap();
        assert_eq!(calls(), "-o add -v 5000 -p cloudbr1 -b brvx-5000\n-o add -v 6 -p cloudbr1 -b brvx-6\n");
        if !kernel_has(net, VXLAN.0).await {
            return;
        }
        // What the script leaves behind is removed too.
        drop(bridges.plug(&guest(Broadcast::Vxlan(7))).await.unwrap());
        assert!(net.is_there("vxlan7") && net.is_there("brvx-7"));
        assert_eq!(bridges.unplug("brvx-7", true).await.unwrap(), Unplugged::Removed);
        assert!(calls().ends_with("-o delete -v 7 -p vx -b brvx-7\n"), "{}", calls());
        assert!(!net.is_there("vxlan7") && !net.is_there("brvx-7"));
    });
}

#[test]
fn the_control_network_is_made_and_mended() {
    in_own_network(async |net| {
        net.host().await;
        net.ip("address add 169.254.77.1/16 dev eth0").await;
        let bridges = net.bridges();
        let plan = plan(Traffic::Control, Broadcast::Native, None);
        let routes = async || net.ip("route show exact 169.254.0.0/16").await;
        assert!(routes().await.contains("dev eth0"));
        for _ in 0..2 {
            let plugged = bridges.plug(&plan).await.unwrap();
            assert_eq!((plugged.bridge.as_str(), plugged.created.len()), ("cloud0", 0));
            let addresses = net.ip("-4 -o address show dev cloud0").await;
            assert_eq!(
                (addresses.lines().count(), addresses.contains("169.254.0.1/16")),
                (1, true),
                "{addresses}"
            );
            assert!(net.sys("cloud0", "flags").starts_with("0x1"));
            let routes = routes().await;
            assert_eq!((routes.lines().count(), routes.contains("dev cloud0")), (1, true), "{routes}");
        }
        // Without its route, and without its address.
        net.ip("route del 169.254.0.0/16 dev cloud0").await;
        bridges.control_network().await.unwrap();
        assert!(routes().await.contains("dev cloud0") && routes().await.contains("src 169.254.0.1"));
        net.ip("address flush dev cloud0").await;
        net.ip("link set cloud0 down").await;
        bridges.control_network().await.unwrap();
        assert!(routes().await.contains("dev cloud0"));
        assert_eq!(bridges.unplug("cloud0", true).await.unwrap(), Unplugged::NotOurs);
    });
}

#[test]
fn a_control_network_that_cannot_be_is_refused() {
    in_own_network(async |net| {
        let with = |bridge: &str, cidr: &str| {
            Bridges::new(Settings {
                control_bridge: bridge.into(),
                control_cidr: cidr.into(),
                ..net.settings()
            })
        };
        let cidr = with("cloud0", "169.254.0.0").control_network().await.unwrap_err();
        assert!(matches!(cidr, NetworkError::ControlCidr { .. }), "{cidr}");
        let taken = with("lo", "169.254.0.0/16").control_network().await.unwrap_err();
        assert!(matches!(taken, NetworkError::NotABridge { .. }), "{taken}");
        assert_eq!(net.devices(), ["lo"]);
    });
}

#[test]
fn nothing_is_started_when_all_is_there() {
    let root = tempfile::tempdir().unwrap();
    let net = root.path().join("sys/class/net");
    for dir in
        ["cloudbr1/bridge", "cloudbr1/brif/eth0", "eth0.100", "breth0-100/bridge", "breth0-100/brif/eth0.100"]
    {
        std::fs::create_dir_all(net.join(dir)).unwrap();
    }
    for device in ["eth0.100", "breth0-100"] {
        std::fs::write(net.join(device).join("flags"), "0x1003\n").unwrap();
    }
    std::os::unix::fs::symlink("../../breth0-100", net.join("eth0.100/master")).unwrap();
    let bridges = Bridges::new(Settings { root: root.path().to_owned(), ..Settings::default() });
    // Processes need the runtime's drivers, which this one does not have.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let plugged = runtime.block_on(bridges.plug(&guest(Broadcast::Vlan(100)))).unwrap();
    assert_eq!((plugged.bridge.as_str(), plugged.created.len()), ("breth0-100", 0));
    assert_eq!(bridges.vnet_bridge(&guest(Broadcast::Vlan(7))).unwrap().as_deref(), Some("breth0-7"));
    assert_eq!(bridges.vnet_bridge(&guest(Broadcast::Native)).unwrap(), None);
    assert_eq!((vnet_id("breth0-100"), vnet_id("cloudbr1")), (Some(100), None));
}

#[test]
fn bandwidth_limits_are_what_the_kernel_says() {
    in_own_network(async |net| {
        net.ip("link add eth0 type veth peer name wire0").await;
        let Some(tc) = crate::host::exec::find_program("tc") else { return skip("tc is not installed") };
        let run = async |words: &str| {
            crate::host::exec::Program::new(&tc).args(words.split(' ')).run().await.unwrap().success()
        };
        let both = run("qdisc add dev eth0 root sfq").await & run("qdisc replace dev eth0 root htb").await;
        let bridges = net.bridges();
        let found = bridges.qdisc_support().await.clone();
        assert!(both || !found.worth_trying(), "{found:?}");
        assert!(!matches!(found, QdiscSupport::Unknown(_)), "{found:?}");
        assert_eq!(net.devices(), ["eth0", "lo", "wire0"]);
    });
}
