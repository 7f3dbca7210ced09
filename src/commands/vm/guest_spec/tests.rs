//! What becomes of single fields, settings and facts. Whole guests are compared with captured ones in
//! `tests/behaviour/domain_xml.rs`.

use super::*;
use crate::config::Properties;
use crate::guest::domain_xml;
use crate::xml::Element;
use serde_json::{Value, json};
use std::path::Path;

/// A host, a guest and what was found for it.
struct Case {
    vm: Value,
    properties: String,
    host: HostFacts,
    resolved: Resolved,
}

/// A plain user VM with one disk, an empty CD-ROM and one network card.
fn case() -> Case {
    let mut case = Case {
        vm: json!({
            "name": "i-2-10-VM", "type": "User", "uuid": "6a1b1f0e-0d53-4b5c-9f3c-3a2f8b1c7d10",
            "cpus": 2, "minSpeed": 500, "minRam": 134_217_728, "maxRam": 134_217_728, "arch": "x86_64",
            "os": "Other Linux (64-bit)", "platformEmulator": "Other Linux", "vncPassword": "0123456789",
            "params": {}, "disks": [], "nics": [],
        }),
        properties: String::new(),
        host: HostFacts::default(),
        resolved: Resolved::default(),
    };
    case.disk(0, "ROOT");
    case.vm["disks"].as_array_mut().unwrap().push(json!({"diskSeq": 3, "type": "ISO"}));
    case.nic(0);
    case
}

fn user_vm(change: impl FnOnce(&mut Case)) -> Case {
    let mut case = case();
    change(&mut case);
    case
}

impl Case {
    fn disk(&mut self, number: i64, kind: &str) {
        self.vm["disks"].as_array_mut().unwrap().push(json!({
            "diskSeq": number, "type": kind,
            "data": {"org.apache.cloudstack.storage.to.VolumeObjectTO": {
                "uuid": format!("9b2d3f0c-7c1e-7c3a-4f43-9a5b0d5b4a{number:02}"), "path": "volume",
                "dataStore": {"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": {"poolType": "Filesystem"}},
            }},
        }));
        let source = DiskSource::File(format!("/pool/{number}"));
        let found = ResolvedDisk { source, format: DiskFormat::Qcow2, secret: None, block_sizes: None };
        self.resolved.disks.insert(number, found);
    }

    fn nic(&mut self, number: i64) {
        self.vm["nics"].as_array_mut().unwrap().push(json!({
            "deviceId": number, "mac": format!("02:00:4C:5F:00:{number:02}"), "type": "Guest",
        }));
        let found = ResolvedBridge { bridge: format!("br{number}"), ovs: None };
        self.resolved.bridges.insert(number, found);
    }

    fn volume(&mut self, place: usize) -> &mut Value {
        &mut self.vm["disks"][place]["data"]["org.apache.cloudstack.storage.to.VolumeObjectTO"]
    }

    fn build(&self) -> Result<Built, GuestSpecError> {
        let properties = Properties::parse(self.properties.as_bytes()).unwrap();
        let config = Config::from_properties(Path::new("agent.properties"), &properties).unwrap();
        let vm: VirtualMachineTo = serde_json::from_value(self.vm.clone()).unwrap();
        let (host, resolved) = (&self.host, &self.resolved);
        build(Inputs { vm: &vm, config: &config, host, resolved, vnc_listen: Some("10.99.0.2") })
    }

    fn remarks(&self) -> Vec<String> {
        self.build().unwrap().remarks
    }

    fn xml(&self) -> Element {
        domain_xml::domain(&self.build().unwrap().spec)
    }

    fn error(&self) -> String {
        self.build().unwrap_err().to_string()
    }
}

/// The children of an element that has that name, as text.
fn all(domain: &Element, path: &str, name: &str) -> Vec<String> {
    domain.at(path).unwrap().all(name).map(ToString::to_string).collect()
}

fn one(domain: &Element, path: &str) -> String {
    domain.at(path).map(ToString::to_string).unwrap_or_default()
}

/// Device and bus of each disk.
fn targets(domain: &Element) -> Vec<(String, String)> {
    let disks = domain.at("devices").unwrap();
    disks
        .all("disk")
        .map(|disk| {
            (disk.attribute_at("target", "dev").unwrap(), disk.attribute_at("target", "bus").unwrap())
        })
        .collect()
}

