//! Disks, network cards and all other devices.

use super::machine::Kind;
use super::{GuestSpecError, Inputs, ResolvedBridge, ResolvedDisk};
use crate::commands::to::{Data, DiskTo, Era, NicTo, VirtualMachineTo, VolumeObject};
use crate::config::{Config, Secret};
use crate::guest::bus::{Backing, Buses, DiskBus, guest_disk_model, label};
use crate::guest::devices::{Arm, GpuDevice, Rng, Tpm, Video, Vnc, Watchdog};
use crate::guest::disks::{
    CacheMode, Cdrom, Disk, DiskDevice, DiskFormat, DiskSource, IoPolicy, Rate, Throttle, serial,
};
use crate::guest::nics::{Nic, NicModel};
use crate::guest::spec::{Devices, ScsiControllers, Vcpus};

/// How disks of one guest are attached.
#[derive(Debug, Clone, Copy)]
pub struct DiskRules {
    pub buses: Buses,
    /// Of ISO images.
    pub iso_bus: DiskBus,
    /// Whether the machine has IDE.
    pub ide: bool,
    /// The I/O thread of virtio disks, if the guest has any.
    pub iothread: Option<u32>,
    pub io_uring: bool,
}

/// How network cards of one guest are attached.
#[derive(Debug, Clone, Copy)]
pub struct NicRules {
    pub model: NicModel,
    pub queues: Option<u32>,
    pub packed: bool,
    /// System VMs do not boot over the network.
    pub pxe: bool,
}

/// Threads of a guest that has the detail `iothreads`; their number is the host's affair.
pub(super) fn iothreads(inputs: Inputs<'_>) -> Option<u32> {
    let number = inputs.config.number("iothreads").and_then(|number| u32::try_from(number).ok());
    inputs.vm.has_detail("iothreads").then(|| number.unwrap_or(1))
}

pub(super) fn devices(
    inputs: Inputs<'_>,
    machine: &Kind,
    vcpus: Vcpus,
    remarks: &mut Vec<String>,
) -> Result<Devices, GuestSpecError> {
    let Inputs { vm, config, host, .. } = inputs;
    let rules = disk_rules(inputs, machine, remarks);
    let disks = disks(inputs, &rules)?;
    let period = config.number("vm.memballoon.stats.period").unwrap_or(0).max(0);
    let no_balloon = config.boolean("vm.memballoon.disable").unwrap_or(false);
    let sockets = config.text("qemu.sockets.path").unwrap_or("/var/lib/libvirt/qemu").trim_end_matches('/');
    Ok(Devices {
        emulator: host.emulator.clone(),
        rng: rng(config),
        agent_socket: format!("{sockets}/{}.org.qemu.guest_agent.0", vm.name),
        watchdog: watchdog(config).filter(|_| !machine.s390x),
        video: video(vm, config),
        vnc: Vnc {
            listen: inputs.vnc_listen.map(str::to_owned),
            password: Secret::new(vm.vnc_password.expose()),
        },
        tablet: !machine.s390x,
        tpm: vm
            .detail("virtual.tpm.model")
            .and_then(|model| Tpm::parse(model, vm.detail("virtual.tpm.version"))),
        arm: machine.scsi_arch().then_some(Arm { usb: machine.arm }),
        balloon_period: (!no_balloon).then_some(period),
        scsi: (rules.buses.root == DiskBus::Scsi).then(|| scsi(inputs, vcpus, disks.len())),
        disks,
        nics: nics(inputs, machine, vcpus)?,
        gpus: gpus(vm)?,
    })
}

fn disk_rules(inputs: Inputs<'_>, machine: &Kind, remarks: &mut Vec<String>) -> DiskRules {
    let Inputs { vm, host, .. } = inputs;
    let bus = |key| vm.detail(key).and_then(DiskBus::parse);
    let model =
        || guest_disk_model(vm.platform_emulator.as_deref(), machine.uefi.is_some(), machine.scsi_arch());
    let windows = vm.os.as_deref().is_some_and(|os| os.to_lowercase().contains("window"));
    let asked = bus("rootDiskController").unwrap_or_else(model);
    let ide = machine.os.has_ide();
    let root = if ide { asked } else { asked.without_ide() };
    if root != asked {
        remarks.push(format!(
            "Guest {} is to have IDE disks, which machine {} lacks: they are on SATA",
            vm.name, machine.os.kind
        ));
    }
    let iso_bus = match (machine.scsi_arch(), machine.uefi) {
        (true, _) => DiskBus::Scsi,
        (false, Some(_)) => DiskBus::Sata,
        (false, None) => DiskBus::Ide,
    };
    DiskRules {
        buses: Buses::new(root, bus("dataDiskController"), windows, machine.uefi),
        iso_bus: if ide { iso_bus } else { iso_bus.without_ide() },
        ide,
        iothread: iothreads(inputs).map(|_| 1),
        io_uring: host.io_uring,
    }
}

