//! What is other about a guest on the host that it migrates to, put into its XML. The document has
//! passwords: never log it.

use super::disks::DiskFormat;
use crate::config::Secret;
use crate::xml::{self, Element, XmlError};

/// libvirt takes no more of a VNC password.
const LONGEST_PASSWORD: usize = 8;

/// Differences to the guest as it runs here.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// Address that its display listens on.
    pub listen: Option<String>,
    pub password: Option<&'a Secret>,
    /// CPU weight, if the guest has any.
    pub shares: Option<u64>,
    /// By target device: path of the image in a CD-ROM drive.
    pub discs: Vec<(String, String)>,
    /// By target device: where a disk is copied to.
    pub disks: Vec<(String, NewPlace)>,
}

/// Where a disk is on the other host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPlace {
    pub block: bool,
    /// Whether the attribute that names the place is `dev` and not `file`.
    pub device: bool,
    pub path: String,
    /// Only of storage that the hypervisor manages itself.
    pub format: Option<DiskFormat>,
    /// Id of the secret with its passphrase there, if it is encrypted.
    pub secret: String,
}

/// The document for the other host.
pub fn apply(document: &str, changes: &Changes<'_>) -> Result<String, XmlError> {
    let mut domain = read(document)?;
    if let (Some(shares), Some(element)) = (changes.shares, domain.at_mut("cputune/shares")) {
        element.text = shares.to_string();
    }
    for device in domain.at_mut("devices").into_iter().flat_map(|devices| &mut devices.children) {
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
    match domain.name.as_str() {
        "domain" => Ok(domain),
        found => Err(XmlError::WrongRoot { wanted: "domain", found: found.to_owned() }),
    }
}

fn display(graphics: &mut Element, changes: &Changes<'_>) {
    if let Some(address) = &changes.listen {
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
        graphics.set("passwd", password.expose().chars().take(LONGEST_PASSWORD).collect::<String>());
    }
}

fn disk(disk: &mut Element, changes: &Changes<'_>) {
    let Some(target) = disk.attribute_at("target", "dev") else { return };
    if let Some((_, path)) = changes.discs.iter().find(|(device, _)| *device == target) {
        disk.set("type", "file");
        replace(disk, Element::new("source").with("file", path));
    }
    if let Some((_, place)) = changes.disks.iter().find(|(device, _)| *device == target) {
        put(disk, place);
    }
}

/// The chain of images is left to libvirt to find out: what the source has below its images says
/// nothing of the destination.
fn put(disk: &mut Element, place: &NewPlace) {
    disk.set("type", if place.block { "block" } else { "file" });
    let mut source = Element::new("source").with(if place.device { "dev" } else { "file" }, &place.path);
    source.children.extend(disk.at("source").and_then(|old| old.at("encryption")).cloned());
    replace(disk, source);
    disk.children.retain(|child| child.name != "backingStore");
    if let Some(format) = place.format {
        disk.children.retain(|child| child.name != "auth");
        if let Some(driver) = disk.at_mut("driver") {
            driver.set("type", format);
        }
    }
    for path in ["source/encryption/secret", "encryption/secret"] {
        if let Some(secret) = disk.at_mut(path) {
            secret.set("uuid", &place.secret);
        }
    }
}

/// Puts an element in the place of the one of its name.
fn replace(parent: &mut Element, new: Element) {
    match parent.children.iter_mut().find(|child| child.name == new.name) {
        Some(old) => *old = new,
        None => parent.children.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libvirt writes it for another host.
    const DOCUMENT: &str = "<domain type='kvm' id='7'><name>i-2-3-VM</name><cputune><shares>512</shares></cputune><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>\
        <source file='/mnt/a/root' index='1'/><backingStore type='file' index='2'><format type='qcow2'/>\
        <source file='/mnt/a/template'/><backingStore/></backingStore><target dev='vda' bus='virtio'/></disk>\
        <disk type='file' device='disk'><source file='/mnt/a/data'><encryption format='luks'>\
        <secret type='passphrase' uuid='old'/></encryption></source><target dev='vdb' bus='virtio'/></disk>\
        <disk type='file' device='cdrom'><source file='/mnt/a/drive.iso'/><target dev='hdd' bus='ide'/></disk>\
        <interface type='bridge'><source bridge='breth0-200'/></interface>\
        <graphics type='vnc' port='5900' listen='10.0.0.1' passwd='canary'><listen type='address' address='10.0.0.1'/>\
        </graphics></devices></domain>";

    fn place(path: &str) -> NewPlace {
        NewPlace { block: false, device: false, path: path.into(), format: None, secret: "new".into() }
    }

    #[test]
    fn the_document_is_changed_where_the_other_host_differs() {
        let changes = Changes {
            listen: Some("10.0.0.2".to_owned()),
            password: Some(&Secret::new("longer-than-eight")),
            shares: Some(700),
            discs: vec![("hdd".to_owned(), "/mnt/b/drive.iso".to_owned())],
            disks: vec![("vda".to_owned(), place("/mnt/b/root2")), ("vdb".to_owned(), place("/mnt/b/d2"))],
        };
        let new = apply(DOCUMENT, &changes).unwrap();
        for there in [
            "<shares>700</shares>",
            "<source file='/mnt/b/root2'/><target dev='vda'",
            "<source file='/mnt/b/d2'><encryption format='luks'><secret type='passphrase' uuid='new'/>",
            "<source file='/mnt/b/drive.iso'/>",
            "listen='10.0.0.2' passwd='longer-t'><listen type='address' address='10.0.0.2'/>",
            "<source bridge='breth0-200'/>",
        ] {
            assert!(new.contains(there), "{there} is not in {new}");
        }
        for gone in ["10.0.0.1", "canary", "/mnt/a/", "'old'", "backingStore"] {
            assert!(!new.contains(gone), "{gone} is in {new}");
        }
    }

    #[test]
    fn what_does_not_differ_stays() {
        let same = apply(DOCUMENT, &Changes::default()).unwrap();
        assert_eq!(xml::parse(&same).unwrap(), xml::parse(DOCUMENT).unwrap());
        assert!(apply("<node/>", &Changes::default()).is_err());
        let secret = Secret::new("x");
        let plain = "<domain><devices><graphics type='vnc'/></devices></domain>";
        let changes = Changes { password: Some(&secret), shares: Some(5), ..Changes::default() };
        assert_eq!(apply(plain, &changes).unwrap(), plain);
    }

    #[test]
    fn managed_storage_has_formats_of_its_own() {
        let place =
            NewPlace { block: true, device: true, format: Some(DiskFormat::Raw), ..place("/dev/mapper/x") };
        let changes = Changes { disks: vec![("vda".to_owned(), place)], ..Changes::default() };
        let new = apply(DOCUMENT, &changes).unwrap();
        let disk = "<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/><source dev='/dev/mapper/x'/>";
        assert!(new.contains(disk), "{new}");
    }
}
