//! Reads the XML that libvirt gives, writes the XML that it takes. No I/O.
//!
//! libvirt passes on what others wrote into it, so size, depth and element count are bounded.
//! Unknown elements and attributes are skipped: libvirt adds some with every release.

use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use thiserror::Error;
use uuid::Uuid;

/// The capabilities of a large host are some 200 KiB.
const MAX_BYTES: usize = 8 * 1024 * 1024;
const MAX_DEPTH: usize = 64;
const MAX_ELEMENTS: usize = 200_000;

#[derive(Debug, Error)]
pub enum XmlError {
    #[error("The XML is not well formed")]
    Malformed(#[from] quick_xml::Error),
    #[error("The XML is larger, deeper or has more elements than any real one")]
    TooLarge,
    #[error("The XML ends early or has no root element")]
    Truncated,
    #[error("The root element is <{found}>, not <{wanted}>")]
    WrongRoot { wanted: &'static str, found: String },
}

/// An element with everything in it. Text is that of the element alone, trimmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    attributes: Vec<(String, String)>,
    pub children: Vec<Element>,
    pub text: String,
}

impl Element {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first element along a path such as `target/path`.
    pub fn at(&self, path: &str) -> Option<&Element> {
        path.split('/').try_fold(self, |element, name| element.children.iter().find(|c| c.name == name))
    }

    /// Text along a path; `None` if empty.
    pub fn text_at(&self, path: &str) -> Option<String> {
        self.at(path).map(|element| element.text.clone()).filter(|text| !text.is_empty())
    }

    pub fn attribute_at(&self, path: &str, name: &str) -> Option<String> {
        self.at(path)?.attribute(name).map(str::to_owned)
    }
}

/// Reads a document into its root element.
pub fn parse(text: &str) -> Result<Element, XmlError> {
    if text.len() > MAX_BYTES {
        return Err(XmlError::TooLarge);
    }
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut elements = 0;
    loop {
        let closed = match reader.read_event()? {
            Event::Start(start) => {
                elements += 1;
                if open.len() >= MAX_DEPTH || elements > MAX_ELEMENTS {
                    return Err(XmlError::TooLarge);
                }
                open.push(element(&start)?);
                None
            }
            Event::Empty(start) => {
                elements += 1;
                if elements > MAX_ELEMENTS {
                    return Err(XmlError::TooLarge);
                }
                Some(element(&start)?)
            }
            Event::End(_) => open.pop(),
            Event::Text(piece) => {
                append(&mut open, &piece.xml10_content());
                None
            }
            Event::CData(piece) => {
                append(&mut open, &piece.xml10_content());
                None
            }
            Event::GeneralRef(reference) => {
                match reference.resolve_char_ref()? {
                    Some(character) => append(&mut open, character.encode_utf8(&mut [0; 4])),
                    None => append(&mut open, resolve_predefined_entity(&reference).unwrap_or_default()),
                }
                None
            }
            Event::Eof => return Err(XmlError::Truncated),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => None,
        };
        if let Some(mut done) = closed {
            done.text = done.text.trim().to_owned();
            match open.last_mut() {
                Some(parent) => parent.children.push(done),
                None => return Ok(done),
            }
        }
    }
}

fn element(start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(quick_xml::Error::from)?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0)?;
        attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
    }
    let name = start.name().as_ref().to_owned();
    Ok(Element { name, attributes, ..Element::default() })
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

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
    format!(
        "<pool type='dir'><name>{uuid}</name><uuid>{uuid}</uuid><target><path>{}</path></target></pool>",
        escape(path)
    )
}

#[cfg(test)]
mod tests;
