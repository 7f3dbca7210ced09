//! Domain XML that this agent builds, given to a real libvirt: checked against its schema, started with
//! QEMU, and read back.

use crate::captured_guests::{CapturedGuest, captures};
use crate::real::cage::Cage;
use crate::real::with_libvirt;
use cloudstack_agent::commands::vm::guest_spec::{HostFacts, UefiFiles};
use cloudstack_agent::guest::disks::{DiskDevice, DiskSource};
use cloudstack_agent::guest::{GuestSpec, domain_xml};
use cloudstack_agent::xml::{self, Element};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const SOFTWARE: &str = "hypervisor.type=qemu";
const BRIDGE: &str = "cbr0";
const DISKS: &str = "/run/captured";

/// Small, on this cage's bridge, with disks that exist.
fn at_home(spec: &mut GuestSpec) -> Vec<String> {
    let mut files = Vec::new();
    spec.memory.current = 32 * 1024;
    for nic in &mut spec.devices.nics {
        BRIDGE.clone_into(&mut nic.bridge);
        // The kernel of small machines cannot limit bandwidth.
        nic.rate = None;
    }
    for device in &mut spec.devices.disks {
        let source = match device {
            DiskDevice::Disk(disk) => &mut disk.source,
            DiskDevice::Cdrom(cdrom) => match &mut cdrom.source {
                Some(source) => source,
                None => continue,
            },
        };
        if let DiskSource::File(path) = source {
            // Tests that run at the same time have guests of different names.
            *path = format!("{DISKS}/{}-{}", spec.name, path.rsplit('/').next().unwrap());
            files.push(path.clone());
        }
    }
    spec.devices.vnc.listen = Some("127.0.0.1".to_owned());
    files
}

async fn prepare(cage: &Cage, files: &[String]) {
    // There from an earlier test, perhaps.
    let _ = cage.run(&["ip", "link", "add", BRIDGE, "type", "bridge"]).await;
    cage.run(&["ip", "link", "set", BRIDGE, "up"]).await.unwrap();
    cage.run(&["mkdir", "-p", DISKS]).await.unwrap();
    for file in files {
        let format = if file.ends_with(".iso") { "raw" } else { "qcow2" };
        cage.run(&["qemu-img", "create", "-q", "-f", format, file, "1M"]).await.unwrap();
    }
}

/// One guest after the other: they have one name or the other in common.
async fn starts(cage: &Cage, spec: &GuestSpec) -> Element {
    let document = domain_xml::domain(spec).to_string();
    let path = format!("{DISKS}/{}.xml", spec.name);
    std::fs::write(cage.file(&path), &document).unwrap();
    cage.virsh(&["create", "--validate", &path]).await;
    let live = cage.virsh(&["dumpxml", "--security-info", &spec.name]).await;
    cage.virsh(&["destroy", &spec.name]).await;
    xml::parse(&live).unwrap()
}

/// Target, bus and file of each disk.
fn disks(domain: &Element) -> Vec<[Option<String>; 3]> {
    let disks = domain.at("devices").unwrap();
    let mut disks: Vec<_> = disks
        .all("disk")
        .map(|disk| {
            [("target", "dev"), ("target", "bus"), ("source", "file")]
                .map(|(path, name)| disk.attribute_at(path, name))
        })
        .collect();
    // libvirt puts them in its own order.
    disks.sort();
    disks
}

fn nics(domain: &Element) -> Vec<[Option<String>; 4]> {
    let nics = domain.at("devices").unwrap();
    nics.all("interface")
        .map(|nic| {
            [("mac", "address"), ("source", "bridge"), ("model", "type"), ("rom", "enabled")]
                .map(|(path, name)| nic.attribute_at(path, name))
        })
        .collect()
}

/// A guest of each document that libvirt would have to make.
fn guests() -> Vec<CapturedGuest> {
    let mut seen = BTreeSet::new();
    captures().pairs.into_iter().filter(|guest| seen.insert(guest.vm.name.clone())).collect()
}

#[test]
fn every_captured_guest_passes_the_schema_and_starts() {
    with_libvirt(async |cage| {
        for guest in guests() {
            let mut spec = guest.build(SOFTWARE).spec;
            let files = at_home(&mut spec);
            prepare(cage, &files).await;
            let (asked, live) = (domain_xml::domain(&spec), starts(cage, &spec).await);
            assert_eq!(live.text_at("uuid"), asked.text_at("uuid"), "{}", guest.file);
            assert_eq!(disks(&live), disks(&asked), "{}", guest.file);
            assert_eq!(nics(&live), nics(&asked), "{}", guest.file);
            let password = |domain: &Element| domain.attribute_at("devices/graphics", "passwd").unwrap();
            assert_eq!(password(&live), password(&asked), "{}", guest.file);
        }
    });
}

/// A guest unlike the captured ones.
struct Variant {
    what: &'static str,
    change: fn(&mut Value),
    properties: &'static str,
    /// False where starting needs a device or program that a cage lacks.
    starts: bool,
}

