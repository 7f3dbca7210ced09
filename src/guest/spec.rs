//! A guest as plain values. What is not said here is the same for all guests.

use super::cpu::{Cpu, CpuTuning};
use super::devices::{Arm, GpuDevice, Rng, Tpm, Video, Vnc, Watchdog};
use super::disks::DiskDevice;
use super::extra_config::ExtraConfig;
use super::nics::Nic;

/// All that goes into a domain.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestSpec {
    pub name: String,
    pub uuid: String,
    /// The operating system's name, for people.
    pub description: Option<String>,
    pub kind: DomainType,
    pub memory: Memory,
    pub vcpus: Vcpus,
    /// `None` if the extra config brings the element.
    pub cpu: Option<Cpu>,
    pub tuning: CpuTuning,
    pub machine: Machine,
    pub smbios: Smbios,
    pub clock: Clock,
    pub features: Features,
    /// I/O threads that disks may be given to.
    pub iothreads: Option<u32>,
    pub devices: Devices,
    pub extra: ExtraConfig,
}

/// What computes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainType {
    Kvm,
    /// QEMU in software: for hosts where /dev/kvm does not work.
    Qemu,
    /// Nothing: libvirt's test driver only keeps the books.
    Test,
}

impl DomainType {
    /// libvirt's name.
    pub fn as_str(self) -> &'static str {
        match self {
            DomainType::Kvm => "kvm",
            DomainType::Qemu => "qemu",
            DomainType::Test => "test",
        }
    }
}

/// In KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub current: u64,
    /// What the guest may grow to while it runs, if that is more.
    pub max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpus {
    pub current: u32,
    pub max: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub arch: Option<String>,
    /// `pc`, `q35`, `virt`, ...
    pub kind: String,
    pub firmware: Option<Firmware>,
    /// CD-ROMs are tried first.
    pub boot_cdrom: bool,
}

impl Machine {
    /// Only the oldest machine has IDE; libvirt refuses it for all others.
    pub fn has_ide(&self) -> bool {
        self.kind == "pc" || self.kind.starts_with("pc-i440fx")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    pub loader: Option<String>,
    /// Secure boot; `None` where the loader does not know of it.
    pub secure: Option<bool>,
    pub nvram: Option<Nvram>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvram {
    pub path: String,
    pub template: Option<String>,
}

/// What the guest reads about its maker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smbios {
    pub manufacturer: String,
    pub product: String,
    /// Whether the uuid is the serial number too.
    pub serial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Local time, as Windows wants it, with the clock of Hyper-V.
    Windows,
    /// UTC; whether to offer or to hide KVM's own clock, `None` for the hypervisor's default.
    Utc { kvm_clock: Option<bool> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    pub acpi: bool,
    /// Needed by secure boot.
    pub smm: bool,
    /// What Windows uses of Hyper-V.
    pub hyperv: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Devices {
    pub emulator: Option<String>,
    pub rng: Option<Rng>,
    /// Socket of the guest agent.
    pub agent_socket: String,
    pub watchdog: Option<Watchdog>,
    pub video: Option<Video>,
    pub vnc: Vnc,
    pub tablet: bool,
    pub tpm: Option<Tpm>,
    pub arm: Option<Arm>,
    /// Seconds between balloon statistics, 0 for never; `None` for no balloon.
    pub balloon_period: Option<i64>,
    pub scsi: Option<ScsiControllers>,
    /// In this order the guest numbers them.
    pub disks: Vec<DiskDevice>,
    /// In this order the guest numbers them.
    pub nics: Vec<Nic>,
    pub gpus: Vec<GpuDevice>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScsiControllers {
    pub count: u32,
    pub queues: u32,
    pub iothread: Option<u32>,
}
