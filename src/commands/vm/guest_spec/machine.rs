//! Machine, firmware, processor, clock.

use super::{Inputs, UefiFiles, domain_type};
use crate::commands::to::{Era, VirtualMachineTo};
use crate::guest::DiskBus;
use crate::guest::bus::{Uefi, guest_disk_model};
use crate::guest::cpu::{self, Cpu, CpuFeature, CpuMode, CpuTuning, TopologyRule};
use crate::guest::spec::{Clock, DomainType, Features, Firmware, Machine, Nvram, Vcpus};

/// The machine and what else follows from architecture and firmware.
pub(super) struct Kind {
    pub os: Machine,
    pub uuid: String,
    pub uefi: Option<Uefi>,
    pub arm: bool,
    pub s390x: bool,
}

impl Kind {
    /// Machines whose disks are on SCSI because they have neither IDE nor SATA.
    pub fn scsi_arch(&self) -> bool {
        self.arm || self.s390x
    }
}

/// The detail `UEFI` with the value `LEGACY` or `SECURE`.
pub(super) fn uefi(vm: &VirtualMachineTo) -> Option<Uefi> {
    let mode = vm.detail("UEFI")?;
    if mode.eq_ignore_ascii_case("secure") {
        Some(Uefi::Secure)
    } else if mode.eq_ignore_ascii_case("legacy") {
        Some(Uefi::Legacy)
    } else {
        None
    }
}

pub(super) fn machine(inputs: Inputs<'_>, remarks: &mut Vec<String>) -> Kind {
    let Inputs { vm, config, host, .. } = inputs;
    let arch = config.text("guest.cpu.arch").map(str::to_owned).or_else(|| vm.arch.clone());
    let is = |name: &str| arch.as_deref() == Some(name);
    let (arm, s390x, uefi, uuid) = (is("aarch64"), is("s390x"), uefi(vm), super::uuid(vm));
    let kind = match vm.detail("kvm.guest.os.machine.type") {
        Some(kind) => kind,
        None if s390x => "s390-ccw-virtio",
        None if vm.has_detail("UEFI") => "q35",
        None if arm => "virt",
        None => "pc",
    };
    let mut firmware = uefi.map(|mode| firmware(mode, &host.uefi, &uuid));
    if arm && firmware.as_ref().is_none_or(|firmware| firmware.loader.is_none()) {
        let loader = Some("/usr/share/AAVMF/AAVMF_CODE.fd".to_owned());
        let nvram = firmware.and_then(|firmware| firmware.nvram);
        firmware = Some(Firmware { loader, secure: None, nvram });
    }
    if uefi.is_some() && firmware.as_ref().is_none_or(|firmware| firmware.loader.is_none()) {
        remarks.push(format!(
            "Guest {} wants UEFI, for which uefi.properties names no loader: it starts with a BIOS",
            vm.name
        ));
    }
    let os = Machine { arch: arch.clone(), kind: kind.to_owned(), firmware, boot_cdrom: !s390x };
    Kind { os, uuid, uefi, arm, s390x }
}

fn firmware(mode: Uefi, files: &UefiFiles, uuid: &str) -> Firmware {
    let secure = mode == Uefi::Secure;
    let template = files.template_secure.as_ref().filter(|_| secure).or(files.template_legacy.as_ref());
    Firmware {
        loader: if secure { files.loader_secure.clone() } else { files.loader_legacy.clone() },
        secure: Some(secure),
        nvram: files
            .nvram_path
            .as_ref()
            .map(|path| Nvram { path: format!("{path}{uuid}.fd"), template: template.cloned() }),
    }
}

pub(super) fn cpu(inputs: Inputs<'_>, vcpus: Vcpus, remarks: &mut Vec<String>) -> Cpu {
    let Inputs { vm, config, .. } = inputs;
    let setting = |key| vm.detail(key).or_else(|| config.text(key)).map(str::trim);
    let mut mode = match (setting("guest.cpu.mode"), setting("guest.cpu.model")) {
        (Some("custom"), Some(model)) if !model.is_empty() => CpuMode::Custom { model: model.to_owned() },
        (Some("host-model"), _) => CpuMode::HostModel,
        (Some("host-passthrough"), _) => CpuMode::HostPassthrough,
        _ => CpuMode::Default,
    };
    if domain_type(config) != DomainType::Kvm && matches!(mode, CpuMode::HostModel | CpuMode::HostPassthrough)
    {
        remarks.push(format!(
            "Guest {} is emulated in software and gets QEMU's own CPU model instead of the host's",
            vm.name
        ));
        mode = CpuMode::Default;
    }
    // Features are named for the host's processor, so system VMs do without them.
    let words = config.text("guest.cpu.features").filter(|_| vm.is_user()).unwrap_or_default();
    let features = words.split_whitespace().map(CpuFeature::parse).filter(|feature| !feature.name.is_empty());
    let wanted = config.boolean("enable.manually.setting.cpu.topology.on.kvm.vm").unwrap_or(true);
    let number = |key| vm.detail(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    let rule = if vm.era() >= Era::V4_20 { TopologyRule::Exact } else { TopologyRule::SixOrFour };
    let (cores, threads) = (number("cpu.corespersocket"), number("cpu.threadspercore"));
    Cpu {
        mode,
        features: features.collect(),
        topology: if wanted { cpu::topology(rule, vcpus.max, cores, threads) } else { None },
    }
}

pub(super) fn tuning(inputs: Inputs<'_>, vcpus: Vcpus) -> CpuTuning {
    let Inputs { vm, host, .. } = inputs;
    let mhz = vm.min_speed.or(vm.speed).and_then(|mhz| u64::try_from(mhz).ok()).unwrap_or(0);
    CpuTuning {
        shares: cpu::shares(vcpus.current, mhz, host.cpu_capacity_mhz),
        quota: vm.cpu_quota_percentage.filter(|_| vm.limit_cpu_use).and_then(cpu::quota),
    }
}

pub(super) fn clock(inputs: Inputs<'_>, machine: &Kind) -> Clock {
    let Inputs { vm, config, .. } = inputs;
    let os = vm.os.as_deref();
    if os.is_some_and(|os| os.starts_with("Windows")) {
        return Clock::Windows;
    }
    let knows_kvm = guest_disk_model(os, machine.uefi.is_some(), machine.scsi_arch()) != DiskBus::Ide;
    let hidden = config.boolean("kvmclock.disable").unwrap_or(false);
    // There is no KVM whose clock it could be.
    let wanted = (!vm.is_user() || knows_kvm) && domain_type(config) == DomainType::Kvm;
    Clock::Utc { kvm_clock: wanted.then_some(!hidden) }
}

pub(super) fn features(vm: &VirtualMachineTo, machine: &Kind) -> Features {
    Features {
        acpi: !machine.s390x,
        smm: machine.uefi == Some(Uefi::Secure),
        hyperv: vm.os.as_deref().is_some_and(|os| os.contains("Windows PV")),
    }
}
