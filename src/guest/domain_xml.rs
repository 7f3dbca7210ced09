//! A guest's domain XML: one element of each kind, always in the same order.

use super::spec::{Clock, Devices, Features, GuestSpec, Machine, Smbios};
use super::{cpu, devices, disks, nics};
use crate::xml::Element;

/// The whole document. It holds the VNC password: never log it.
pub fn domain(spec: &GuestSpec) -> Element {
    let text = |name: &str, value: &str| Element::new(name).content(value);
    let number = |name: &str, value: u64| Element::new(name).content(value);
    // The server looks for these very attributes before it scales a guest.
    let max_memory =
        spec.memory.max.map(|max| number("maxMemory", max).with("slots", 16).with("unit", "KiB"));
    let domain = Element::new("domain")
        .with("type", spec.kind.as_str())
        .child(text("name", &spec.name))
        .child(text("uuid", &spec.uuid))
        .child_some(spec.description.as_ref().map(|description| text("description", description)))
        .child(number("memory", spec.memory.current))
        .child(number("currentMemory", spec.memory.current))
        .child_some(max_memory)
        .child(number("vcpu", spec.vcpus.max.into()).with("current", spec.vcpus.current))
        .child_some(spec.iothreads.map(|threads| number("iothreads", threads.into())))
        .child(cpu::tune(&spec.tuning))
        .child(sysinfo(&spec.smbios, &spec.uuid))
        .child(os(&spec.machine))
        .child(features(spec.features))
        .child_some(cpu::element(spec.cpu.as_ref(), spec.memory, spec.vcpus))
        .child(clock(spec.clock))
        .child(text("on_poweroff", "destroy"))
        .child(text("on_reboot", "restart"))
        .child(text("on_crash", "destroy"))
        .child(device_list(&spec.devices));
    spec.extra.merge_into(domain)
}

fn sysinfo(smbios: &Smbios, uuid: &str) -> Element {
    let entry = |name: &str, value: &str| Element::new("entry").with("name", name).content(value);
    let system = Element::new("system")
        .child(entry("manufacturer", &smbios.manufacturer))
        .child(entry("product", &smbios.product))
        .child(entry("uuid", uuid))
        .child_some(smbios.serial.then(|| entry("serial", uuid)));
    Element::new("sysinfo").with("type", "smbios").child(system)
}

fn os(machine: &Machine) -> Element {
    let kind = Element::new("type")
        .with_some("arch", machine.arch.as_ref())
        .with("machine", &machine.kind)
        .content("hvm");
    let firmware = machine.firmware.as_ref();
    let loader = firmware.and_then(|firmware| {
        let yes_no = |yes| if yes { "yes" } else { "no" };
        firmware.loader.as_ref().map(|loader| {
            Element::new("loader")
                .with("readonly", "yes")
                .with_some("secure", firmware.secure.map(yes_no))
                .with("type", "pflash")
                .content(loader)
        })
    });
    let nvram = firmware.and_then(|firmware| firmware.nvram.as_ref()).map(|nvram| {
        Element::new("nvram").with_some("template", nvram.template.as_ref()).content(&nvram.path)
    });
    let boot = |device: &str| Element::new("boot").with("dev", device);
    Element::new("os")
        .child(kind)
        .child_some(loader)
        .child_some(nvram)
        .child_some(machine.boot_cdrom.then(|| boot("cdrom")))
        .child(boot("hd"))
        .child(Element::new("smbios").with("mode", "sysinfo"))
}

fn features(features: Features) -> Element {
    let on = |name: &str| Element::new(name).with("state", "on");
    let hyperv = features.hyperv.then(|| {
        Element::new("hyperv")
            .child(on("relaxed"))
            .child(on("vapic"))
            .child(on("spinlocks").with("retries", 8096))
    });
    Element::new("features")
        .child(Element::new("pae"))
        .child(Element::new("apic"))
        .child_some(features.acpi.then(|| Element::new("acpi")))
        .child_some(features.smm.then(|| on("smm")))
        .child_some(hyperv)
}

fn clock(clock: Clock) -> Element {
    let timer = |name: &str| Element::new("timer").with("name", name);
    let element = Element::new("clock");
    match clock {
        Clock::Windows => {
            element.with("offset", "localtime").child(timer("hypervclock").with("present", "yes"))
        }
        Clock::Utc { kvm_clock } => element.with("offset", "utc").child_some(
            kvm_clock.map(|shown| timer("kvmclock").with_some("present", (!shown).then_some("no"))),
        ),
    }
}

fn device_list(list: &Devices) -> Element {
    Element::new("devices")
        .child_some(list.emulator.as_ref().map(|path| Element::new("emulator").content(path)))
        .child(devices::serial())
        .child_some(list.rng.as_ref().map(devices::rng))
        .child(devices::agent_channel(&list.agent_socket))
        .child_some(list.watchdog.as_ref().map(devices::watchdog))
        .child_some(list.video.as_ref().map(devices::video))
        .child(devices::console())
        .child(devices::graphics(&list.vnc))
        .children(list.gpus.iter().map(devices::gpu))
        .child_some(list.tablet.then(|| devices::input("tablet")))
        .child_some(list.tpm.map(devices::tpm))
        .children(list.arm.map(devices::arm).unwrap_or_default())
        .children(list.scsi.into_iter().flat_map(devices::scsi_controllers))
        .child(devices::balloon(list.balloon_period))
        .children(list.disks.iter().map(disks::element))
        .children(list.nics.iter().map(nics::interface))
}
