//! Network interfaces as the server wants to know them: address, mask and MAC of a named device,
//! ports of a bridge, default gateway, and whether a network label exists on this node. Read only.
//!
//! Mirrors `NetUtils.getNicParams` and `LibvirtComputingResource.checkNetwork`. Everything but the
//! addresses is read below a root directory, so tests use fixtures.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::netlink::{InterfaceAddress, ipv4_addresses};

/// Longest interface name of Linux (IFNAMSIZ less the NUL).
const MAX_NAME: usize = 15;
/// Port names that make a bridge a physical network.
const PORT_PREFIXES: [&str; 14] =
    ["eth", "bond", "vlan", "vx", "em", "ens", "eno", "enp", "team", "enx", "dummy", "lo", "vni", "enc"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NicFacts {
    pub name: String,
    /// Lower case, with colons; absent for devices without one.
    pub mac: Option<String>,
    pub ipv4: Ipv4Addr,
    pub netmask: Ipv4Addr,
    pub prefix: u8,
}

/// Facts of the interface `name`, by its first IPv4 address that is neither loopback, link-local
/// nor multicast; for lack of one, by its first address at all. `None` without device or address.
pub fn nic(root: &Path, name: &str) -> Option<NicFacts> {
    facts(root, name, &ipv4_addresses().unwrap_or_default())
}

/// The first interface with an ordinary address, for nodes whose configured device is missing.
pub fn first_suitable(root: &Path) -> Option<NicFacts> {
    let addresses = ipv4_addresses().unwrap_or_default();
    let names = names_in(&root.join("sys/class/net"));
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| facts(root, name, &addresses))
        .filter(|nic| is_ordinary(nic.ipv4))
        .collect();
    let order = |nic: &NicFacts| addresses.iter().position(|a| a.address == nic.ipv4);
    found.sort_by_key(order);
    found.into_iter().next()
}

fn facts(root: &Path, name: &str, addresses: &[InterfaceAddress]) -> Option<NicFacts> {
    let device = device(root, name)?;
    let index: u32 = read(&device.join("ifindex"))?.parse().ok()?;
    let mut own = addresses.iter().filter(|a| a.index == index).peekable();
    let first = *own.peek()?;
    let chosen = own.find(|a| is_ordinary(a.address)).unwrap_or(first);
    Some(NicFacts {
        name: name.to_owned(),
        mac: read(&device.join("address")).map(|mac| mac.to_ascii_lowercase()),
        ipv4: chosen.address,
        netmask: netmask(chosen.prefix),
        prefix: chosen.prefix,
    })
}

/// Whether the interface `name` has exactly this address.
pub fn has_address(root: &Path, name: &str, address: Ipv4Addr) -> bool {
    let index = device(root, name).and_then(|device| read(&device.join("ifindex"))?.parse().ok());
    let own = |known: &InterfaceAddress| Some(known.index) == index && known.address == address;
    ipv4_addresses().unwrap_or_default().iter().any(own)
}

fn is_ordinary(address: Ipv4Addr) -> bool {
    !address.is_loopback() && !address.is_link_local() && !address.is_multicast() && !address.is_unspecified()
}

fn netmask(prefix: u8) -> Ipv4Addr {
    let host_bits = 32 - u32::from(prefix.min(32));
    Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}

/// Names of the ports of a bridge, sorted; `None` if `name` is not a bridge.
pub fn bridge_ports(root: &Path, name: &str) -> Option<Vec<String>> {
    let ports = checked(name).map(|name| root.join("sys/class/net").join(name).join("brif"))?;
    ports.is_dir().then(|| names_in(&ports))
}

/// Whether the traffic label `label` is usable: a bridge with at least one port of a physical kind,
/// or any other interface (mirrors the native bridge check of `checkNetwork`).
pub fn network_exists(root: &Path, label: &str) -> bool {
    match bridge_ports(root, label) {
        Some(ports) => ports.iter().any(|port| is_physical(port)),
        None => device(root, label).is_some(),
    }
}

/// Whether an interface name is of the kinds that connect a bridge to the outside.
pub fn is_physical(name: &str) -> bool {
    PORT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || is_slot_name(name)
}

/// `p<slot>p<port>`, as in p4p1.
fn is_slot_name(name: &str) -> bool {
    let Some((slot, port)) = name.strip_prefix('p').and_then(|rest| rest.split_once('p')) else {
        return false;
    };
    let starts_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    !slot.is_empty() && slot.bytes().all(|b| b.is_ascii_digit()) && starts_with_digit(port)
}

/// Gateway of the default route with the lowest metric, from /proc/net/route.
pub fn default_gateway(root: &Path) -> Option<Ipv4Addr> {
    let table = std::fs::read_to_string(root.join("proc/net/route")).ok()?;
    gateway_in(&table)
}

fn gateway_in(table: &str) -> Option<Ipv4Addr> {
    const UP_AND_GATEWAY: u32 = 0x3;
    let routes = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let destination = fields.next()?;
        let gateway = u32::from_str_radix(fields.next()?, 16).ok()?;
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let metric: u32 = fields.nth(2)?.parse().ok()?;
        let mask = fields.next()?;
        let default = destination == "00000000" && mask == "00000000";
        // The kernel prints the address as a number in its own byte order.
        (default && flags & UP_AND_GATEWAY == UP_AND_GATEWAY)
            .then(|| (metric, Ipv4Addr::from(gateway.to_ne_bytes())))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway)
}

