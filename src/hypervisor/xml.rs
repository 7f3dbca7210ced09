//! What the agent needs of libvirt's XML documents, as plain values. No I/O.
//!
//! libvirt passes on what others wrote into it; [`crate::xml`] bounds what is read. Unknown elements
//! and attributes are skipped: libvirt adds some with every release.

use uuid::Uuid;

use crate::xml::{Element, XmlError, parse};

fn rooted(text: &str, wanted: &'static str) -> Result<Element, XmlError> {
    let root = parse(text)?;
    if root.name == wanted { Ok(root) } else { Err(XmlError::WrongRoot { wanted, found: root.name }) }
}

/// What the agent needs of `virConnectGetCapabilities`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCapabilities {
    pub arch: String,
    pub tsc_hz: Option<u64>,
    /// Whether any guest type is fully virtualised.
    pub supports_hvm: bool,
}

pub fn capabilities(text: &str) -> Result<HostCapabilities, XmlError> {
    let root = rooted(text, "capabilities")?;
    let cpu = root.at("host/cpu");
    let tsc = cpu.and_then(|cpu| cpu.all("counter").find(|c| c.attribute("name") == Some("tsc")));
    Ok(HostCapabilities {
        arch: root.text_at("host/cpu/arch").unwrap_or_default(),
        tsc_hz: tsc.and_then(|c| c.attribute("frequency")).and_then(|f| f.parse().ok()).filter(|f| *f > 0),
        supports_hvm: root.all("guest").any(|guest| guest.text_at("os_type").as_deref() == Some("hvm")),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskDevice {
    Disk,
    Cdrom,
    Floppy,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDescription {
    pub device: DiskDevice,
    /// Target device in the guest.
    pub target: String,
    /// File, block device, or name of a network image.
    pub source: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceDescription {
    /// Lower case.
    pub mac: String,
    pub target: Option<String>,
    /// Bridge or network.
    pub source: Option<String>,
}

/// What the agent needs of a domain's XML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainDescription {
    pub disks: Vec<DiskDescription>,
    /// In document order, which is the order of the devices in the guest.
    pub interfaces: Vec<InterfaceDescription>,
    /// Of the first graphics device; libvirt has -1 while none is assigned.
    pub vnc_port: Option<u16>,
    /// Model of the memory balloon, such as "virtio" or "none".
    pub balloon: Option<String>,
}

pub fn domain(text: &str) -> Result<DomainDescription, XmlError> {
    let root = rooted(text, "domain")?;
    let Some(devices) = root.at("devices") else { return Ok(DomainDescription::default()) };
    Ok(DomainDescription {
        disks: devices.all("disk").filter_map(disk).collect(),
        interfaces: devices.all("interface").map(interface).collect(),
        vnc_port: devices.attribute_at("graphics", "port").and_then(|p| p.parse().ok()).filter(|p| *p > 0),
        balloon: devices.attribute_at("memballoon", "model"),
    })
}

fn disk(element: &Element) -> Option<DiskDescription> {
    let device = match element.attribute("device") {
        // A block device is a disk whatever it calls itself.
        _ if element.attribute("type") == Some("block") => DiskDevice::Disk,
        Some("disk") | None => DiskDevice::Disk,
        Some("cdrom") => DiskDevice::Cdrom,
        Some("floppy") => DiskDevice::Floppy,
        Some(_) => DiskDevice::Other,
    };
    let source = element.at("source").and_then(|source| {
        ["file", "dev", "name", "volume", "dir"].iter().find_map(|key| source.attribute(key))
    });
    Some(DiskDescription {
        device,
        target: element.attribute_at("target", "dev")?,
        source: source.map(str::to_owned),
    })
}

fn interface(element: &Element) -> InterfaceDescription {
    let source = element
        .at("source")
        .and_then(|source| ["bridge", "network", "dev"].iter().find_map(|key| source.attribute(key)));
    InterfaceDescription {
        mac: element.attribute_at("mac", "address").unwrap_or_default().to_ascii_lowercase(),
        target: element.attribute_at("target", "dev"),
        source: source.map(str::to_owned),
    }
}

/// What the agent needs of a storage pool's XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDescription {
    pub kind: String,
    pub path: Option<String>,
    pub source_host: Option<String>,
    pub source_dir: Option<String>,
}

pub fn pool(text: &str) -> Result<PoolDescription, XmlError> {
    let root = rooted(text, "pool")?;
    Ok(PoolDescription {
        kind: root.attribute("type").unwrap_or_default().to_owned(),
        path: root.text_at("target/path"),
        source_host: root.attribute_at("source/host", "name"),
        source_dir: root.attribute_at("source/dir", "path"),
    })
}

/// A pool over a directory, named by its id.
pub fn dir_pool(uuid: Uuid, path: &str) -> String {
    let id = uuid.to_string();
    Element::new("pool")
        .with("type", "dir")
        .child(Element::new("name").content(&id))
        .child(Element::new("uuid").content(&id))
        .child(Element::new("target").child(Element::new("path").content(path)))
        .to_string()
}

#[cfg(test)]
mod tests;
