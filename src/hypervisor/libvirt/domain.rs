//! Blocking operations on guests; each runs on a pool thread.

use virt::domain::{Domain, DomainInfo, DomainState as LibvirtState, DomainStateEnum};
use virt::enumutil::Enum;
use virt::error::ErrorNumber;
use virt::sys;

use super::link::{Lease, is_not_found};
use super::refused;
use crate::hypervisor::error::{HypervisorError, Result};
use crate::hypervisor::types::{
    DiskSample, DomainPower, DomainSample, DomainState, DomainSummary, NicSample, PowerState,
};
use crate::hypervisor::xml::{self, DiskDevice, DomainDescription};

/// All domains, running or only defined. Complete or an error: a guest left out of a report is
/// taken for stopped by the server.
pub fn power_states(link: &Lease) -> Result<Vec<DomainPower>> {
    let domains = link.connect()?.list_all_domains(0).map_err(refused("listing guests", "the node"))?;
    let mut states = Vec::with_capacity(domains.len());
    for domain in domains {
        let name = domain.name().map_err(refused("reading the name", "a guest"))?;
        // Not virDomainGetState: the crate does not report its errors.
        match domain.info() {
            Ok(info) => states.push(DomainPower { name, state: state_of(info.state) }),
            // Gone since the listing.
            Err(error) if is_not_found(&error, ErrorNumber::NoDomain) => {}
            Err(error) => states.push(second_look(link, &domain, name, error)?),
        }
    }
    Ok(states)
}

/// The CPU time of a process that is just ending cannot be read, which fails the first question.
fn second_look(
    link: &Lease,
    domain: &Domain,
    name: String,
    error: virt::error::Error,
) -> Result<DomainPower> {
    let error = refused("reading the state", &name)(error);
    if link.died_of(&error) {
        return Err(error);
    }
    match domain.state() {
        Ok((state @ Enum::Known(_), _)) => Ok(DomainPower { name, state: state_of(state) }),
        Ok((Enum::Unknown(_), _)) | Err(_) => Err(error),
    }
}

/// `None` if there is no such guest.
pub fn summary(link: &Lease, name: &str) -> Result<Option<DomainSummary>> {
    let Some(domain) = lookup(link, name)? else { return Ok(None) };
    let info = match domain.info() {
        Ok(info) => info,
        Err(error) if is_not_found(&error, ErrorNumber::NoDomain) => return Ok(None),
        Err(error) => return Err(refused("reading the state", name)(error)),
    };
    let state = state_of(info.state);
    let vnc_port = match state.power() {
        PowerState::On => describe(&domain, name)?.vnc_port,
        PowerState::Off | PowerState::Unknown => None,
    };
    Ok(Some(DomainSummary { state, vnc_port, vcpus: info.nr_virt_cpu }))
}

/// `None` if there is no such guest or it does not run.
pub fn sample(link: &Lease, name: &str) -> Result<Option<DomainSample>> {
    let Some(domain) = lookup(link, name)? else { return Ok(None) };
    let info = domain.info().map_err(refused("reading the counters", name))?;
    if state_of(info.state).power() != PowerState::On {
        return Ok(None);
    }
    let description = describe(&domain, name)?;
    Ok(Some(collect(&domain, name, &info, description)))
}

fn collect(domain: &Domain, name: &str, info: &DomainInfo, description: DomainDescription) -> DomainSample {
    let mut sample = DomainSample {
        cpu_time_ns: info.cpu_time,
        vcpus: info.nr_virt_cpu,
        max_memory_kib: info.max_mem,
        memory_kib: info.memory,
        unused_memory_kib: unused_memory(domain),
        ..DomainSample::default()
    };
    for disk in description.disks {
        if disk.device != DiskDevice::Disk {
            continue;
        }
        match domain.block_stats(&disk.target) {
            Ok(stats) => sample.disks.push(DiskSample {
                device: disk.target,
                source: disk.source,
                read_requests: counter(stats.rd_req),
                read_bytes: counter(stats.rd_bytes),
                write_requests: counter(stats.wr_req),
                write_bytes: counter(stats.wr_bytes),
            }),
            Err(error) => tracing::debug!(guest = name, disk = disk.target, %error, "No disk statistics"),
        }
    }
    for nic in description.interfaces {
        let mut counters = NicSample { mac: nic.mac, target: nic.target, ..NicSample::default() };
        let stats = counters.target.as_deref().map(|target| domain.interface_stats(target));
        match stats {
            Some(Ok(stats)) => {
                counters.rx_bytes = counter(stats.rx_bytes);
                counters.tx_bytes = counter(stats.tx_bytes);
                sample.nics.push(counters);
            }
            Some(Err(error)) => {
                tracing::debug!(guest = name, mac = counters.mac, %error, "No network statistics")
            }
            None => {}
        }
    }
    sample
}

fn unused_memory(domain: &Domain) -> Option<u64> {
    let stats = domain.memory_stats(0).ok()?;
    stats.iter().find(|stat| stat.tag == sys::VIR_DOMAIN_MEMORY_STAT_UNUSED).map(|stat| stat.val)
}

pub fn lookup(link: &Lease, name: &str) -> Result<Option<Domain>> {
    match link.connect()?.lookup_domain_by_name(name) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if is_not_found(&error, ErrorNumber::NoDomain) => Ok(None),
        Err(error) => Err(refused("looking up the guest", name)(error)),
    }
}

fn describe(domain: &Domain, name: &str) -> Result<DomainDescription> {
    let text = domain.xml_desc(0).map_err(refused("reading the XML", name))?;
    xml::domain(&text).map_err(|source| HypervisorError::Xml { what: "domain", source })
}

/// libvirt has -1 for a counter that the driver does not keep.
fn counter(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn state_of(state: DomainStateEnum) -> DomainState {
    match state {
        Enum::Known(LibvirtState::NoState) => DomainState::NoState,
        Enum::Known(LibvirtState::Running) => DomainState::Running,
        Enum::Known(LibvirtState::Blocked) => DomainState::Blocked,
        Enum::Known(LibvirtState::Paused) => DomainState::Paused,
        Enum::Known(LibvirtState::Shutdown) => DomainState::Shutdown,
        Enum::Known(LibvirtState::Shutoff) => DomainState::Shutoff,
        Enum::Known(LibvirtState::Crashed) => DomainState::Crashed,
        Enum::Known(LibvirtState::PMSuspended) => DomainState::PmSuspended,
        Enum::Unknown(_) => DomainState::Unknown,
    }
}

/// A state as the C library numbers it.
pub fn state_from(raw: sys::virDomainState) -> DomainState {
    state_of(DomainStateEnum::from_raw(raw))
}
