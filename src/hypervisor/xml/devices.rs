//! Single devices of a running guest: its own element with one thing changed, as libvirt wants it back.
//! Whatever else the element has stays, so that nothing is changed by accident.

use super::rooted;
use crate::xml::{Element, XmlError};

/// The element of a drive with another medium in it, or none; `None` if the guest has no such drive.
pub fn drive_with(domain: &str, target: &str, medium: Option<&str>) -> Result<Option<String>, XmlError> {
    let is_drive = |device: &Element| device.attribute_at("target", "dev").as_deref() == Some(target);
    let Some(mut drive) = device(domain, "disk", is_drive)? else { return Ok(None) };
    // What libvirt knows of the old medium.
    drive.children.retain(|child| !matches!(child.name.as_str(), "source" | "backingStore"));
    drive.set("type", "file");
    let source = medium.map(|path| Element::new("source").with("file", path));
    Ok(Some(drive.child_some(source).to_string()))
}

/// The element of an interface on another bridge; `None` if the guest has no interface on a bridge with
/// that MAC address.
pub fn interface_on(domain: &str, mac: &str, bridge: &str) -> Result<Option<String>, XmlError> {
    let has_mac = |device: &Element| {
        device.attribute("type") == Some("bridge")
            && device.attribute_at("mac", "address").is_some_and(|own| own.eq_ignore_ascii_case(mac))
    };
    let Some(mut interface) = device(domain, "interface", has_mac)? else { return Ok(None) };
    match interface.at_mut("source") {
        Some(source) => source.set("bridge", bridge),
        None => return Ok(None),
    }
    Ok(Some(interface.to_string()))
}

fn device(domain: &str, name: &str, wanted: impl Fn(&Element) -> bool) -> Result<Option<Element>, XmlError> {
    let root = rooted(domain, "domain")?;
    let devices = root.at("devices");
    Ok(devices.and_then(|devices| devices.all(name).find(|device| wanted(device))).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "<domain><devices>\
        <disk type='block' device='cdrom'><driver name='qemu' type='raw'/><source dev='/dev/x' index='3'/><backingStore/>\
        <target dev='hdc' bus='ide'/><readonly/><alias name='ide0-1-0'/></disk>\
        <interface type='bridge'><mac address='02:00:4C:9B:00:01'/><source bridge='old'/><target dev='vnet3'/></interface>\
        <interface type='ethernet'><mac address='02:00:4c:9b:00:02'/></interface></devices></domain>";

    #[test]
    fn a_medium_changes_and_the_drive_stays() {
        let kept = "<driver name='qemu' type='raw'/><target dev='hdc' bus='ide'/><readonly/><alias name='ide0-1-0'/>";
        let full = drive_with(DOMAIN, "hdc", Some("/mnt/it's")).unwrap().unwrap();
        assert_eq!(
            full,
            format!("<disk type='file' device='cdrom'>{kept}<source file='/mnt/it&apos;s'/></disk>")
        );
        let empty = drive_with(DOMAIN, "hdc", None).unwrap().unwrap();
        assert_eq!(empty, format!("<disk type='file' device='cdrom'>{kept}</disk>"));
        assert_eq!(drive_with(DOMAIN, "hdd", None).unwrap(), None);
        assert!(drive_with("<x/>", "hdc", None).is_err());
    }

    #[test]
    fn an_interface_moves_with_all_that_it_is() {
        let moved = interface_on(DOMAIN, "02:00:4c:9b:00:01", "new").unwrap().unwrap();
        assert_eq!(
            moved,
            "<interface type='bridge'><mac address='02:00:4C:9B:00:01'/><source bridge='new'/><target dev='vnet3'/></interface>"
        );
        for mac in ["02:00:4c:9b:00:02", "02:00:4c:9b:00:03"] {
            assert_eq!(interface_on(DOMAIN, mac, "new").unwrap(), None);
        }
    }
}
