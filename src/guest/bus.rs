//! Which bus a disk is on and what it is called there.
//!
//! `LibvirtComputingResource.getGuestDiskModel`, `createVbd` and `LibvirtVMDef.DiskDef.getDevLabel`.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskBus {
    Ide,
    Scsi,
    Virtio,
    /// Virtio with discarded blocks handed on (4.20); libvirt does not know it by a name of its own.
    VirtioBlk,
    Xen,
    Usb,
    Uml,
    Fdc,
    Sata,
}

impl DiskBus {
    /// The value of `rootDiskController` and `dataDiskController`.
    pub fn parse(text: &str) -> Option<DiskBus> {
        let bus = match text.to_ascii_lowercase().as_str() {
            "ide" => DiskBus::Ide,
            "scsi" => DiskBus::Scsi,
            "virtio" => DiskBus::Virtio,
            "virtio-blk" => DiskBus::VirtioBlk,
            "xen" => DiskBus::Xen,
            "usb" => DiskBus::Usb,
            "uml" => DiskBus::Uml,
            "fdc" => DiskBus::Fdc,
            "sata" => DiskBus::Sata,
            _ => return None,
        };
        Some(bus)
    }

    pub fn is_virtio(self) -> bool {
        matches!(self, DiskBus::Virtio | DiskBus::VirtioBlk)
    }

    /// Whether blocks that the guest discards are given back.
    pub fn discards(self) -> bool {
        matches!(self, DiskBus::Scsi | DiskBus::VirtioBlk)
    }

    /// The nearest bus of a machine that has no IDE.
    #[must_use]
    pub fn without_ide(self) -> DiskBus {
        if self == DiskBus::Ide { DiskBus::Sata } else { self }
    }
}

impl fmt::Display for DiskBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskBus::Ide => "ide",
            DiskBus::Scsi => "scsi",
            DiskBus::Virtio | DiskBus::VirtioBlk => "virtio",
            DiskBus::Xen => "xen",
            DiskBus::Usb => "usb",
            DiskBus::Uml => "uml",
            DiskBus::Fdc => "fdc",
            DiskBus::Sata => "sata",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uefi {
    Legacy,
    Secure,
}

/// The bus that a guest operating system can boot from.
///
/// `scsi_arch`: of an architecture whose machines have neither IDE nor SATA.
pub fn guest_disk_model(platform: Option<&str>, uefi: bool, scsi_arch: bool) -> DiskBus {
    const PARAVIRTUAL: [&str; 9] = [
        "Fedora",
        "CentOS",
        "Red Hat Enterprise Linux",
        "Debian GNU/Linux",
        "FreeBSD",
        "Oracle",
        "Rocky Linux",
        "AlmaLinux",
        "Other PV",
    ];
    let Some(platform) = platform else { return DiskBus::Ide };
    if platform.starts_with("Other PV Virtio-SCSI") {
        DiskBus::Scsi
    } else if platform.contains("Ubuntu") || PARAVIRTUAL.iter().any(|name| platform.starts_with(name)) {
        DiskBus::Virtio
    } else if uefi && ["Windows", "Other"].iter().any(|name| platform.starts_with(name)) {
        DiskBus::Sata
    } else if scsi_arch {
        DiskBus::Scsi
    } else {
        DiskBus::Ide
    }
}

/// Where the bytes of a disk are, as far as the choice of its bus depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// RBD and Gluster.
    Network,
    PowerFlex,
    /// CLVM, and files of any format but qcow2.
    Raw,
    Qcow2,
}

/// The buses of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buses {
    pub root: DiskBus,
    pub data: DiskBus,
    pub windows: bool,
    pub uefi: Option<Uefi>,
}

impl Buses {
    /// The data bus follows the root bus unless it was asked for.
    pub fn new(root: DiskBus, data: Option<DiskBus>, windows: bool, uefi: Option<Uefi>) -> Buses {
        let follows = if root == DiskBus::Scsi { DiskBus::Scsi } else { DiskBus::Virtio };
        Buses { root, data: data.unwrap_or(follows), windows, uefi }
    }

    /// The bus of one disk.
    pub fn of(&self, backing: Backing, data_disk: bool) -> DiskBus {
        let windows_uefi = self.windows && self.uefi.is_some();
        let data_disk = data_disk && !windows_uefi;
        match backing {
            Backing::Network => self.root,
            Backing::PowerFlex if windows_uefi => DiskBus::Sata,
            Backing::PowerFlex => self.data,
            Backing::Raw | Backing::Qcow2 if data_disk => self.data,
            Backing::Raw => self.root,
            Backing::Qcow2 => match self.uefi {
                Some(Uefi::Secure) if self.windows => DiskBus::Sata,
                Some(Uefi::Secure) => DiskBus::Virtio,
                Some(Uefi::Legacy) | None => self.root,
            },
        }
    }
}