/// Bytes received and sent by an interface since its creation.
pub fn traffic(root: &Path, name: &str) -> Option<(u64, u64)> {
    let statistics = device(root, name)?.join("statistics");
    let counter = |file: &str| read(&statistics.join(file))?.parse().ok();
    Some((counter("rx_bytes")?, counter("tx_bytes")?))
}

/// Labels come from the server: only what can be an interface name becomes part of a path.
fn checked(name: &str) -> Option<&str> {
    let sound = !name.is_empty()
        && name.len() <= MAX_NAME
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    sound.then_some(name)
}

fn device(root: &Path, name: &str) -> Option<PathBuf> {
    let path = root.join("sys/class/net").join(checked(name)?);
    // Not a file such as bonding_masters.
    path.is_dir().then_some(path)
}

fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("sys/class/net");
        for port in ["cloudbr0/brif/eth1", "cloudbr1/brif/vnet3", "br-slot/brif/p4p1", "empty/brif"] {
            std::fs::create_dir_all(net.join(port)).unwrap();
        }
        for (name, index, mac) in [("eth1", "3", "52:54:00:AB:CD:EF"), ("cloudbr0", "9", "52:54:00:00:00:01")]
        {
            std::fs::create_dir_all(net.join(name)).unwrap();
            std::fs::write(net.join(name).join("ifindex"), format!("{index}\n")).unwrap();
            std::fs::write(net.join(name).join("address"), format!("{mac}\n")).unwrap();
        }
        std::fs::write(net.join("bonding_masters"), "bond0\n").unwrap();
        root
    }

    fn address(index: u32, address: [u8; 4], prefix: u8) -> InterfaceAddress {
        InterfaceAddress { index, address: address.into(), prefix }
    }

    #[test]
    fn the_first_ordinary_address_counts() {
        let root = fixture();
        let addresses = [
            address(3, [10, 9, 9, 9], 8),
            address(9, [169, 254, 0, 1], 16),
            address(9, [10, 1, 1, 20], 26),
            address(9, [10, 1, 1, 21], 24),
        ];
        let facts = facts(root.path(), "cloudbr0", &addresses).unwrap();
        assert_eq!(
            facts,
            NicFacts {
                name: "cloudbr0".to_owned(),
                mac: Some("52:54:00:00:00:01".to_owned()),
                ipv4: Ipv4Addr::new(10, 1, 1, 20),
                netmask: Ipv4Addr::new(255, 255, 255, 192),
                prefix: 26,
            }
        );
    }

    #[test]
    fn a_named_interface_may_have_an_odd_address_but_must_have_one() {
        let root = fixture();
        let addresses = [address(3, [169, 254, 3, 3], 16)];
        let found = facts(root.path(), "eth1", &addresses).unwrap();
        assert_eq!(
            (found.ipv4, found.mac.as_deref()),
            (Ipv4Addr::new(169, 254, 3, 3), Some("52:54:00:ab:cd:ef"))
        );
        assert_eq!(facts(root.path(), "cloudbr0", &addresses), None);
        assert_eq!(facts(root.path(), "no-such", &addresses), None);
    }

    #[test]
    fn the_loopback_interface_of_this_node_can_be_named() {
        let lo = nic(Path::new("/"), "lo").unwrap();
        assert_eq!((lo.ipv4, lo.netmask), (Ipv4Addr::LOCALHOST, Ipv4Addr::new(255, 0, 0, 0)));
        let has = |name, address| has_address(Path::new("/"), name, address);
        assert!(has("lo", Ipv4Addr::LOCALHOST) && !has("lo", Ipv4Addr::new(127, 0, 0, 77)));
        assert!(!has("no-such", Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn a_label_is_a_bridge_with_a_physical_port_or_an_interface() {
        let root = fixture();
        let exists = |label| network_exists(root.path(), label);
        assert!(exists("cloudbr0") && exists("br-slot") && exists("eth1"));
        assert!(!exists("cloudbr1"), "only a guest is connected");
        assert!(!exists("empty") && !exists("no-such") && !exists("bonding_masters"));
        for hostile in ["", ".", "..", "../net", "a b", "cloudbr0/brif", "sixteen-letters-"] {
            assert!(!exists(hostile), "{hostile:?}");
        }
    }

    #[test]
    fn ports_of_a_bridge_are_listed() {
        let root = fixture();
        assert_eq!(bridge_ports(root.path(), "cloudbr0"), Some(vec!["eth1".to_owned()]));
        assert_eq!(bridge_ports(root.path(), "empty"), Some(Vec::new()));
        assert_eq!(bridge_ports(root.path(), "eth1"), None);
    }

    #[test]
    fn slot_names_have_two_numbers() {
        assert!(is_physical("p4p1") && is_physical("p10p2") && is_physical("enp3s0f1"));
        assert!(!is_physical("pp1") && !is_physical("p4") && !is_physical("vnet0") && !is_physical("p4px"));
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_wins() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
            eth1\t00000000\t0100630A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth1\t0000630A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let expected = [10, 99, 0, 1];
        assert_eq!(gateway_in(table), Some(expected.into()));
        assert_eq!(gateway_in("Iface\tDestination\n"), None);
        assert_eq!(gateway_in(""), None);
    }

    #[test]
    fn masks_follow_from_prefixes() {
        assert_eq!(netmask(0), Ipv4Addr::new(0, 0, 0, 0));
        assert_eq!(netmask(24), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(netmask(32), Ipv4Addr::new(255, 255, 255, 255));
    }
}
