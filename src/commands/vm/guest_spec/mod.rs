//! From a `VirtualMachineTO`, the configuration and facts of the host to a [`GuestSpec`].
//!
//! No I/O: paths of disks and names of bridges are found out before and handed in. Mirrors
//! `LibvirtComputingResource.createVMFromSpec`, `createVbds` and `createVifs`. Not a command.

mod devices;
mod machine;
#[cfg(test)]
mod tests;

pub use devices::{DiskRules, NicRules, disk, nic, queues};

use crate::commands::to::{Era, VirtualMachineTo};
use crate::config::Config;
use crate::guest::disks::{DiskFormat, DiskSource};
use crate::guest::extra_config::{ExtraConfig, ExtraConfigError};
use crate::guest::nics::OvsPort;
use crate::guest::spec::{DomainType, GuestSpec, Memory, Smbios, Vcpus};
use std::collections::BTreeMap;
use thiserror::Error;
use uuid::Uuid;

#[derive(Debug, Error)]
pub enum GuestSpecError {
    #[error("{name:?} is no name of a guest: slashes and control characters are not allowed")]
    Name { name: String },
    #[error("Guest {name} is to have {vcpus} vCPUs: 1 to {MAX_VCPUS} are possible")]
    Vcpus { name: String, vcpus: i64 },
    #[error("Guest {name} is to have {bytes} bytes of memory: correct its service offering")]
    Memory { name: String, bytes: i64 },
    #[error("A disk of guest {name} has no usable device number: {number:?}")]
    DiskNumber { name: String, number: Option<i64> },
    #[error("Disk {number} of guest {name} was not found on this host")]
    DiskNotResolved { name: String, number: i64 },
    #[error("Network card {number} of guest {name} has no bridge on this host")]
    NicNotResolved { name: String, number: i64 },
    #[error("{mac:?} of network card {number} is no hardware address")]
    Mac { number: i64, mac: String },
    #[error("{address:?} is no address of a device of the host that guest {name} could be given")]
    Gpu { name: String, address: String },
    #[error(transparent)]
    ExtraConfig(#[from] ExtraConfigError),
}

/// QEMU's machines stop before.
const MAX_VCPUS: u32 = 4096;

/// What the guest depends on of this host.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// MHz of all cores if control groups are of version 2, else 0.
    pub cpu_capacity_mhz: u64,
    /// `major * 1000000 + minor * 1000 + release`.
    pub libvirt_version: u64,
    pub qemu_version: u64,
    /// Whether QEMU was built with io_uring.
    pub io_uring: bool,
    /// `None`: libvirt's default.
    pub emulator: Option<String>,
    /// Of `uefi.properties`.
    pub uefi: UefiFiles,
}

impl HostFacts {
    pub fn knows_packed_queues(&self) -> bool {
        self.qemu_version >= 4_002_000 && self.libvirt_version >= 6_003_000
    }
}

/// The values of `uefi.properties`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UefiFiles {
    pub loader_legacy: Option<String>,
    pub loader_secure: Option<String>,
    pub template_legacy: Option<String>,
    pub template_secure: Option<String>,
    /// Directory with a slash at its end.
    pub nvram_path: Option<String>,
}

impl UefiFiles {
    /// Reads the keys through `get`.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> UefiFiles {
        let text = |key| get(key).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned);
        UefiFiles {
            loader_legacy: text("guest.loader.legacy"),
            loader_secure: text("guest.loader.secure"),
            template_legacy: text("guest.nvram.template.legacy"),
            template_secure: text("guest.nvram.template.secure"),
            nvram_path: text("guest.nvram.path"),
        }
    }
}