const VARIANTS: [Variant; 9] = [
    Variant {
        what: "scsi with threads of their own, limits, and many queues",
        change: |vm| {
            vm["details"] = json!({
                "rootDiskController": "scsi", "iothreads": "", "nicAdapter": "virtio",
                "nic.packed.virtqueues.enabled": "true",
            });
            let volume = &mut vm["disks"][1]["data"]["org.apache.cloudstack.storage.to.VolumeObjectTO"];
            for field in ["bytesReadRate", "bytesReadRateMax", "bytesReadRateMaxLength", "iopsWriteRate"] {
                volume[field] = 1_000_000.into();
            }
            volume["bytesReadRateMaxLength"] = 5.into();
        },
        properties: "iothreads=2\n",
        starts: true,
    },
    Variant {
        what: "virtio with threads and discard",
        change: |vm| vm["details"] = json!({"rootDiskController": "virtio-blk", "iothreads": ""}),
        properties: "",
        starts: true,
    },
    Variant {
        what: "Windows",
        change: |vm| {
            vm["os"] = "Windows PV <'&\">".into();
            vm["platformEmulator"] = "Windows PV".into();
        },
        properties: "guest.cpu.mode=host-passthrough\n",
        starts: true,
    },
    Variant {
        what: "growing, with a topology and a model",
        change: |vm| {
            vm["maxRam"] = 268_435_456.into();
            vm["vcpuMaxLimit"] = 4.into();
            vm["details"] = json!({"cpu.corespersocket": "2"});
        },
        properties: "guest.cpu.mode=custom\nguest.cpu.model=Nehalem\nguest.cpu.features=-vme\n",
        starts: true,
    },
    Variant {
        what: "UEFI",
        change: |vm| vm["details"] = json!({"UEFI": "LEGACY"}),
        properties: "",
        starts: true,
    },
    Variant {
        what: "UEFI with secure boot",
        change: |vm| vm["details"] = json!({"UEFI": "SECURE"}),
        properties: "",
        starts: true,
    },
    Variant {
        what: "other machine, all devices that settings can add",
        change: |vm| vm["details"] = json!({"kvm.guest.os.machine.type": "q35"}),
        properties: "vm.rng.enable=true\nvm.rng.path=/dev/urandom\nvm.watchdog.model=none\n\
                     vm.video.hardware=vga\nvm.video.ram=8192\nvm.memballoon.stats.period=5\n",
        starts: true,
    },
    Variant {
        what: "extra config",
        change: |vm| {
            vm["extraConfig"] = json!({
                "extraconfig-1": "<memoryBacking><nosharepages/></memoryBacking><on_crash>preserve</on_crash>",
                "extraconfig-2": "<qemu:commandline><qemu:env name='X' value='1'/></qemu:commandline>",
                "extraconfig-3": "<devices><sound model='ich6'/></devices><features><pmu state='off'/></features>",
            });
        },
        properties: "",
        starts: true,
    },
    Variant {
        what: "TPM, devices of the host, limited processor time",
        change: |vm| {
            vm["details"] = json!({"virtual.tpm.model": "tpm-crb"});
            vm["limitCpuUse"] = true.into();
            vm["cpuQuotaPercentage"] = json!(0.05);
            vm["gpuDevice"] = json!({"gpuDevices": [{"deviceType": "PCI", "busAddress": "3b:00.1"}]});
        },
        properties: "",
        starts: false,
    },
];

fn host() -> HostFacts {
    let file = |name: &str| Some(format!("{DISKS}/{name}"));
    let uefi = UefiFiles {
        loader_legacy: file("loader.fd"),
        loader_secure: file("loader.fd"),
        template_legacy: file("loader.fd"),
        template_secure: None,
        nvram_path: file("nvram-"),
    };
    HostFacts { libvirt_version: 9_000_000, qemu_version: 7_002_000, uefi, ..HostFacts::default() }
}

#[test]
fn guests_of_all_kinds_pass_the_schema_and_start() {
    with_libvirt(async |cage| {
        let mut captured = guests();
        captured.retain(|guest| guest.vm.is_user());
        let guest = captured.first().unwrap();
        for Variant { what, change, properties, starts: can_start } in VARIANTS {
            let properties = format!("{SOFTWARE}\n{properties}");
            let built = guest.build_changed(&properties, &host(), |vm| {
                // The captured guest may run at the same time in another test.
                vm["name"] = "i-9-9-VM".into();
                vm["uuid"] = "99999999-0000-4000-8000-999999999999".into();
                change(vm);
            });
            let mut spec = built.spec;
            prepare(cage, &at_home(&mut spec)).await;
            // Firmware that does nothing.
            cage.run(&["truncate", "-s", "4M", &format!("{DISKS}/loader.fd")]).await.unwrap();
            let asked = domain_xml::domain(&spec);
            if !can_start {
                passes_the_schema(cage, &spec).await;
                continue;
            }
            let live = starts(cage, &spec).await;
            assert_eq!(live.text_at("description"), asked.text_at("description"), "{what}");
            assert_eq!(live.attribute_at("os/type", "arch"), asked.attribute_at("os/type", "arch"), "{what}");
            assert_eq!(disks(&live), disks(&asked), "{what}");
            for path in
                ["cpu/topology", "cpu/numa/cell", "maxMemory", "on_crash", "memoryBacking/nosharepages"]
            {
                let wanted = asked.at(path).map(|element| &element.text);
                assert_eq!(live.at(path).map(|element| &element.text), wanted, "{what}: {path}");
            }
        }
    });
}

/// Only the schema: libvirt's test driver knows no hardware that could be missing.
async fn passes_the_schema(cage: &Cage, spec: &GuestSpec) {
    let path = format!("{DISKS}/{}.xml", spec.name);
    let mut domain = domain_xml::domain(spec);
    domain.set("type", "test");
    std::fs::write(cage.file(&path), domain.to_string()).unwrap();
    cage.run(&["virsh", "-q", "-c", "test:///default", "define", "--validate", &path]).await.unwrap();
}
