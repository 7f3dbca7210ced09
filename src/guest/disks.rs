//! `<disk>` elements.

use super::bus::DiskBus;
use crate::xml::Element;
use std::fmt;

/// A place in the list of disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskDevice {
    Disk(Disk),
    Cdrom(Cdrom),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub source: DiskSource,
    pub format: DiskFormat,
    pub bus: DiskBus,
    /// Name of the device: `vda`.
    pub label: String,
    pub cache: CacheMode,
    pub discard: bool,
    pub io: Option<IoPolicy>,
    pub iothread: Option<u32>,
    /// Logical and physical block size.
    pub block_sizes: Option<(u32, u32)>,
    pub serial: Option<String>,
    /// uuid of the libvirt secret with the passphrase.
    pub encryption: Option<String>,
    pub throttle: Throttle,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cdrom {
    /// `None`: no disc.
    pub source: Option<DiskSource>,
    pub bus: DiskBus,
    pub label: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    File(String),
    Block(String),
    Network {
        protocol: NetworkProtocol,
        /// `pool/image`.
        name: String,
        hosts: Vec<DiskHost>,
        auth: Option<DiskAuth>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkProtocol {
    Rbd,
    Gluster,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskHost {
    pub name: String,
    pub port: Option<u16>,
}

/// Hosts as a pool names them: separated by commas, IPv6 addresses perhaps in brackets; port 0 is none.
pub fn disk_hosts(list: &str, port: u16) -> Vec<DiskHost> {
    list.split(',')
        .map(|host| host.trim().trim_start_matches('[').trim_end_matches(']'))
        .filter(|host| !host.is_empty())
        .map(|host| DiskHost { name: host.to_owned(), port: Some(port).filter(|port| *port > 0) })
        .collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskAuth {
    pub user: String,
    /// uuid of the libvirt secret with the key.
    pub secret: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    Qcow2,
    Raw,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheMode {
    #[default]
    None,
    Writeback,
    Writethrough,
    /// The hypervisor's own (4.22).
    Default,
}

impl CacheMode {
    /// The name in `volume.cacheMode`; an unknown one is `none`, the safe one.
    pub fn parse(text: &str) -> CacheMode {
        match text.to_ascii_uppercase().as_str() {
            "WRITEBACK" => CacheMode::Writeback,
            "WRITETHROUGH" => CacheMode::Writethrough,
            "HYPERVISOR_DEFAULT" => CacheMode::Default,
            _ => CacheMode::None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoPolicy {
    Native,
    Threads,
    IoUring,
}

impl IoPolicy {
    /// The name in the disk detail `io.policy`. `STORAGE_SPECIFIC` leaves it to the pool, and so to QEMU.
    pub fn parse(text: &str) -> Option<IoPolicy> {
        match text.to_ascii_uppercase().as_str() {
            "NATIVE" => Some(IoPolicy::Native),
            "THREADS" => Some(IoPolicy::Threads),
            "IO_URING" => Some(IoPolicy::IoUring),
            _ => None,
        }
    }
}

/// Limits per second; zero for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttle {
    pub read_bytes: Rate,
    pub write_bytes: Rate,
    pub read_iops: Rate,
    pub write_iops: Rate,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    pub base: u64,
    /// What a burst may reach.
    pub max: u64,
    /// Seconds that a burst may last.
    pub max_length: u64,
}

/// The serial number that the guest sees: by it people find a volume in the guest.
pub fn serial(volume_uuid: &str) -> Option<String> {
    let serial: String = volume_uuid.chars().filter(|c| *c != '-').take(20).collect();
    Some(serial).filter(|serial| !serial.is_empty())
}

/// One element of either kind.
pub fn element(device: &DiskDevice) -> Element {
    match device {
        DiskDevice::Disk(disk) => self::disk(disk),
        DiskDevice::Cdrom(cdrom) => self::cdrom(cdrom),
    }
}

/// A disk, for a domain or to be attached by itself.
pub fn disk(disk: &Disk) -> Element {
    let driver = Element::new("driver")
        .with("name", "qemu")
        .with("type", disk.format)
        .with("cache", disk.cache)
        .with_some("discard", disk.discard.then_some("unmap"))
        .with_some("io", disk.io)
        .with_some("iothread", disk.iothread.filter(|_| disk.bus.is_virtio()));
    let sizes = disk.block_sizes.map(|(logical, physical)| {
        Element::new("blockio").with("logical_block_size", logical).with("physical_block_size", physical)
    });
    let encryption = disk.encryption.as_ref().map(|uuid| {
        let secret = Element::new("secret").with("type", "passphrase").with("uuid", uuid);
        Element::new("encryption").with("format", "luks").child(secret)
    });
    Element::new("disk")
        .with("device", "disk")
        .with("type", kind(&disk.source))
        .child(driver)
        .child(source(&disk.source))
        .child(target(&disk.label, disk.bus))
        .child_some(sizes)
        .child_some(disk.serial.as_ref().map(|serial| Element::new("serial").content(serial)))
        .child_some(encryption)
        .child_some(iotune(&disk.throttle))
}

/// A CD-ROM, for a domain or to change the disc.
pub fn cdrom(cdrom: &Cdrom) -> Element {
    Element::new("disk")
        .with("device", "cdrom")
        .with("type", cdrom.source.as_ref().map_or("file", kind))
        .child(Element::new("driver").with("name", "qemu").with("type", DiskFormat::Raw))
        .child_some(cdrom.source.as_ref().map(source))
        .child(target(&cdrom.label, cdrom.bus))
}

fn kind(source: &DiskSource) -> &'static str {
    match source {
        DiskSource::File(_) => "file",
        DiskSource::Block(_) => "block",
        DiskSource::Network { .. } => "network",
    }
}

fn source(source: &DiskSource) -> Element {
    let element = Element::new("source");
    match source {
        DiskSource::File(path) => element.with("file", path),
        DiskSource::Block(path) => element.with("dev", path),
        DiskSource::Network { protocol, name, hosts, auth } => {
            let hosts = hosts
                .iter()
                .map(|host| Element::new("host").with("name", &host.name).with_some("port", host.port));
            let auth = auth.as_ref().map(|auth| {
                let secret = Element::new("secret").with("type", "ceph").with("uuid", &auth.secret);
                Element::new("auth").with("username", &auth.user).child(secret)
            });
            element.with("protocol", protocol).with("name", name).children(hosts).child_some(auth)
        }
    }
}

fn target(label: &str, bus: DiskBus) -> Element {
    Element::new("target").with("dev", label).with("bus", bus)
}

/// Bursts without a base rate are nothing that libvirt takes.
fn iotune(throttle: &Throttle) -> Option<Element> {
    let Throttle { read_bytes, write_bytes, read_iops, write_iops } = throttle;
    let rates = [
        ("read_bytes_sec", read_bytes),
        ("write_bytes_sec", write_bytes),
        ("read_iops_sec", read_iops),
        ("write_iops_sec", write_iops),
    ];
    if rates.iter().all(|(_, rate)| rate.base == 0) {
        return None;
    }
    let limit = |name: String, value: u64| (value > 0).then(|| Element::new(&name).content(value));
    let base = rates.iter().filter_map(|(name, rate)| limit((*name).to_owned(), rate.base));
    let max = rates.iter().filter_map(|(name, rate)| limit(format!("{name}_max"), rate.max));
    let length = rates.iter().filter_map(|(name, rate)| limit(format!("{name}_max_length"), rate.max_length));
    Some(Element::new("iotune").children(base).children(max).children(length))
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        })
    }
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CacheMode::None => "none",
            CacheMode::Writeback => "writeback",
            CacheMode::Writethrough => "writethrough",
            CacheMode::Default => "default",
        })
    }
}