/// What was found out for this guest before.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// By `diskSeq`. An ISO without a path needs none.
    pub disks: BTreeMap<i64, ResolvedDisk>,
    /// By `deviceId`.
    pub bridges: BTreeMap<i64, ResolvedBridge>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedDisk {
    pub source: DiskSource,
    pub format: DiskFormat,
    /// uuid of the libvirt secret with the volume's passphrase.
    pub secret: Option<String>,
    /// Logical and physical block size that the pool asks for.
    pub block_sizes: Option<(u32, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedBridge {
    pub bridge: String,
    pub ovs: Option<OvsPort>,
}

/// All that a guest is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub vm: &'a VirtualMachineTo,
    pub config: &'a Config,
    pub host: &'a HostFacts,
    pub resolved: &'a Resolved,
    /// `hostIp` of the command: where the VNC display listens.
    pub vnc_listen: Option<&'a str>,
}

#[derive(Debug, Clone)]
pub struct Built {
    pub spec: GuestSpec,
    /// What is other than asked for, one sentence each, for the log.
    pub remarks: Vec<String>,
}

/// Everything about one guest.
pub fn build(inputs: Inputs<'_>) -> Result<Built, GuestSpecError> {
    let Inputs { vm, config, .. } = inputs;
    check_name(&vm.name)?;
    let vcpus = vcpus(vm)?;
    let memory = memory(vm, config)?;
    let mut remarks = Vec::new();
    let machine = machine::machine(inputs, &mut remarks);
    let extra = extra_config(vm)?;
    let own_cpu = vm.is_user() && vm.extra_config.contains_key("extraconfig-dpdk-numa");
    let devices = devices::devices(inputs, &machine, vcpus, &mut remarks)?;
    let spec = GuestSpec {
        name: vm.name.clone(),
        uuid: machine.uuid.clone(),
        description: vm.os.clone().filter(|os| !os.is_empty()),
        kind: domain_type(config),
        memory,
        vcpus,
        cpu: if own_cpu { None } else { Some(machine::cpu(inputs, vcpus, &mut remarks)) },
        tuning: machine::tuning(inputs, vcpus),
        smbios: smbios(vm),
        clock: machine::clock(inputs, &machine),
        features: machine::features(vm, &machine),
        iothreads: devices::iothreads(inputs),
        devices,
        machine: machine.os,
        extra,
    };
    Ok(Built { spec, remarks })
}

/// By `hypervisor.type`, unless libvirt's test driver is asked, which has but one type.
pub fn domain_type(config: &Config) -> DomainType {
    if config.hypervisor_uri.starts_with("test:") {
        DomainType::Test
    } else if config.hypervisor_type.eq_ignore_ascii_case("qemu") {
        DomainType::Qemu
    } else {
        DomainType::Kvm
    }
}

/// The name becomes part of the path of a socket.
fn check_name(name: &str) -> Result<(), GuestSpecError> {
    let sound = !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_control());
    if sound { Ok(()) } else { Err(GuestSpecError::Name { name: name.to_owned() }) }
}

fn vcpus(vm: &VirtualMachineTo) -> Result<Vcpus, GuestSpecError> {
    let sound = |vcpus: i64| {
        let number = u32::try_from(vcpus).ok().filter(|number| (1..=MAX_VCPUS).contains(number));
        number.ok_or_else(|| GuestSpecError::Vcpus { name: vm.name.clone(), vcpus })
    };
    let current = sound(vm.cpus)?;
    // Less than what it starts with cannot be meant.
    let max = sound(vm.vcpu_max_limit.unwrap_or(vm.cpus))?.max(current);
    Ok(Vcpus { current, max })
}

/// System VMs and guests without balloon get all at once.
fn memory(vm: &VirtualMachineTo, config: &Config) -> Result<Memory, GuestSpecError> {
    let kib = |bytes: i64| {
        let kib = u64::try_from(bytes).ok().map(|bytes| bytes / 1024).filter(|kib| *kib > 0);
        kib.ok_or_else(|| GuestSpecError::Memory { name: vm.name.clone(), bytes })
    };
    let max = kib(vm.max_ram)?;
    let fixed = !vm.is_user() || config.boolean("vm.memballoon.disable").unwrap_or(false);
    let current = if fixed { max } else { kib(vm.min_ram)? };
    Ok(Memory { current, max: Some(max).filter(|max| *max > current) })
}

fn smbios(vm: &VirtualMachineTo) -> Smbios {
    let given = |text: &Option<String>, default: &str| {
        text.as_deref().map(str::trim).filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
    };
    Smbios {
        manufacturer: given(&vm.metadata_manufacturer, "Apache Software Foundation"),
        product: given(&vm.metadata_product_name, "CloudStack KVM Hypervisor"),
        serial: vm.era() >= Era::V4_20,
    }
}

/// The uuid of the VM, or any if that is not in the one form that libvirt gives back.
fn uuid(vm: &VirtualMachineTo) -> String {
    match Uuid::parse_str(&vm.uuid) {
        Ok(uuid) if uuid.to_string() == vm.uuid => vm.uuid.clone(),
        _ => Uuid::new_v4().to_string(),
    }
}

/// Raw XML of user VMs. What configures DPDK ports is no XML.
fn extra_config(vm: &VirtualMachineTo) -> Result<ExtraConfig, GuestSpecError> {
    let is_xml = |key: &str| !key.starts_with("extraconfig-dpdk-interface-") && key != "DPDK-VHOSTUSER";
    let fragments = vm
        .extra_config
        .iter()
        .filter(|(key, _)| vm.is_user() && is_xml(key))
        .filter_map(|(key, text)| Some((key.as_str(), text.as_deref()?)));
    Ok(ExtraConfig::parse(fragments)?)
}
