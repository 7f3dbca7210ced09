//! A domain's XML document as plain values. What libvirt may add or others may write never makes
//! the rest unreadable: unknown words are kept as they are or left out.

use uuid::Uuid;

use super::rooted;
use crate::hypervisor::types::Hidden;
use crate::xml::{Element, XmlError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskDevice {
    Disk,
    Cdrom,
    Floppy,
    Other,
}

/// What a disk's content is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskKind {
    File,
    Block,
    Network,
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDescription {
    pub device: DiskDevice,
    pub kind: DiskKind,
    /// Target device in the guest, such as "vda".
    pub target: String,
    /// Such as "virtio".
    pub bus: Option<String>,
    /// File, block device, or name of a network image; absent from an empty drive.
    pub source: Option<String>,
    /// Of a network image, such as "rbd".
    pub protocol: Option<String>,
    /// Servers of a network image with their ports.
    pub hosts: Vec<(String, Option<u16>)>,
    /// Such as "qcow2".
    pub format: Option<String>,
    pub cache: Option<String>,
    pub serial: Option<String>,
    pub readonly: bool,
    /// The libvirt secret with the passphrase of an encrypted disk.
    pub secret: Option<Uuid>,
    /// What the source is based on, nearest first; libvirt tells it of running guests.
    pub backing: Vec<String>,
    /// Whether blocks that the guest discards are given back.
    pub discard: bool,
    /// libvirt's name of the device while the guest runs.
    pub alias: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceDescription {
    /// Such as "bridge" or "network".
    pub kind: String,
    /// Lower case.
    pub mac: String,
    /// Tap device on the host.
    pub target: Option<String>,
    /// Bridge, network, device or socket.
    pub source: Option<String>,
    /// Such as "virtio".
    pub model: Option<String>,
    pub pci: Option<PciAddress>,
    pub vlan: Option<u16>,
    /// `None` if nothing is said, which means up.
    pub link_up: Option<bool>,
    /// libvirt's name of the device while the guest runs.
    pub alias: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u32,
    pub slot: u32,
    pub function: u32,
}

/// What the agent needs of a domain's XML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainDescription {
    pub name: String,
    pub uuid: Option<Uuid>,
    /// Memory that the guest may use now.
    pub memory_kib: u64,
    /// Memory that it booted with, and the size of what was plugged since.
    pub max_memory_kib: u64,
    /// Whether memory can be plugged: `<maxMemory slots=...>` is there.
    pub memory_slots: Option<u32>,
    /// What it may grow to by plugging memory.
    pub memory_limit_kib: Option<u64>,
    pub vcpus: u32,
    pub max_vcpus: u32,
    pub cpu_shares: Option<u64>,
    /// Of the CPU topology, if there is one.
    pub cores_per_socket: Option<u32>,
    pub disks: Vec<DiskDescription>,
    /// In document order, which is the order of the devices in the guest.
    pub interfaces: Vec<InterfaceDescription>,
    /// Of the first graphics device; libvirt has -1 while none is assigned.
    pub vnc_port: Option<u16>,
    /// Only in documents that were asked for with secrets.
    pub vnc_password: Option<Hidden>,
    /// Model of the memory balloon, such as "virtio" or "none".
    pub balloon: Option<String>,
    /// Such as "pc-i440fx-7.2".
    pub machine: Option<String>,
    pub arch: Option<String>,
    /// UEFI firmware; none with a BIOS.
    pub loader: Option<String>,
    pub secure_boot: bool,
    pub nvram: Option<String>,
}

pub fn domain(text: &str) -> Result<DomainDescription, XmlError> {
    let root = rooted(text, "domain")?;
    let no_devices = Element::new("devices");
    let devices = root.at("devices").unwrap_or(&no_devices);
    let max_memory_kib = root.at("memory").map_or(0, kibibytes);
    let max_vcpus = root.text_at("vcpu").and_then(|count| count.parse().ok()).unwrap_or(0);
    Ok(DomainDescription {
        name: root.text_at("name").unwrap_or_default(),
        uuid: root.text_at("uuid").and_then(|uuid| Uuid::try_parse(&uuid).ok()),
        memory_kib: root.at("currentMemory").map_or(max_memory_kib, kibibytes),
        max_memory_kib,
        memory_slots: number(&root, "maxMemory", "slots"),
        memory_limit_kib: root.at("maxMemory").map(kibibytes),
        vcpus: number(&root, "vcpu", "current").unwrap_or(max_vcpus),
        max_vcpus,
        cpu_shares: root.text_at("cputune/shares").and_then(|shares| shares.parse().ok()),
        cores_per_socket: number(&root, "cpu/topology", "cores"),
        disks: devices.all("disk").filter_map(disk).collect(),
        interfaces: devices.all("interface").map(interface).collect(),
        vnc_port: number(devices, "graphics", "port").filter(|port| *port > 0),
        vnc_password: devices.attribute_at("graphics", "passwd").map(Hidden::new),
        balloon: devices.attribute_at("memballoon", "model"),
        machine: root.attribute_at("os/type", "machine"),
        arch: root.attribute_at("os/type", "arch"),
        loader: root.text_at("os/loader"),
        secure_boot: root.attribute_at("os/loader", "secure").as_deref() == Some("yes"),
        nvram: root.text_at("os/nvram"),
    })
}

/// A number in an attribute along a path.
fn number<T: std::str::FromStr>(element: &Element, path: &str, name: &str) -> Option<T> {
    element.attribute_at(path, name)?.parse().ok()
}

/// libvirt writes KiB, but what it was given may be read too, with any of its units.
fn kibibytes(element: &Element) -> u64 {
    let value: u64 = element.text.parse().unwrap_or(0);
    let bytes = match element.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => 1 << 10,
    };
    value.saturating_mul(bytes) / 1024
}

