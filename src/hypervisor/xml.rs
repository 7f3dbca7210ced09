//! What the agent needs of libvirt's XML documents, as plain values. No I/O.
//!
//! libvirt passes on what others wrote into it; [`crate::xml`] bounds what is read. Unknown elements
//! and attributes are skipped: libvirt adds some with every release.

mod devices;
mod domain;
mod snapshots;

use uuid::Uuid;

pub use devices::*;
pub use domain::*;
pub use snapshots::*;

use super::pools::NetfsPool;
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

/// A pool that libvirt mounts from an NFS server.
pub fn netfs_pool(pool: &NetfsPool) -> String {
    const OPTIONS: &str = "http://libvirt.org/schemas/storagepool/fs/1.0";
    let id = pool.uuid.to_string();
    let options = (!pool.options.is_empty()).then(|| {
        let option = |name: &String| Element::new("fs:option").with("name", name);
        Element::new("fs:mount_opts").children(pool.options.iter().map(option))
    });
    Element::new("pool")
        .with("type", "netfs")
        .with_some("xmlns:fs", options.as_ref().map(|_| OPTIONS))
        .child(Element::new("name").content(&id))
        .child(Element::new("uuid").content(&id))
        .child(
            Element::new("source")
                .child(Element::new("host").with("name", &pool.host))
                .child(Element::new("dir").with("path", &pool.export)),
        )
        .child(Element::new("target").child(Element::new("path").content(&pool.target)))
        .child_some(options)
        .to_string()
}

/// An image that a disk is copied to.
pub fn copy_target(path: String, format: &str) -> String {
    Element::new("disk")
        .with("type", "file")
        .with("device", "disk")
        .child(Element::new("driver").with("name", "qemu").with("type", format))
        .child(Element::new("source").with("file", path))
        .to_string()
}

/// Of a volume's XML.
pub fn volume_format(text: &str) -> Option<String> {
    parse(text).ok()?.attribute_at("target/format", "type")
}

/// A secret that lives in libvirt's memory only and is never handed out again, for the volume at
/// `path`.
pub fn volume_secret(uuid: Uuid, path: &str) -> String {
    Element::new("secret")
        .with("ephemeral", "yes")
        .with("private", "yes")
        .child(Element::new("uuid").content(uuid))
        .child(Element::new("usage").with("type", "volume").child(Element::new("volume").content(path)))
        .to_string()
}

/// What a secret is for: the volume, or whatever its kind of use names.
pub fn secret_usage(text: &str) -> Option<String> {
    let root = parse(text).ok()?;
    let usage = root.at("usage")?;
    usage.children.first().map(|name| name.text.clone())
}

#[cfg(test)]
mod tests;
