//! Blocking operations on snapshots; each runs on a pool thread.

use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::ErrorNumber;
use virt::sys;

use super::guests::found;
use super::link::{Lease, is_not_found};
use super::refused;
use crate::hypervisor::error::{HypervisorError, Object, Result};
use crate::hypervisor::snapshots::{Deletion, SnapshotFacts, SnapshotOptions};
use crate::hypervisor::types::{Existence, HypervisorKind};
use crate::hypervisor::xml;

pub fn create(link: &Lease, name: &str, xml: &str, options: SnapshotOptions) -> Result<()> {
    let flags = [
        (options.disk_only, sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY),
        (options.atomic, sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC),
        (options.no_metadata, sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA),
        (options.quiesce, sys::VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE),
        (options.redefine, sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE),
        (options.current, sys::VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT),
    ];
    let flags = flags.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | flag);
    found(link, name)?.create_snapshot_xml(xml, flags).map(drop).map_err(refused("taking the snapshot", name))
}

fn lookup(domain: &Domain, snapshot: &str) -> Result<Option<DomainSnapshot>> {
    match Domain::lookup_snapshot_by_name(domain, snapshot, 0) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_not_found(&error, ErrorNumber::NoDomainSnapshot) => Ok(None),
        Err(error) => Err(refused("looking up the snapshot", snapshot)(error)),
    }
}

/// The snapshots of the test driver are nothing but metadata.
fn metadata_only(link: &Lease) -> u32 {
    if link.kind == HypervisorKind::Test { 0 } else { sys::VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY }
}

pub fn delete(link: &Lease, name: &str, snapshot: &str, what: Deletion) -> Result<Existence> {
    let domain = found(link, name)?;
    let Some(found) = lookup(&domain, snapshot)? else { return Ok(Existence::Absent) };
    let flags = match what {
        Deletion::Everything => 0,
        Deletion::MetadataOnly => metadata_only(link),
    };
    found.delete(flags).map_err(refused("deleting the snapshot", snapshot))?;
    Ok(Existence::Done)
}

pub fn revert(link: &Lease, name: &str, snapshot: &str) -> Result<()> {
    let domain = found(link, name)?;
    let found = lookup(&domain, snapshot)?
        .ok_or_else(|| HypervisorError::NotFound { what: Object::Snapshot, name: snapshot.to_owned() })?;
    found.revert(0).map_err(refused("reverting to the snapshot", snapshot))
}

fn all(domain: &Domain, name: &str) -> Result<Vec<DomainSnapshot>> {
    let parents_first = sys::VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL;
    domain.list_all_snapshots(parents_first).map_err(refused("listing the snapshots", name))
}

fn facts(snapshot: &DomainSnapshot, guest: &str) -> Result<SnapshotFacts> {
    let reading = "reading a snapshot";
    let xml = snapshot.xml_desc(sys::VIR_DOMAIN_SNAPSHOT_XML_SECURE).map_err(refused(reading, guest))?;
    let described =
        xml::snapshot(&xml).map_err(|source| HypervisorError::Xml { what: "snapshot", source })?;
    Ok(SnapshotFacts {
        name: snapshot.name().map_err(refused(reading, guest))?,
        xml,
        current: snapshot.is_current(0).map_err(refused(reading, guest))?,
        parent: described.parent,
        creation_time: described.creation_time,
    })
}

pub fn list(link: &Lease, name: &str) -> Result<Vec<SnapshotFacts>> {
    let domain = found(link, name)?;
    all(&domain, name)?.iter().map(|snapshot| facts(snapshot, name)).collect()
}

/// Reads all before it deletes the first: deleting changes what is current.
pub fn forget(link: &Lease, name: &str) -> Result<Vec<SnapshotFacts>> {
    let domain = found(link, name)?;
    let snapshots = all(&domain, name)?;
    let known = snapshots.iter().map(|snapshot| facts(snapshot, name)).collect::<Result<_>>()?;
    for snapshot in snapshots {
        let deleted = snapshot.delete(metadata_only(link));
        deleted.map_err(refused("forgetting the snapshots", name))?;
    }
    Ok(known)
}

pub fn remember(link: &Lease, name: &str, known: &[SnapshotFacts]) -> Result<()> {
    for snapshot in known {
        let options = SnapshotOptions { redefine: true, current: snapshot.current, ..Default::default() };
        create(link, name, &snapshot.xml, options)?;
    }
    Ok(())
}
