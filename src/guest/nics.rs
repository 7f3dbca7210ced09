//! `<interface>` elements, and which model of network card a guest gets.

use super::bus::{DiskBus, guest_disk_model};
use crate::xml::Element;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    pub bridge: String,
    pub mac: String,
    pub model: NicModel,
    /// Limit in both directions, in kilobytes per second.
    pub rate: Option<u64>,
    /// `virtio` only.
    pub queues: Option<u32>,
    /// `virtio` only: packed instead of split queues.
    pub packed: bool,
    /// Whether the guest may boot over this card.
    pub pxe: bool,
    /// If the bridge is one of Open vSwitch.
    pub ovs: Option<OvsPort>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OvsPort {
    pub interface_id: Option<String>,
    pub vlan: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicModel {
    Virtio,
    E1000,
    Rtl8139,
    Ne2kPci,
    Vmxnet3,
}

impl NicModel {
    /// The value of the detail `nicAdapter`.
    pub fn parse(text: &str) -> Option<NicModel> {
        let model = match text.to_ascii_lowercase().as_str() {
            "virtio" => NicModel::Virtio,
            "e1000" => NicModel::E1000,
            "rtl8139" => NicModel::Rtl8139,
            "ne2k_pci" => NicModel::Ne2kPci,
            "vmxnet3" => NicModel::Vmxnet3,
            _ => return None,
        };
        Some(model)
    }

    /// The model asked for, else the best that the operating system knows.
    pub fn choose(adapter: Option<&str>, platform: Option<&str>, scsi_arch: bool) -> NicModel {
        adapter.and_then(NicModel::parse).unwrap_or_else(|| {
            match guest_disk_model(platform, false, scsi_arch) {
                DiskBus::Ide => NicModel::E1000,
                _ => NicModel::Virtio,
            }
        })
    }
}

impl fmt::Display for NicModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NicModel::Virtio => "virtio",
            NicModel::E1000 => "e1000",
            NicModel::Rtl8139 => "rtl8139",
            NicModel::Ne2kPci => "ne2k_pci",
            NicModel::Vmxnet3 => "vmxnet3",
        })
    }
}

/// A network card, for a domain or to be attached by itself. No name for the host's end: libvirt's own
/// (`vnet0`) are how guests' ports are recognised.
pub fn interface(nic: &Nic) -> Element {
    let virtio = nic.model == NicModel::Virtio;
    let (queues, packed) = (nic.queues.filter(|_| virtio), nic.packed && virtio);
    let driver = (queues.is_some() || packed).then(|| {
        Element::new("driver").with_some("queues", queues).with_some("packed", packed.then_some("on"))
    });
    let limit = |direction: &str, rate: u64| Element::new(direction).with("average", rate).with("peak", rate);
    let bandwidth = nic
        .rate
        .filter(|rate| *rate > 0)
        .map(|rate| Element::new("bandwidth").child(limit("inbound", rate)).child(limit("outbound", rate)));
    // `bar='off'` alone would not do: QEMU then hands the boot code over by another way.
    let rom = (!nic.pxe).then(|| Element::new("rom").with("enabled", "no"));
    Element::new("interface")
        .with("type", "bridge")
        .child(Element::new("source").with("bridge", &nic.bridge))
        .child(Element::new("mac").with("address", &nic.mac))
        .child(Element::new("model").with("type", nic.model))
        .child_some(driver)
        .child_some(bandwidth)
        .child_some(rom)
        .children(nic.ovs.iter().flat_map(ovs))
        .child(Element::new("link").with("state", "up"))
}

fn ovs(port: &OvsPort) -> impl Iterator<Item = Element> {
    let parameters = port.interface_id.as_ref().map(|id| Element::new("parameters").with("interfaceid", id));
    let virtualport = Element::new("virtualport").with("type", "openvswitch").child_some(parameters);
    let vlan = port
        .vlan
        .filter(|vlan| (1..4095).contains(vlan))
        .map(|vlan| Element::new("vlan").with("trunk", "no").child(Element::new("tag").with("id", vlan)));
    std::iter::once(virtualport).chain(vlan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Nic {
        Nic {
            bridge: "cloudbr0".to_owned(),
            mac: "02:00:4c:5f:00:05".to_owned(),
            model: NicModel::Virtio,
            rate: None,
            queues: None,
            packed: false,
            pxe: true,
            ovs: None,
        }
    }

    #[test]
    fn models_by_wish_and_operating_system() {
        for (adapter, platform, scsi_arch, expected) in [
            (Some("VmxNet3"), Some("Ubuntu"), false, NicModel::Vmxnet3),
            (Some("unknown"), Some("Ubuntu"), false, NicModel::Virtio),
            (None, Some("Other PV"), false, NicModel::Virtio),
            (None, Some("Windows"), false, NicModel::E1000),
            (None, Some("SUSE"), true, NicModel::Virtio),
            (None, None, false, NicModel::E1000),
        ] {
            assert_eq!(NicModel::choose(adapter, platform, scsi_arch), expected, "{adapter:?} {platform:?}");
        }
    }

    #[test]
    fn a_plain_card_says_only_what_is_needed() {
        assert_eq!(
            interface(&plain()).to_string(),
            "<interface type='bridge'><source bridge='cloudbr0'/><mac address='02:00:4c:5f:00:05'/>\
             <model type='virtio'/><link state='up'/></interface>"
        );
    }

    #[test]
    fn a_card_with_everything() {
        let full = Nic {
            rate: Some(25_600),
            queues: Some(4),
            packed: true,
            pxe: false,
            ovs: Some(OvsPort { interface_id: Some("u-1".to_owned()), vlan: Some(100) }),
            ..plain()
        };
        assert_eq!(
            interface(&full).to_string(),
            "<interface type='bridge'><source bridge='cloudbr0'/><mac address='02:00:4c:5f:00:05'/>\
             <model type='virtio'/><driver queues='4' packed='on'/>\
             <bandwidth><inbound average='25600' peak='25600'/><outbound average='25600' peak='25600'/></bandwidth>\
             <rom enabled='no'/><virtualport type='openvswitch'><parameters interfaceid='u-1'/></virtualport>\
             <vlan trunk='no'><tag id='100'/></vlan><link state='up'/></interface>"
        );
    }

    #[test]
    fn queues_are_for_virtio_and_a_rate_of_zero_is_none() {
        let other = Nic { model: NicModel::E1000, queues: Some(4), packed: true, rate: Some(0), ..plain() };
        let xml = interface(&other);
        assert!(xml.at("driver").is_none() && xml.at("bandwidth").is_none(), "{xml}");
        let edge = Nic { ovs: Some(OvsPort { interface_id: None, vlan: Some(4095) }), ..plain() };
        assert!(interface(&edge).at("vlan").is_none());
    }
}
