//! Blocking operations on the life, description and devices of guests; each runs on a pool thread.

use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

use super::domain::{lookup, state_from};
use super::link::{Lease, is_not_found};
use super::{ffi, refused};
use crate::hypervisor::error::{HypervisorError, Object, Result};
use crate::hypervisor::guests::{Flavour, Guest, GuestDocument, Passwords};
use crate::hypervisor::types::{DomainState, Existence, HypervisorKind};
use crate::hypervisor::xml;
use crate::xml::XmlError;

/// Everything that would keep libvirt from forgetting a guest; UEFI variables stay for the next start.
const UNDEFINE: u32 =
    UNDEFINE_TEST | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM;
/// The test driver has neither checkpoints nor UEFI.
const UNDEFINE_TEST: u32 =
    sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;

/// The guest of that name, or `NotFound`.
pub fn found(link: &Lease, name: &str) -> Result<Domain> {
    lookup(link, name)?
        .ok_or_else(|| HypervisorError::NotFound { what: Object::Guest, name: name.to_owned() })
}

fn is_active(domain: &Domain, name: &str) -> Result<bool> {
    match domain.is_active() {
        Ok(active) => Ok(active),
        Err(error) if is_not_found(&error, ErrorNumber::NoDomain) => Ok(false),
        Err(error) => Err(refused("reading the state", name)(error)),
    }
}

fn is_persistent(domain: &Domain, name: &str) -> Result<bool> {
    match domain.is_persistent() {
        Ok(persistent) => Ok(persistent),
        Err(error) if is_not_found(&error, ErrorNumber::NoDomain) => Ok(false),
        Err(error) => Err(refused("reading the state", name)(error)),
    }
}

pub fn start(link: &Lease, name: &str, xml: &str) -> Result<()> {
    let running = || HypervisorError::AlreadyRunning { name: name.to_owned() };
    if let Some(domain) = lookup(link, name)? {
        if is_active(&domain, name)? {
            return Err(running());
        }
        if is_persistent(&domain, name)? {
            forget(link, &domain, name)?;
        }
    }
    match link.connect()?.create_domain_xml(xml, 0) {
        Ok(_) => Ok(()),
        Err(error) => {
            let error = refused("starting the guest", name)(error);
            // Somebody else was faster; libvirt has several codes for that.
            let raced = lookup(link, name).ok().flatten().is_some_and(|d| matches!(d.is_active(), Ok(true)));
            Err(if raced { running() } else { error })
        }
    }
}

fn forget(link: &Lease, domain: &Domain, name: &str) -> Result<()> {
    let flags = if link.kind == HypervisorKind::Test { UNDEFINE_TEST } else { UNDEFINE };
    match domain.undefine_flags(flags) {
        Err(error) if is_not_found(&error, ErrorNumber::NoDomain) => Ok(()),
        result => result.map_err(refused("undefining the guest", name)),
    }
}

pub fn define(link: &Lease, xml: &str) -> Result<()> {
    let name = xml::domain(xml).map(|domain| domain.name).unwrap_or_default();
    link.connect()?.define_domain_xml(xml).map(drop).map_err(refused("defining the guest", &name))
}

pub fn undefine(link: &Lease, name: &str) -> Result<Existence> {
    let Some(domain) = lookup(link, name)? else { return Ok(Existence::Absent) };
    if !is_persistent(&domain, name)? {
        return Ok(Existence::Absent);
    }
    forget(link, &domain, name).map(|()| Existence::Done)
}

/// Not by the ACPI flag: libvirt prefers a connected guest agent, and falls back to ACPI.
pub fn shutdown(link: &Lease, name: &str) -> Result<Existence> {
    end(link, name, "shutting the guest down", Domain::shutdown)
}

pub fn destroy(link: &Lease, name: &str) -> Result<Existence> {
    end(link, name, "destroying the guest", Domain::destroy)
}

fn end(
    link: &Lease,
    name: &str,
    operation: &'static str,
    act: impl FnOnce(&Domain) -> std::result::Result<(), virt::error::Error>,
) -> Result<Existence> {
    let Some(domain) = lookup(link, name)? else { return Ok(Existence::Absent) };
    if !is_active(&domain, name)? {
        return Ok(Existence::Absent);
    }
    match act(&domain) {
        Ok(()) => Ok(Existence::Done),
        Err(error) => {
            let error = refused(operation, name)(error);
            // It may have ended by itself meanwhile.
            if link.died_of(&error) || is_active(&domain, name)? { Err(error) } else { Ok(Existence::Absent) }
        }
    }
}

pub fn reboot(link: &Lease, name: &str) -> Result<()> {
    let flags = sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN;
    found(link, name)?.reboot(flags).map_err(refused("rebooting the guest", name))
}

pub fn suspend(link: &Lease, name: &str) -> Result<()> {
    let domain = found(link, name)?;
    if state_of(&domain, name)? == DomainState::Paused {
        return Ok(());
    }
    domain.suspend().map(drop).map_err(refused("suspending the guest", name))
}

pub fn resume(link: &Lease, name: &str) -> Result<()> {
    let domain = found(link, name)?;
    if state_of(&domain, name)? == DomainState::Running {
        return Ok(());
    }
    domain.resume().map(drop).map_err(refused("resuming the guest", name))
}

fn state_of(domain: &Domain, name: &str) -> Result<DomainState> {
    ffi::state(domain).map(state_from).map_err(refused("reading the state", name))
}