/// Since 4.20 one controller for every seven disks.
fn scsi(inputs: Inputs<'_>, vcpus: Vcpus, disks: usize) -> ScsiControllers {
    let needed = u32::try_from(disks.div_ceil(7)).unwrap_or(1).clamp(1, 16);
    ScsiControllers {
        count: if inputs.vm.era() >= Era::V4_20 { needed } else { 1 },
        queues: vcpus.current,
        iothread: iothreads(inputs).map(|_| 1),
    }
}

fn disks(inputs: Inputs<'_>, rules: &DiskRules) -> Result<Vec<DiskDevice>, GuestSpecError> {
    let Inputs { vm, resolved, .. } = inputs;
    let mut sorted: Vec<&DiskTo> = vm.disks.iter().collect();
    sorted.sort_by_key(|disk| disk.disk_seq);
    let mut devices = Vec::new();
    for to in sorted {
        let number = number(vm, to)?;
        let found = resolved.disks.get(&i64::from(number));
        let missing = || GuestSpecError::DiskNotResolved { name: vm.name.clone(), number: number.into() };
        devices.push(if to.is_iso() {
            let named = to.data.as_ref().and_then(Data::path).is_some_and(|path| !path.is_empty());
            if named && found.is_none() {
                return Err(missing());
            }
            DiskDevice::Cdrom(cdrom(rules, number, found.map(|found| found.source.clone())))
        } else {
            DiskDevice::Disk(disk(to, number, found.ok_or_else(missing)?, rules))
        });
    }
    if !vm.is_user() {
        // Where system VMs found their patches once; still there so that they see the same hardware.
        devices.push(DiskDevice::Cdrom(cdrom(rules, 3, None)));
    }
    Ok(devices)
}

fn number(vm: &VirtualMachineTo, disk: &DiskTo) -> Result<u32, GuestSpecError> {
    // More letters than any bus has places.
    const MOST: u32 = 1000;
    let number = disk.disk_seq.and_then(|number| u32::try_from(number).ok()).filter(|number| *number < MOST);
    number.ok_or_else(|| GuestSpecError::DiskNumber { name: vm.name.clone(), number: disk.disk_seq })
}

fn cdrom(rules: &DiskRules, number: u32, source: Option<DiskSource>) -> Cdrom {
    Cdrom { source, bus: rules.iso_bus, label: label(rules.iso_bus, number, true) }
}

/// One disk that is no ISO image, at device number `number`.
pub fn disk(to: &DiskTo, number: u32, found: &ResolvedDisk, rules: &DiskRules) -> Disk {
    let default = VolumeObject::default();
    let volume = match &to.data {
        Some(Data::Volume(volume)) => volume,
        _ => &default,
    };
    let bus = rules.buses.of(backing(to, found), to.kind.eq_ignore_ascii_case("DATADISK"));
    let bus = if rules.ide { bus } else { bus.without_ide() };
    let asked = to.detail("io.policy").and_then(IoPolicy::parse);
    let io = asked.or(rules.iothread.map(|_| IoPolicy::Threads));
    Disk {
        source: found.source.clone(),
        format: found.format,
        bus,
        label: label(bus, number, false),
        cache: volume.cache_mode.as_deref().map(CacheMode::parse).unwrap_or_default(),
        discard: rules.buses.root.discards() || pool_type(to).eq_ignore_ascii_case("Linstor"),
        io: io.filter(|io| *io != IoPolicy::IoUring || rules.io_uring),
        iothread: rules.iothread,
        block_sizes: found.block_sizes,
        serial: serial(&volume.uuid),
        encryption: found.secret.clone(),
        throttle: throttle(&volume.throttle),
    }
}

fn pool_type(to: &DiskTo) -> &str {
    let store = to.data.as_ref().and_then(Data::store).and_then(|store| store.primary());
    store.map_or("", |store| store.pool_type.as_str())
}

fn backing(to: &DiskTo, found: &ResolvedDisk) -> Backing {
    if matches!(found.source, DiskSource::Network { .. }) {
        Backing::Network
    } else if pool_type(to).eq_ignore_ascii_case("PowerFlex") {
        Backing::PowerFlex
    } else if matches!(found.source, DiskSource::Block(_)) || found.format == DiskFormat::Raw {
        Backing::Raw
    } else {
        Backing::Qcow2
    }
}

fn throttle(limits: &crate::commands::to::data::Throttle) -> Throttle {
    let rate = |base: i64, max: i64, length: i64| {
        let positive = |number: i64| u64::try_from(number).unwrap_or(0);
        Rate { base: positive(base), max: positive(max), max_length: positive(length) }
    };
    Throttle {
        read_bytes: rate(
            limits.bytes_read_rate,
            limits.bytes_read_rate_max,
            limits.bytes_read_rate_max_length,
        ),
        write_bytes: rate(
            limits.bytes_write_rate,
            limits.bytes_write_rate_max,
            limits.bytes_write_rate_max_length,
        ),
        read_iops: rate(limits.iops_read_rate, limits.iops_read_rate_max, limits.iops_read_rate_max_length),
        write_iops: rate(
            limits.iops_write_rate,
            limits.iops_write_rate_max,
            limits.iops_write_rate_max_length,
        ),
    }
}

