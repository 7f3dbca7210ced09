//! What is other on the destination, put into a guest's XML. The document has passwords: never log it.

use super::move_storage::NewPlace;
use crate::commands::Fault;
use crate::xml::{self, Element, XmlError};
use std::net::IpAddr;
use std::path::PathBuf;

/// libvirt takes no more of a VNC password.
const LONGEST_PASSWORD: usize = 8;

/// Differences to the guest as it runs here.
#[derive(Default)]
pub(super) struct Changes<'a> {
    /// Where its display listens.
    pub listen: Option<IpAddr>,
    pub password: Option<&'a str>,
    /// CPU weight, if the guest has any.
    pub shares: Option<u64>,
    /// By target device: the image in a CD-ROM drive.
    pub discs: Vec<(String, PathBuf)>,
    /// By target device: where a disk is copied to.
    pub disks: Vec<(String, NewPlace)>,
}

/// The document for the destination.
pub(super) fn apply(document: &str, changes: &Changes<'_>) -> Result<String, Fault> {
    let mut domain = read(document).map_err(|error| Fault::from_error(&error))?;
    if let (Some(shares), Some(element)) = (changes.shares, domain.at_mut("cputune/shares")) {
        element.text = shares.to_string();
    }
    let Some(devices) = domain.at_mut("devices") else { return Ok(domain.to_string()) };
    for device in &mut devices.children {
        match device.name.as_str() {
            "graphics" => display(device, changes),
            "disk" => disk(device, changes),
            _ => {}
        }
    }
    Ok(domain.to_string())
}

fn read(document: &str) -> Result<Element, XmlError> {
    let domain = xml::parse(document)?;
    let found = domain.name.clone();
    if found == "domain" { Ok(domain) } else { Err(XmlError::WrongRoot { wanted: "domain", found }) }
}

fn display(graphics: &mut Element, changes: &Changes<'_>) {
    if let Some(address) = changes.listen {
        if graphics.attribute("listen").is_some() {
            graphics.set("listen", address);
        }
        for listen in graphics.children.iter_mut().filter(|child| child.name == "listen") {
            if listen.attribute("address").is_some() {
                listen.set("address", address);
            }
        }
    }
    if let Some(password) = changes.password.filter(|_| graphics.attribute("passwd").is_some()) {
        graphics.set("passwd", password.chars().take(LONGEST_PASSWORD).collect::<String>());
    }
}

fn disk(disk: &mut Element, changes: &Changes<'_>) {
    let Some(target) = disk.attribute_at("target", "dev") else { return };
    if let Some((_, path)) = changes.discs.iter().find(|(device, _)| *device == target) {
        disk.set("type", "file");
        replace(disk, Element::new("source").with("file", path.display()));
    }
    if let Some((_, place)) = changes.disks.iter().find(|(device, _)| *device == target) {
        place.put_into(disk);
    }
}

/// Puts an element in the place of the one of its name.
pub(super) fn replace(parent: &mut Element, new: Element) {
    match parent.children.iter_mut().find(|child| child.name == new.name) {
        Some(old) => *old = new,
        None => parent.children.push(new),
    }
}