impl fmt::Display for IoPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoPolicy::Native => "native",
            IoPolicy::Threads => "threads",
            IoPolicy::IoUring => "io_uring",
        })
    }
}

impl fmt::Display for NetworkProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NetworkProtocol::Rbd => "rbd",
            NetworkProtocol::Gluster => "gluster",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Disk {
        Disk {
            source: DiskSource::File("/pool/it's".to_owned()),
            format: DiskFormat::Qcow2,
            bus: DiskBus::Virtio,
            label: "vda".to_owned(),
            cache: CacheMode::None,
            discard: false,
            io: None,
            iothread: None,
            block_sizes: None,
            serial: serial("9b2d3f0c-7c1e-7c3a-4f43-9a5b0d5b4a8a"),
            encryption: None,
            throttle: Throttle::default(),
        }
    }

    #[test]
    fn a_plain_disk_says_only_what_is_needed() {
        assert_eq!(
            disk(&plain()).to_string(),
            "<disk device='disk' type='file'><driver name='qemu' type='qcow2' cache='none'/>\
             <source file='/pool/it&apos;s'/><target dev='vda' bus='virtio'/>\
             <serial>9b2d3f0c7c1e7c3a4f43</serial></disk>"
        );
    }

    #[test]
    fn a_disk_with_everything() {
        let rate = Rate { base: 1, max: 2, max_length: 3 };
        let secret = "11111111-2222-3333-4444-555555555555".to_owned();
        let full = Disk {
            source: DiskSource::Network {
                protocol: NetworkProtocol::Rbd,
                name: "pool/image".to_owned(),
                hosts: disk_hosts("a, [fd00::1],", 0),
                auth: Some(DiskAuth { user: "cloud".to_owned(), secret: secret.clone() }),
            },
            format: DiskFormat::Raw,
            cache: CacheMode::parse("writeback"),
            discard: true,
            io: IoPolicy::parse("io_uring"),
            iothread: Some(1),
            block_sizes: Some((512, 4096)),
            serial: serial(""),
            encryption: Some(secret),
            throttle: Throttle {
                read_bytes: rate,
                write_iops: Rate { max: 0, ..rate },
                ..Throttle::default()
            },
            ..plain()
        };
        assert_eq!(
            disk(&full).to_string(),
            "<disk device='disk' type='network'>\
             <driver name='qemu' type='raw' cache='writeback' discard='unmap' io='io_uring' iothread='1'/>\
             <source protocol='rbd' name='pool/image'><host name='a'/><host name='fd00::1'/>\
             <auth username='cloud'><secret type='ceph' uuid='11111111-2222-3333-4444-555555555555'/></auth></source>\
             <target dev='vda' bus='virtio'/><blockio logical_block_size='512' physical_block_size='4096'/>\
             <encryption format='luks'><secret type='passphrase' uuid='11111111-2222-3333-4444-555555555555'/></encryption>\
             <iotune><read_bytes_sec>1</read_bytes_sec><write_iops_sec>1</write_iops_sec>\
             <read_bytes_sec_max>2</read_bytes_sec_max><read_bytes_sec_max_length>3</read_bytes_sec_max_length>\
             <write_iops_sec_max_length>3</write_iops_sec_max_length></iotune></disk>"
        );
    }

    #[test]
    fn only_virtio_disks_have_threads_of_their_own() {
        let other = Disk { bus: DiskBus::Sata, iothread: Some(1), ..plain() };
        assert_eq!(disk(&other).attribute_at("driver", "iothread"), None);
    }

    #[test]
    fn an_empty_cdrom_has_no_source() {
        let empty = Cdrom { source: None, bus: DiskBus::Ide, label: "hdc".to_owned() };
        assert_eq!(
            cdrom(&empty).to_string(),
            "<disk device='cdrom' type='file'><driver name='qemu' type='raw'/><target dev='hdc' bus='ide'/></disk>"
        );
        let full = Cdrom { source: Some(DiskSource::File("/a.iso".to_owned())), ..empty };
        assert_eq!(cdrom(&full).attribute_at("source", "file").unwrap(), "/a.iso");
    }

    #[test]
    fn bursts_alone_are_no_limit() {
        let burst = Rate { base: 0, max: 5, max_length: 5 };
        assert_eq!(iotune(&Throttle { read_bytes: burst, ..Throttle::default() }), None);
    }
}