fn names(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

fn ovmf() -> UefiFiles {
    let values = [
        ("guest.loader.legacy", "/l.fd"),
        ("guest.loader.secure", "/s.fd"),
        ("guest.nvram.template.legacy", "/lt.fd"),
        ("guest.nvram.path", "/nvram/"),
    ];
    UefiFiles::read(|key| values.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
}

#[test]
fn uefi_guests_have_a_modern_machine_and_sata() {
    let legacy = user_vm(|case| {
        case.vm["params"]["UEFI"] = "legacy".into();
        case.host.uefi = ovmf();
    });
    let domain = legacy.xml();
    assert_eq!(domain.attribute_at("os/type", "machine").unwrap(), "q35");
    assert_eq!(one(&domain, "os/loader"), "<loader readonly='yes' secure='no' type='pflash'>/l.fd</loader>");
    assert_eq!(
        one(&domain, "os/nvram"),
        "<nvram template='/lt.fd'>/nvram/6a1b1f0e-0d53-4b5c-9f3c-3a2f8b1c7d10.fd</nvram>"
    );
    assert_eq!(targets(&domain), names(&[("sda", "sata"), ("sdd", "sata")]));
    assert!(domain.at("features/smm").is_none());

    let secure = user_vm(|case| {
        case.vm["params"]["UEFI"] = "SECURE".into();
        case.host.uefi = ovmf();
    });
    let domain = secure.xml();
    assert_eq!(one(&domain, "os/loader"), "<loader readonly='yes' secure='yes' type='pflash'>/s.fd</loader>");
    assert!(one(&domain, "os/nvram").contains("template='/lt.fd'"), "no template of its own");
    assert_eq!(one(&domain, "features/smm"), "<smm state='on'/>");
    assert_eq!(targets(&domain), names(&[("vda", "virtio"), ("sdd", "sata")]));

    let without_loader = user_vm(|case| case.vm["params"]["UEFI"] = "LEGACY".into());
    assert!(without_loader.remarks()[0].contains("uefi.properties"));
}

#[test]
fn machines_without_ide_get_sata_and_a_remark() {
    let case = user_vm(|case| case.vm["details"] = json!({"kvm.guest.os.machine.type": "q35"}));
    assert_eq!(targets(&case.xml()), names(&[("sda", "sata"), ("sdd", "sata")]));
    assert!(case.remarks()[0].contains("SATA"), "{:?}", case.remarks());
    let old = user_vm(|case| case.vm["details"] = json!({"kvm.guest.os.machine.type": "pc-i440fx-7.2"}));
    assert_eq!((targets(&old.xml()), old.remarks().len()), (names(&[("hda", "ide"), ("hdc", "ide")]), 0));
}

#[test]
fn processors_are_those_of_the_setting_or_the_vm() {
    for (mode, model, expected) in [
        ("custom", "Skylake", "<cpu mode='custom' match='exact'><model fallback='allow'>Skylake</model>"),
        ("custom", "", "<cpu><feature"),
        ("host-model", "", "<cpu mode='host-model'><model fallback='allow'/>"),
        ("host-passthrough", "", "<cpu mode='host-passthrough'>"),
        ("nonsense", "", "<cpu><feature"),
    ] {
        let case = user_vm(|case| {
            case.properties =
                format!("guest.cpu.mode={mode}\nguest.cpu.model={model}\nguest.cpu.features=vmx -hle\n");
        });
        let cpu = one(&case.xml(), "cpu");
        assert!(cpu.starts_with(expected), "{mode}: {cpu}");
        assert!(cpu.contains("<feature policy='disable' name='hle'/>"), "{cpu}");
    }
    let own = user_vm(|case| {
        case.properties = "guest.cpu.mode=host-model\n".to_owned();
        case.vm["params"] = json!({"guest.cpu.mode": "host-passthrough"});
    });
    assert_eq!(own.xml().attribute_at("cpu", "mode").unwrap(), "host-passthrough");
}

#[test]
fn software_emulation_has_nothing_of_kvm() {
    let case = user_vm(|case| {
        case.properties = "hypervisor.type=qemu\nguest.cpu.mode=host-passthrough\n".to_owned();
        case.vm["os"] = "Debian GNU/Linux 12".into();
    });
    let domain = case.xml();
    assert_eq!(domain.attribute("type"), Some("qemu"));
    assert_eq!(
        (one(&domain, "cpu"), one(&domain, "clock")),
        ("<cpu/>".to_owned(), "<clock offset='utc'/>".to_owned())
    );
    assert!(case.remarks()[0].contains("emulated in software"));
    let tested = user_vm(|case| case.properties = "hypervisor.uri=test\\:///default\n".to_owned());
    assert_eq!(tested.xml().attribute("type"), Some("test"));
}

#[test]
fn clocks_by_operating_system() {
    for (os, kind, properties, expected) in [
        ("Other Linux", "User", "", "<clock offset='utc'/>"),
        ("Debian GNU/Linux 12", "User", "", "<clock offset='utc'><timer name='kvmclock'/></clock>"),
        ("Other Linux", "DomainRouter", "", "<clock offset='utc'><timer name='kvmclock'/></clock>"),
        (
            "Debian GNU/Linux 12",
            "User",
            "kvmclock.disable=true\n",
            "<clock offset='utc'><timer name='kvmclock' present='no'/></clock>",
        ),
        (
            "Windows PV",
            "User",
            "",
            "<clock offset='localtime'><timer name='hypervclock' present='yes'/></clock>",
        ),
    ] {
        let case = user_vm(|case| {
            case.vm["os"] = os.into();
            case.vm["type"] = kind.into();
            case.properties = properties.to_owned();
        });
        assert_eq!(one(&case.xml(), "clock"), expected, "{os} {kind} {properties}");
        assert_eq!(case.xml().at("features/hyperv").is_some(), os == "Windows PV");
    }
}

#[test]
fn system_vms_get_all_memory_a_second_cdrom_and_no_extras() {
    let case = user_vm(|case| {
        case.vm["type"] = "ConsoleProxy".into();
        case.vm["minRam"] = 1024.into();
        case.vm["extraConfig"] = json!({"extraconfig-1": "<memoryBacking/>"});
        case.properties = "guest.cpu.features=vmx\n".to_owned();
    });
    let domain = case.xml();
    assert_eq!(domain.text_at("memory").unwrap(), "131072");
    assert!(domain.at("maxMemory").is_none() && domain.at("memoryBacking").is_none());
    assert_eq!(one(&domain, "cpu"), "<cpu/>");
    assert_eq!(targets(&domain), names(&[("hda", "ide"), ("hdc", "ide"), ("hdc", "ide")]));
    assert_eq!(one(&domain, "devices/interface/rom"), "<rom enabled='no'/>");
}

#[test]
fn guests_that_may_grow_have_numa_within_the_one_cpu() {
    let case = user_vm(|case| {
        case.vm["maxRam"] = 268_435_456.into();
        case.vm["vcpuMaxLimit"] = 4.into();
        case.vm["metadataManufacturer"] = "".into();
    });
    let domain = case.xml();
    assert_eq!(one(&domain, "maxMemory"), "<maxMemory slots='16' unit='KiB'>262144</maxMemory>");
    assert_eq!(one(&domain, "vcpu"), "<vcpu current='2'>4</vcpu>");
    assert_eq!(
        all(&domain, "cpu", "topology"),
        ["<topology sockets='4' cores='1' threads='1'/>"],
        "4.20 by its metadata"
    );
    assert_eq!(one(&domain, "cpu/numa/cell"), "<cell id='0' cpus='0-3' memory='131072' unit='KiB'/>");
    assert_eq!(domain.all("cpu").count(), 1);
    let fixed = user_vm(|case| {
        case.vm["maxRam"] = 268_435_456.into();
        case.properties = "vm.memballoon.disable=true\n".to_owned();
    });
    assert_eq!(one(&fixed.xml(), "memory"), "<memory>262144</memory>");
    assert_eq!(one(&fixed.xml(), "devices/memballoon"), "<memballoon model='none'/>");
}

#[test]
fn weights_and_limits() {
    let case = user_vm(|case| {
        case.host.cpu_capacity_mhz = 48_000;
        case.vm["limitCpuUse"] = true.into();
        case.vm["cpuQuotaPercentage"] = json!(0.5);
    });
    assert_eq!(
        one(&case.xml(), "cputune"),
        "<cputune><shares>209</shares><quota>5000</quota><period>10000</period></cputune>"
    );
    let no_limit = user_vm(|case| case.vm["cpuQuotaPercentage"] = json!(0.5));
    assert_eq!(one(&no_limit.xml(), "cputune"), "<cputune><shares>1000</shares></cputune>");
}

#[test]
fn scsi_disks_have_controllers_and_give_blocks_back() {
    let case = user_vm(|case| {
        case.vm["params"] = json!({"rootDiskController": "scsi", "iothreads": "true"});
        for number in [1, 2, 5, 6, 7, 8, 9] {
            case.disk(number, "DATADISK");
        }
        case.vm["metadataManufacturer"] = "ACME".into();
        case.properties = "iothreads=2\n".to_owned();
    });
    let domain = case.xml();
    assert_eq!(targets(&domain)[..2], names(&[("sda", "scsi"), ("sdb", "scsi")]));
    let controllers = all(&domain, "devices", "controller");
    assert_eq!(controllers.len(), 2);
    assert!(
        controllers[1].contains("index='1'") && controllers[1].contains("slot='0x0a'"),
        "{controllers:?}"
    );
    assert!(controllers[1].ends_with("<driver queues='2' iothread='1'/></controller>"), "{controllers:?}");
    assert_eq!(
        one(&domain, "devices/disk/driver"),
        "<driver name='qemu' type='qcow2' cache='none' discard='unmap' io='threads'/>"
    );
    assert_eq!(one(&domain, "iothreads"), "<iothreads>2</iothreads>");
    assert!(one(&domain, "sysinfo").contains("'manufacturer'>ACME<"));
}

#[test]
fn disks_carry_what_their_volume_asks_for() {
    let mut case = user_vm(|case| {
        case.vm["params"] = json!({"rootDiskController": "virtio-blk", "iothreads": ""});
        case.vm["disks"][0]["_details"] = json!({"io.policy": "io_uring"});
        case.volume(0)["cacheMode"] = "WRITEBACK".into();
        case.volume(0)["iopsReadRate"] = 100.into();
        case.resolved.disks.get_mut(&0).unwrap().secret = Some("s-1".to_owned());
        case.host.io_uring = true;
    });
    let driver = |case: &Case| one(&case.xml(), "devices/disk/driver");
    assert_eq!(
        driver(&case),
        "<driver name='qemu' type='qcow2' cache='writeback' discard='unmap' io='io_uring' iothread='1'/>"
    );
    let domain = case.xml();
    assert_eq!(targets(&domain)[0], names(&[("vda", "virtio")])[0]);
    assert_eq!(one(&domain, "devices/disk/iotune"), "<iotune><read_iops_sec>100</read_iops_sec></iotune>");
    assert!(one(&domain, "devices/disk/encryption").contains("uuid='s-1'"));
    case.host.io_uring = false;
    assert!(!driver(&case).contains("io="), "{}", driver(&case));
}

#[test]
fn network_cards_are_numbered_by_device_and_may_have_gaps() {
    let case = user_vm(|case| {
        case.nic(7);
        case.nic(3);
        case.vm["nics"][1]["pxeDisable"] = true.into();
        case.vm["params"] = json!({
            "nicAdapter": "virtio", "nic.multiqueue.number": "-1", "nic.packed.virtqueues.enabled": "true",
        });
        case.host.qemu_version = 7_002_000;
        case.host.libvirt_version = 9_000_000;
    });
    let nics = all(&case.xml(), "devices", "interface");
    let expected = ["02:00:4c:5f:00:00", "02:00:4c:5f:00:03", "02:00:4c:5f:00:07"];
    assert_eq!(nics.len(), 3);
    for (nic, mac) in nics.iter().zip(expected) {
        assert!(nic.contains(mac) && nic.contains("<driver queues='2' packed='on'/>"), "{nic}");
        assert_eq!(nic.contains("<rom enabled='no'/>"), mac.ends_with('7'), "{nic}");
    }
}

#[test]
fn settings_of_the_host_add_devices() {
    let case = user_vm(|case| {
        case.properties =
            "vm.rng.enable=true\nvm.watchdog.model=none\nvm.video.hardware=vga\nvm.video.ram=4096\n\
                           vm.memballoon.stats.period=5\nqemu.sockets.path=/s/\n"
                .to_owned();
        case.vm["params"] = json!({"video.ram": "8192", "virtual.tpm.model": "tpm-crb"});
    });
    let domain = case.xml();
    for (path, expected) in [
        (
            "devices/rng",
            "<rng model='virtio'><rate period='1000' bytes='2048'/><backend model='random'>/dev/random</backend></rng>",
        ),
        ("devices/watchdog", ""),
        ("devices/video", "<video><model type='vga' vram='8192'/></video>"),
        ("devices/memballoon", "<memballoon model='virtio'><stats period='5'/></memballoon>"),
        ("devices/channel/source", "<source mode='bind' path='/s/i-2-10-VM.org.qemu.guest_agent.0'/>"),
        ("devices/tpm", "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"),
        ("devices/graphics", "<graphics type='vnc' autoport='yes' listen='10.99.0.2' passwd='01234567'/>"),
    ] {
        assert_eq!(one(&domain, path), expected, "{path}");
    }
}

#[test]
fn devices_of_the_host_are_handed_on() {
    let case = user_vm(|case| {
        case.vm["gpuDevice"] = json!({"gpuDevices": [
            {"deviceType": "PCI", "busAddress": "3b:00.0", "vendorId": "10de", "modelName": "A40-4Q"},
            {"deviceType": "MDEV", "busAddress": "6A1B1F0E-0d53-4b5c-9f3c-3a2f8b1c7d10"},
        ]});
    });
    let devices = all(&case.xml(), "devices", "hostdev");
    assert!(devices[0].contains("managed='no'") && devices[1].contains("uuid='6a1b1f0e-"), "{devices:?}");
}

#[test]
fn a_uuid_in_another_form_is_replaced() {
    let case = user_vm(|case| case.vm["uuid"] = "6A1B1F0E-0D53-4B5C-9F3C-3A2F8B1C7D10".into());
    let uuid = case.xml().text_at("uuid").unwrap();
    assert!(Uuid::parse_str(&uuid).is_ok_and(|uuid| !uuid.is_nil()) && !uuid.starts_with("6a1b"), "{uuid}");
}

#[test]
fn text_of_the_server_stays_text() {
    let case = user_vm(|case| {
        case.vm["os"] = "</description><evil/>".into();
        case.resolved.bridges.get_mut(&0).unwrap().bridge = "b'/><x y='".to_owned();
    });
    let domain = case.xml();
    assert_eq!(crate::xml::parse(&domain.to_string()).unwrap(), domain);
    assert!(domain.at("evil").is_none());
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    type Change = fn(&mut Case);
    let cases: [(Change, &str); 11] = [
        (|case| case.vm["name"] = "../i-2-10-VM".into(), "no name of a guest"),
        (|case| case.vm["cpus"] = 0.into(), "0 vCPUs"),
        (|case| case.vm["vcpuMaxLimit"] = 1_000_000.into(), "1000000 vCPUs"),
        (|case| case.vm["maxRam"] = (-1).into(), "-1 bytes"),
        (|case| case.vm["disks"][0]["diskSeq"] = Value::Null, "device number"),
        (|case| case.vm["disks"][0]["diskSeq"] = 5_000_000_000_i64.into(), "5000000000"),
        (|case| case.resolved.disks.clear(), "Disk 0"),
        (|case| case.resolved.bridges.clear(), "Network card 0"),
        (|case| case.vm["nics"][0]["mac"] = "02:00:4c:5f:00".into(), "no hardware address"),
        (
            |case| case.vm["gpuDevice"] = json!({"gpuDevices": [{"deviceType": "PCI", "busAddress": "x"}]}),
            "\"x\"",
        ),
        (|case| case.vm["extraConfig"] = json!({"extraconfig-1": "<a>"}), "extraconfig-1"),
    ];
    for (change, reason) in cases {
        let error = user_vm(change).error();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    let iso = user_vm(|case| {
        case.vm["disks"][1]["data"] =
            json!({"org.apache.cloudstack.storage.to.TemplateObjectTO": {"path": "configdrive/i.iso"}});
    });
    assert!(iso.error().contains("Disk 3"));
}

#[test]
fn dpdk_settings_are_no_xml_and_may_replace_the_processor() {
    let case = user_vm(|case| {
        case.vm["extraConfig"] = json!({
            "DPDK-VHOSTUSER": "server", "extraconfig-dpdk-interface-1": "<no-end>",
            "extraconfig-dpdk-numa": "<cpu mode='host-passthrough'><numa/></cpu>",
        });
    });
    assert_eq!(one(&case.xml(), "cpu"), "<cpu mode='host-passthrough'><numa/></cpu>");
}