pub fn state(link: &Lease, name: &str) -> Result<Option<(DomainState, bool)>> {
    let Some(domain) = lookup(link, name)? else { return Ok(None) };
    present(read_state(&domain, name))
}

fn read_state(domain: &Domain, name: &str) -> Result<(DomainState, bool)> {
    let persistent = domain.is_persistent().map_err(refused("reading the state", name))?;
    Ok((state_of(domain, name)?, persistent))
}

/// A guest that went away while it was read does not exist.
fn present<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found(Object::Guest) => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn describe(link: &Lease, name: &str, passwords: Passwords) -> Result<Option<Guest>> {
    let Some(domain) = lookup(link, name)? else { return Ok(None) };
    let flavour = match passwords {
        Passwords::Included => Flavour::Secure,
        Passwords::LeftOut => Flavour::Live,
    };
    let read = || {
        let (state, persistent) = read_state(&domain, name)?;
        let text = document(&domain, name, flavour)?;
        let description =
            xml::domain(&text).map_err(|source| HypervisorError::Xml { what: "domain", source })?;
        Ok(Guest { state, persistent, description })
    };
    present(read())
}

pub fn xml(link: &Lease, name: &str, flavour: Flavour) -> Result<Option<String>> {
    let Some(domain) = lookup(link, name)? else { return Ok(None) };
    present(document(&domain, name, flavour))
}

fn document(domain: &Domain, name: &str, flavour: Flavour) -> Result<String> {
    let flags = match flavour {
        Flavour::Live => 0,
        Flavour::Secure => sys::VIR_DOMAIN_XML_SECURE,
        Flavour::Migratable => sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_MIGRATABLE,
        Flavour::Inactive => sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_INACTIVE,
    };
    domain.xml_desc(flags).map_err(refused("reading the XML", name))
}

pub fn documents(link: &Lease, flavour: Flavour) -> Result<Vec<GuestDocument>> {
    let domains = link.connect()?.list_all_domains(0).map_err(refused("listing guests", "the node"))?;
    let mut all = Vec::with_capacity(domains.len());
    for domain in domains {
        let name = domain.name().map_err(refused("reading the name", "a guest"))?;
        let read = || {
            let (state, persistent) = read_state(&domain, &name)?;
            Ok((state, persistent, document(&domain, &name, flavour)?))
        };
        if let Some((state, persistent, xml)) = present(read())? {
            all.push(GuestDocument { name, state, persistent, xml });
        }
    }
    Ok(all)
}

pub fn attach(link: &Lease, name: &str, xml: &str) -> Result<()> {
    let live = sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE;
    let result = found(link, name)?.attach_device_flags(xml, live);
    result.map(drop).map_err(refused("attaching the device", name))
}

pub fn detach(link: &Lease, name: &str, xml: &str) -> Result<Existence> {
    let live = sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE;
    match found(link, name)?.detach_device_flags(xml, live) {
        Ok(_) => Ok(Existence::Done),
        Err(error) if is_not_found(&error, ErrorNumber::DeviceMissing) => Ok(Existence::Absent),
        Err(error) => Err(refused("detaching the device", name)(error)),
    }
}

pub fn update(link: &Lease, name: &str, xml: &str) -> Result<()> {
    let live = sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE;
    let result = found(link, name)?.update_device_flags(xml, live);
    result.map(drop).map_err(refused("changing the device", name))
}

/// Returns at once. A guest that was asked before and has not reacted need not be asked again.
pub fn detach_by_alias(link: &Lease, name: &str, alias: &str) -> Result<Existence> {
    const ASKED: &str = "already in the process of unplug";
    match ffi::detach_by_alias(&found(link, name)?, alias, sys::VIR_DOMAIN_AFFECT_LIVE) {
        Ok(()) => Ok(Existence::Done),
        Err(error) if is_not_found(&error, ErrorNumber::DeviceMissing) => Ok(Existence::Absent),
        Err(error) if error.message().contains(ASKED) => Ok(Existence::Done),
        Err(error) => Err(refused("detaching the device", name)(error)),
    }
}

pub fn change_medium(
    link: &Lease,
    name: &str,
    target: &str,
    medium: Option<&str>,
    force: bool,
) -> Result<Existence> {
    let domain = found(link, name)?;
    let drive = xml::drive_with(&document(&domain, name, Flavour::Live)?, target, medium);
    let force = if force { sys::VIR_DOMAIN_DEVICE_MODIFY_FORCE } else { 0 };
    change(&domain, name, drive, sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE | force)
}

pub fn move_interface(link: &Lease, name: &str, mac: &str, bridge: &str) -> Result<Existence> {
    let domain = found(link, name)?;
    let interface = xml::interface_on(&document(&domain, name, Flavour::Live)?, mac, bridge);
    change(&domain, name, interface, sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE)
}

/// Gives libvirt the changed element of a device, if there is the device.
fn change(
    domain: &Domain,
    name: &str,
    device: std::result::Result<Option<String>, XmlError>,
    flags: u32,
) -> Result<Existence> {
    let device = device.map_err(|source| HypervisorError::Xml { what: "domain", source })?;
    let Some(device) = device else { return Ok(Existence::Absent) };
    let changed = domain.update_device_flags(&device, flags);
    changed.map(|_| Existence::Done).map_err(refused("changing the device", name))
}
