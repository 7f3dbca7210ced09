//! Network devices as /sys shows them. Read only, no process, no waiting: these reads are all that a
//! plug costs when everything is in place.

use super::names;
use crate::host::nic;
use std::path::{Path, PathBuf};

const IFF_UP: u32 = 1;

#[derive(Debug, Clone)]
pub(super) struct Links {
    /// `/`, or where the /sys and /proc of a test are.
    root: PathBuf,
}

impl Links {
    pub(super) fn new(root: PathBuf) -> Links {
        Links { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.join("sys/class/net").join(name)
    }

    fn read(&self, name: &str, file: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.dir(name).join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.dir(name).is_dir()
    }

    pub(super) fn is_bridge(&self, name: &str) -> bool {
        self.dir(name).join("bridge").is_dir()
    }

    pub(super) fn bridges(&self) -> Vec<String> {
        let devices = std::fs::read_dir(self.root.join("sys/class/net")).into_iter().flatten().flatten();
        let names = devices.filter_map(|device| device.file_name().into_string().ok());
        names.filter(|name| self.is_bridge(name)).collect()
    }

    pub(super) fn is_up(&self, name: &str) -> bool {
        let flags = self.read(name, "flags");
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        flags.is_some_and(|flags| flags & IFF_UP != 0)
    }

    pub(super) fn ports(&self, bridge: &str) -> Vec<String> {
        nic::bridge_ports(&self.root, bridge).unwrap_or_default()
    }

    /// The bridge that a device is a port of.
    pub(super) fn master(&self, name: &str) -> Option<String> {
        let link = std::fs::read_link(self.dir(name).join("master")).ok()?;
        link.file_name()?.to_str().map(str::to_owned)
    }

    /// What kind of device the kernel says it is: `vlan`, `vxlan`, `bridge`, ...
    fn kind(&self, name: &str) -> Option<String> {
        let facts = self.read(name, "uevent")?;
        facts.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).map(str::to_owned)
    }

    pub(super) fn is_vxlan(&self, name: &str) -> bool {
        self.kind(name).as_deref() == Some("vxlan")
    }

    /// The id of a VLAN device.
    pub(super) fn vlan_id(&self, name: &str) -> Option<u16> {
        let facts = std::fs::read_to_string(self.root.join("proc/net/vlan").join(name)).ok()?;
        facts.split_once("VID:")?.1.split_whitespace().next()?.parse().ok()
    }

    /// The device below a VLAN device.
    pub(super) fn below_vlan(&self, name: &str) -> Option<String> {
        if self.kind(name).as_deref() == Some("vlan") { self.below(name) } else { None }
    }

    /// The device that another is made on.
    pub(super) fn below(&self, name: &str) -> Option<String> {
        let entries = std::fs::read_dir(self.dir(name)).ok()?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|entry| entry.strip_prefix("lower_").map(str::to_owned)).next()
    }

    /// The physical interface of a bridge: its first port of a physical kind, and if that is a VLAN
    /// device, the one below. A name that is no such bridge stands for itself.
    pub(super) fn pif(&self, base: &str) -> Option<String> {
        let physical = self.ports(base).into_iter().find(|port| nic::is_physical(port));
        match physical {
            Some(port) => Some(self.below_vlan(&port).unwrap_or(port)),
            None => self.exists(base).then(|| base.to_owned()),
        }
    }

    /// Keeps the host's own IPv6 off a device that carries guests' traffic: it would take part in
    /// their network with a link-local address.
    pub(super) fn disable_ipv6(&self, name: &str) {
        let Ok(name) = names::checked(name) else { return };
        let file = self.root.join("proc/sys/net/ipv6/conf").join(name).join("disable_ipv6");
        // Absent where the kernel has no IPv6.
        let Ok(now) = std::fs::read_to_string(&file) else { return };
        if now.trim() == "1" {
            return;
        }
        if let Err(error) = std::fs::write(&file, "1\n") {
            tracing::warn!(device = name, %error, "IPv6 of the host stays on this device");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (tempfile::TempDir, Links) {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("sys/class/net");
        for dir in [
            "br0/bridge",
            "br0/brif/bond0.7",
            "br0/brif/vnet3",
            "bond0.7/lower_bond0",
            "br1/brif/vnet1",
            "eth5",
        ] {
            std::fs::create_dir_all(net.join(dir)).unwrap();
        }
        std::fs::write(net.join("bond0.7/uevent"), "DEVTYPE=vlan\nINTERFACE=bond0.7\nIFINDEX=4\n").unwrap();
        std::fs::write(net.join("br0/flags"), "0x1003\n").unwrap();
        std::fs::write(net.join("eth5/flags"), "0x1002\n").unwrap();
        std::os::unix::fs::symlink("../../br0", net.join("bond0.7/master")).unwrap();
        let links = Links::new(root.path().to_owned());
        (root, links)
    }

    #[test]
    fn the_physical_interface_is_below_the_vlan_device() {
        let (_root, links) = fixture();
        assert_eq!(links.pif("br0").as_deref(), Some("bond0"));
        assert_eq!(links.pif("br1").as_deref(), Some("br1"), "only a guest is connected");
        assert_eq!(links.pif("eth5").as_deref(), Some("eth5"));
        assert_eq!(links.pif("eth6"), None);
    }

    #[test]
    fn states_are_read() {
        let (root, links) = fixture();
        let vlans = root.path().join("proc/net/vlan");
        std::fs::create_dir_all(&vlans).unwrap();
        std::fs::write(vlans.join("bond0.7"), "bond0.7  VID: 7\t REORDER_HDR: 1  dev->priv_flags: 1\n")
            .unwrap();
        assert_eq!((links.vlan_id("bond0.7"), links.vlan_id("eth5")), (Some(7), None));
        assert!(links.is_bridge("br0") && links.is_up("br0"));
        assert!(!links.is_bridge("eth5") && !links.is_up("eth5") && !links.is_up("none"));
        assert_eq!(links.master("bond0.7").as_deref(), Some("br0"));
        assert_eq!(links.master("br0"), None);
        assert!(!links.is_vxlan("bond0.7") && links.below_vlan("eth5").is_none());
    }

    #[test]
    fn ipv6_is_switched_off_once() {
        let (root, links) = fixture();
        let conf = root.path().join("proc/sys/net/ipv6/conf/br0");
        std::fs::create_dir_all(&conf).unwrap();
        std::fs::write(conf.join("disable_ipv6"), "0\n").unwrap();
        links.disable_ipv6("br0");
        links.disable_ipv6("eth5");
        assert_eq!(std::fs::read_to_string(conf.join("disable_ipv6")).unwrap(), "1\n");
    }
}