/// `None` without a target device, which libvirt demands.
fn disk(element: &Element) -> Option<DiskDescription> {
    let kind = match element.attribute("type") {
        Some("file") => DiskKind::File,
        Some("block") => DiskKind::Block,
        Some("network") => DiskKind::Network,
        other => DiskKind::Other(other.unwrap_or_default().to_owned()),
    };
    let device = match element.attribute("device") {
        // A block device is a disk whatever it calls itself.
        _ if kind == DiskKind::Block => DiskDevice::Disk,
        Some("disk") | None => DiskDevice::Disk,
        Some("cdrom") => DiskDevice::Cdrom,
        Some("floppy") => DiskDevice::Floppy,
        Some(_) => DiskDevice::Other,
    };
    let host = |host: &Element| {
        let port = host.attribute("port").and_then(|port| port.parse().ok());
        Some((host.attribute("name")?.to_owned(), port))
    };
    let secret = ["source/encryption/secret", "encryption/secret"]
        .iter()
        .find_map(|path| element.attribute_at(path, "uuid"))
        .and_then(|uuid| Uuid::try_parse(&uuid).ok());
    Some(DiskDescription {
        device,
        kind,
        target: element.attribute_at("target", "dev")?,
        bus: element.attribute_at("target", "bus"),
        source: source(element),
        protocol: element.attribute_at("source", "protocol"),
        hosts: element
            .at("source")
            .map(|source| source.all("host").filter_map(host).collect())
            .unwrap_or_default(),
        format: element.attribute_at("driver", "type"),
        cache: element.attribute_at("driver", "cache"),
        serial: element.text_at("serial"),
        readonly: element.at("readonly").is_some(),
        secret,
        backing: backing(element),
        discard: element.attribute_at("driver", "discard").as_deref() == Some("unmap"),
        alias: element.attribute_at("alias", "name"),
    })
}

/// An empty `file`, as of an ejected medium, is no source.
fn source(element: &Element) -> Option<String> {
    let source = element.at("source")?;
    let named = ["file", "dev", "name", "volume", "dir"].iter().find_map(|key| source.attribute(key));
    named.filter(|name| !name.is_empty()).map(str::to_owned)
}

fn backing(disk: &Element) -> Vec<String> {
    let mut chain = Vec::new();
    let mut layer = disk.at("backingStore");
    while let Some(store) = layer {
        chain.extend(source(store));
        layer = store.at("backingStore");
    }
    chain
}

fn interface(element: &Element) -> InterfaceDescription {
    let source = element
        .at("source")
        .and_then(|source| ["bridge", "network", "dev", "path"].iter().find_map(|key| source.attribute(key)));
    InterfaceDescription {
        kind: element.attribute("type").unwrap_or_default().to_owned(),
        mac: element.attribute_at("mac", "address").unwrap_or_default().to_ascii_lowercase(),
        target: element.attribute_at("target", "dev"),
        source: source.map(str::to_owned),
        model: element.attribute_at("model", "type"),
        pci: element.at("address").and_then(pci),
        vlan: number(element, "vlan/tag", "id"),
        link_up: element.attribute_at("link", "state").map(|state| state != "down"),
        alias: element.attribute_at("alias", "name"),
    }
}

fn pci(address: &Element) -> Option<PciAddress> {
    if address.attribute("type") != Some("pci") {
        return None;
    }
    let part = |name: &str| {
        let text = address.attribute(name).unwrap_or("0x0");
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    Some(PciAddress {
        domain: part("domain")?,
        bus: part("bus")?,
        slot: part("slot")?,
        function: part("function")?,
    })
}