fn nics(inputs: Inputs<'_>, machine: &Kind, vcpus: Vcpus) -> Result<Vec<Nic>, GuestSpecError> {
    let Inputs { vm, resolved, .. } = inputs;
    let platform = vm.platform_emulator.as_deref();
    let rules = NicRules {
        model: NicModel::choose(vm.detail("nicAdapter"), platform, machine.scsi_arch()),
        queues: vm.detail("nic.multiqueue.number").and_then(|number| queues(number, vcpus.current)),
        packed: packed(inputs),
        pxe: vm.is_user(),
    };
    let mut sorted: Vec<&NicTo> = vm.nics.iter().collect();
    sorted.sort_by_key(|nic| nic.device_id);
    let one = |to: &NicTo| {
        let found = resolved
            .bridges
            .get(&to.device_id)
            .ok_or_else(|| GuestSpecError::NicNotResolved { name: vm.name.clone(), number: to.device_id })?;
        let mut card = nic(to, found, &rules)?;
        // s390x has no boot code to leave out.
        card.pxe |= machine.s390x;
        Ok(card)
    };
    sorted.into_iter().map(one).collect()
}

/// The value of the detail `nic.multiqueue.number`: -1 is one queue for each vCPU.
pub fn queues(number: &str, vcpus: u32) -> Option<u32> {
    const MOST: u32 = 256;
    match number.parse::<i64>().ok()? {
        -1 => Some(vcpus.min(MOST)),
        number => u32::try_from(number).ok().filter(|number| (1..=MOST).contains(number)),
    }
}

fn packed(inputs: Inputs<'_>) -> bool {
    let Inputs { vm, host, .. } = inputs;
    let wanted =
        vm.detail("nic.packed.virtqueues.enabled").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    wanted && host.knows_packed_queues()
}

/// One network card on the bridge found for it.
pub fn nic(to: &NicTo, found: &ResolvedBridge, rules: &NicRules) -> Result<Nic, GuestSpecError> {
    Ok(Nic {
        bridge: found.bridge.clone(),
        mac: mac(to)?,
        model: rules.model,
        rate: to.rate_kilobytes(),
        queues: rules.queues,
        packed: rules.packed,
        pxe: rules.pxe && !to.pxe_disable,
        ovs: found.ovs.clone(),
    })
}

fn mac(to: &NicTo) -> Result<String, GuestSpecError> {
    let mut parts = 0;
    let sound = to.mac.split(':').all(|part| {
        parts += 1;
        part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    if sound && parts == 6 {
        Ok(to.mac.to_ascii_lowercase())
    } else {
        Err(GuestSpecError::Mac { number: to.device_id, mac: to.mac.clone() })
    }
}

fn rng(config: &Config) -> Option<Rng> {
    config.boolean("vm.rng.enable").unwrap_or(false).then(|| Rng {
        backend: config.text("vm.rng.model").unwrap_or("random").to_owned(),
        path: config.text("vm.rng.path").unwrap_or("/dev/random").to_owned(),
        bytes: config.number("vm.rng.rate.bytes").unwrap_or(2048),
        period: config.number("vm.rng.rate.period").unwrap_or(1000),
    })
}

fn watchdog(config: &Config) -> Option<Watchdog> {
    let model = config.text("vm.watchdog.model").unwrap_or("i6300esb");
    let action = config.text("vm.watchdog.action").unwrap_or("none").to_owned();
    (!model.eq_ignore_ascii_case("none")).then(|| Watchdog { model: model.to_owned(), action })
}

/// That of the VM, else that of the host, else the hypervisor's default.
fn video(vm: &VirtualMachineTo, config: &Config) -> Option<Video> {
    let model = vm.detail("video.hardware").or_else(|| config.text("vm.video.hardware"))?;
    let ram = vm.detail("video.ram").and_then(|ram| ram.parse().ok());
    let ram = ram.or_else(|| config.number("vm.video.ram")).unwrap_or(0);
    Some(Video { model: model.to_owned(), ram })
}

fn gpus(vm: &VirtualMachineTo) -> Result<Vec<GpuDevice>, GuestSpecError> {
    let wanted = vm.gpu_device.as_ref().map(|gpu| gpu.gpu_devices.as_slice()).unwrap_or_default();
    let one = |gpu: &crate::commands::to::vm::VgpuTypesInfo| {
        let device = if gpu.device_type.eq_ignore_ascii_case("MDEV") {
            let uuid = uuid::Uuid::parse_str(&gpu.bus_address).ok();
            uuid.map(|uuid| GpuDevice::Mediated { uuid: uuid.to_string(), display: gpu.display })
        } else {
            // Virtual functions of NVIDIA cards are kept by their own driver.
            let managed = gpu.vendor_id != "10de" || gpu.model_name == "passthrough";
            GpuDevice::pci(&gpu.bus_address, managed)
        };
        device.ok_or_else(|| GuestSpecError::Gpu { name: vm.name.clone(), address: gpu.bus_address.clone() })
    };
    wanted.iter().map(one).collect()
}
