//! All devices but disks and network cards.

use super::spec::ScsiControllers;
use crate::config::Secret;
use crate::xml::Element;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    /// `random` or `egd`.
    pub backend: String,
    pub path: String,
    /// Bytes per period, and the period in milliseconds.
    pub bytes: i64,
    pub period: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    pub model: String,
    pub action: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Video {
    pub model: String,
    /// KiB; 0 for the model's default.
    pub ram: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vnc {
    /// `None`: libvirt's own choice.
    pub listen: Option<String>,
    pub password: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmModel {
    Tis,
    Crb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tpm {
    pub model: TpmModel,
    /// 1.2 instead of 2.0.
    pub old: bool,
}

impl Tpm {
    /// From the details `virtual.tpm.model` and `virtual.tpm.version`; an unknown model is no TPM.
    pub fn parse(model: &str, version: Option<&str>) -> Option<Tpm> {
        let model = match model.to_ascii_lowercase().as_str() {
            "tpm-tis" => TpmModel::Tis,
            "tpm-crb" => TpmModel::Crb,
            _ => return None,
        };
        Some(Tpm { model, old: version == Some("1.2") })
    }
}

/// What machines of architecture aarch64 and s390x lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arm {
    /// Keyboard, mouse and the controller for them.
    pub usb: bool,
}

/// A device of the host given to the guest (4.21).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuDevice {
    Mediated {
        uuid: String,
        display: bool,
    },
    /// libvirt knows a display of mediated devices only.
    Pci {
        bus: String,
        slot: String,
        function: String,
        managed: bool,
    },
}

impl GpuDevice {
    /// An address such as `3b:00.1`.
    pub fn pci(address: &str, managed: bool) -> Option<GpuDevice> {
        let (bus, rest) = address.split_once(':')?;
        let (slot, function) = rest.split_once('.')?;
        let hex = |text: &str, longest: usize| {
            (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        (hex(bus, 2) && hex(slot, 2) && hex(function, 1)).then(|| GpuDevice::Pci {
            bus: bus.to_owned(),
            slot: slot.to_owned(),
            function: function.to_owned(),
            managed,
        })
    }
}

pub(super) fn serial() -> Element {
    Element::new("serial").with("type", "pty").child(Element::new("target").with("port", 0))
}

pub(super) fn console() -> Element {
    Element::new("console").with("type", "pty").child(Element::new("target").with("port", 0))
}

pub(super) fn rng(rng: &Rng) -> Element {
    Element::new("rng")
        .with("model", "virtio")
        .child(Element::new("rate").with("period", rng.period).with("bytes", rng.bytes))
        .child(Element::new("backend").with("model", &rng.backend).content(&rng.path))
}

/// The way to the guest agent; over it system VMs get their boot arguments too.
pub(super) fn agent_channel(socket: &str) -> Element {
    Element::new("channel")
        .with("type", "unix")
        .child(Element::new("source").with("mode", "bind").with("path", socket))
        .child(Element::new("target").with("type", "virtio").with("name", "org.qemu.guest_agent.0"))
}

pub(super) fn watchdog(watchdog: &Watchdog) -> Element {
    Element::new("watchdog").with("model", &watchdog.model).with("action", &watchdog.action)
}

pub(super) fn video(video: &Video) -> Element {
    let model = Element::new("model")
        .with("type", &video.model)
        .with_some("vram", Some(video.ram).filter(|ram| *ram > 0));
    Element::new("video").child(model)
}

/// VNC knows eight characters of a password. Without one nobody gets in: that is what the empty text
/// means to libvirt, whereas no attribute would let everybody in.
pub(super) fn graphics(vnc: &Vnc) -> Element {
    let password: String = vnc.password.expose().chars().take(8).collect();
    Element::new("graphics")
        .with("type", "vnc")
        .with("autoport", "yes")
        .with_some("listen", vnc.listen.as_ref())
        .with("passwd", password)
}

pub(super) fn input(kind: &str) -> Element {
    Element::new("input").with("type", kind).with("bus", "usb")
}

pub(super) fn tpm(tpm: Tpm) -> Element {
    let model = match tpm.model {
        TpmModel::Tis => "tpm-tis",
        TpmModel::Crb => "tpm-crb",
    };
    let version = if tpm.old { "1.2" } else { "2.0" };
    let backend = Element::new("backend").with("type", "emulator").with("version", version);
    Element::new("tpm").with("model", model).child(backend)
}

/// Memory to be plugged into a running guest, in KiB.
pub fn memory_module(kib: u64) -> Element {
    let size = Element::new("size").with("unit", "KiB").content(kib);
    // The only cell that guests have.
    let target = Element::new("target").child(size).child(Element::new("node").content(0));
    Element::new("memory").with("model", "dimm").child(target)
}

pub(super) fn balloon(period: Option<i64>) -> Element {
    let element = Element::new("memballoon");
    match period {
        None => element.with("model", "none"),
        Some(period) => {
            let stats = (period > 0).then(|| Element::new("stats").with("period", period));
            element.with("model", "virtio").child_some(stats)
        }
    }
}

/// Input devices and enough PCI ports, which these machines do not bring along.
pub(super) fn arm(arm: Arm) -> Vec<Element> {
    const PORTS: u32 = 32;
    let mut elements = Vec::new();
    if arm.usb {
        let address = Element::new("address")
            .with("type", "pci")
            .with("domain", "0x0000")
            .with("bus", "0x00")
            .with("slot", "0x05")
            .with("function", "0x0");
        elements.push(input("keyboard"));
        elements.push(input("mouse"));
        elements.push(
            Element::new("controller")
                .with("type", "usb")
                .with("index", 0)
                .with("model", "qemu-xhci")
                .child(Element::new("alias").with("name", "usb"))
                .child(address),
        );
    }
    let pci = |model: &str| Element::new("controller").with("type", "pci").with("model", model);
    elements.push(pci("pcie-root"));
    elements.extend((0..PORTS).map(|_| pci("pcie-root-port")));
    elements.push(pci("pcie-to-pci-bridge"));
    elements
}

/// The controllers for SCSI disks, at places of their own so that disks can be added later.
pub(super) fn scsi_controllers(controllers: ScsiControllers) -> impl Iterator<Item = Element> {
    const FIRST_SLOT: u32 = 9;
    (0..controllers.count).map(move |index| {
        let address = Element::new("address")
            .with("type", "pci")
            .with("domain", "0x0000")
            .with("bus", "0x00")
            .with("slot", format!("{:#04x}", FIRST_SLOT + index))
            .with("function", "0x0");
        let driver = Element::new("driver")
            .with("queues", controllers.queues)
            .with_some("iothread", controllers.iothread);
        Element::new("controller")
            .with("type", "scsi")
            .with("index", index)
            .with("model", "virtio-scsi")
            .child(address)
            .child(driver)
    })
}

pub(super) fn gpu(device: &GpuDevice) -> Element {
    let element = Element::new("hostdev").with("mode", "subsystem");
    match device {
        GpuDevice::Mediated { uuid, display } => element
            .with("type", "mdev")
            .with("model", "vfio-pci")
            .with("display", if *display { "on" } else { "off" })
            .with_some("ramfb", display.then_some("on"))
            .child(Element::new("source").child(Element::new("address").with("uuid", uuid))),
        GpuDevice::Pci { bus, slot, function, managed } => {
            let address = Element::new("address")
                .with("domain", "0x0000")
                .with("bus", format!("0x{bus}"))
                .with("slot", format!("0x{slot}"))
                .with("function", format!("0x{function}"));
            element
                .with("type", "pci")
                .with("managed", if *managed { "yes" } else { "no" })
                .child(Element::new("driver").with("name", "vfio"))
                .child(Element::new("source").child(address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_cut_before_they_are_escaped() {
        let vnc = |password: &str| Vnc { listen: None, password: Secret::new(password) };
        let xml = graphics(&vnc("<'3456789")).to_string();
        assert_eq!(xml, "<graphics type='vnc' autoport='yes' passwd='&lt;&apos;345678'/>");
        assert!(graphics(&vnc("")).to_string().contains("passwd=''"));
        assert!(!format!("{:?}", vnc("canary")).contains("canary"));
    }

    #[test]
    fn devices_of_the_host_need_a_real_address() {
        for (address, good) in
            [("3b:00.1", true), ("3b:00", false), ("'b:00.1", false), ("3b:000.1", false), ("", false)]
        {
            assert_eq!(GpuDevice::pci(address, true).is_some(), good, "{address}");
        }
        assert_eq!(
            gpu(&GpuDevice::pci("3b:00.1", false).unwrap()).to_string(),
            "<hostdev mode='subsystem' type='pci' managed='no'><driver name='vfio'/>\
             <source><address domain='0x0000' bus='0x3b' slot='0x00' function='0x1'/></source></hostdev>"
        );
        let mediated = GpuDevice::Mediated { uuid: "u".to_owned(), display: true };
        assert_eq!(
            gpu(&mediated).to_string(),
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on' ramfb='on'>\
             <source><address uuid='u'/></source></hostdev>"
        );
    }

    #[test]
    fn tpms_by_name() {
        assert_eq!(Tpm::parse("TPM-CRB", Some("1.2")), Some(Tpm { model: TpmModel::Crb, old: true }));
        assert_eq!(Tpm::parse("tpm-tis", None), Some(Tpm { model: TpmModel::Tis, old: false }));
        assert_eq!(Tpm::parse("none", None), None);
    }
}