/// The device name: `vda`, `hdc`. The number is the disk's place among those of the guest.
pub fn label(bus: DiskBus, number: u32, iso: bool) -> String {
    match bus {
        DiskBus::Scsi | DiskBus::Sata => format!("sd{}", letters(number)),
        DiskBus::Virtio | DiskBus::VirtioBlk => format!("vd{}", letters(number)),
        // Third and fourth place belong to the CD-ROM and the config drive, numbers 3 and 4.
        DiskBus::Ide | DiskBus::Xen | DiskBus::Usb | DiskBus::Uml | DiskBus::Fdc => {
            let place = match (iso, number) {
                (true, number) => number.saturating_sub(1),
                (false, 0 | 1) => number,
                (false, number) => number.saturating_add(2),
            };
            format!("hd{}", letters(place))
        }
    }
}

/// a to z, then aa, ab and so on.
fn letters(number: u32) -> String {
    let mut rest = u64::from(number) + 1;
    let mut reversed = Vec::new();
    while rest > 0 {
        rest -= 1;
        // A remainder by 26 fits.
        reversed.push(char::from(b'a' + u8::try_from(rest % 26).unwrap_or_default()));
        rest /= 26;
    }
    reversed.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operating_systems_boot_from_what_they_know() {
        for (platform, uefi, scsi_arch, expected) in [
            (None, false, false, DiskBus::Ide),
            (None, true, true, DiskBus::Ide),
            (Some("Other PV Virtio-SCSI (64-bit)"), false, false, DiskBus::Scsi),
            (Some("Other PV (64-bit)"), true, false, DiskBus::Virtio),
            (Some("Debian GNU/Linux 5"), false, false, DiskBus::Virtio),
            (Some("my Ubuntu"), false, true, DiskBus::Virtio),
            (Some("Rocky Linux 9"), true, false, DiskBus::Virtio),
            (Some("Other Linux"), false, false, DiskBus::Ide),
            (Some("Other Linux"), true, false, DiskBus::Sata),
            (Some("Windows Server 2022"), true, false, DiskBus::Sata),
            (Some("Windows Server 2022"), false, false, DiskBus::Ide),
            (Some("SUSE"), true, false, DiskBus::Ide),
            (Some("SUSE"), false, true, DiskBus::Scsi),
        ] {
            assert_eq!(
                guest_disk_model(platform, uefi, scsi_arch),
                expected,
                "{platform:?} {uefi} {scsi_arch}"
            );
        }
    }

    #[test]
    fn buses_by_backing_and_kind_of_disk() {
        use DiskBus::{Ide, Sata, Scsi, Virtio};
        let plain = Buses::new(Ide, None, false, None);
        let scsi = Buses::new(Scsi, None, false, None);
        let windows = Buses::new(Sata, None, true, Some(Uefi::Legacy));
        let secure = Buses::new(Ide, None, false, Some(Uefi::Secure));
        let secure_windows = Buses::new(Virtio, None, true, Some(Uefi::Secure));
        for (buses, backing, data, expected) in [
            (plain, Backing::Qcow2, false, Ide),
            (plain, Backing::Qcow2, true, Virtio),
            (plain, Backing::Raw, true, Virtio),
            (plain, Backing::Raw, false, Ide),
            (plain, Backing::Network, true, Ide),
            (plain, Backing::PowerFlex, false, Virtio),
            (scsi, Backing::Qcow2, true, Scsi),
            (windows, Backing::PowerFlex, false, Sata),
            (windows, Backing::Qcow2, true, Sata),
            (windows, Backing::Raw, true, Sata),
            (secure, Backing::Qcow2, false, Virtio),
            (secure, Backing::Raw, false, Ide),
            (secure_windows, Backing::Qcow2, true, Sata),
        ] {
            assert_eq!(buses.of(backing, data), expected, "{buses:?} {backing:?} {data}");
        }
        assert_eq!(Buses::new(Ide, Some(Sata), false, None).of(Backing::Qcow2, true), Sata);
    }

    #[test]
    fn names_leave_the_cdrom_its_place() {
        for (bus, number, iso, expected) in [
            (DiskBus::Ide, 0, false, "hda"),
            (DiskBus::Ide, 1, false, "hdb"),
            (DiskBus::Ide, 2, false, "hde"),
            (DiskBus::Ide, 3, true, "hdc"),
            (DiskBus::Ide, 4, true, "hdd"),
            (DiskBus::Ide, 0, true, "hda"),
            (DiskBus::Sata, 3, true, "sdd"),
            (DiskBus::Virtio, 0, false, "vda"),
            (DiskBus::VirtioBlk, 25, false, "vdz"),
            (DiskBus::Virtio, 26, false, "vdaa"),
            (DiskBus::Scsi, 701, false, "sdzz"),
            (DiskBus::Scsi, 702, false, "sdaaa"),
        ] {
            assert_eq!(label(bus, number, iso), expected, "{bus:?} {number} {iso}");
        }
    }

    #[test]
    fn controllers_are_named_as_libvirt_knows_them() {
        for (text, bus, written) in [
            ("SCSI", Some(DiskBus::Scsi), "scsi"),
            ("virtio-blk", Some(DiskBus::VirtioBlk), "virtio"),
            ("osdefault", None, ""),
        ] {
            assert_eq!(DiskBus::parse(text), bus);
            assert!(bus.is_none_or(|bus| bus.to_string() == written));
        }
    }
}
