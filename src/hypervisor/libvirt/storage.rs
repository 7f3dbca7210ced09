//! Blocking operations on storage pools; each runs on a pool thread.
//!
//! Mirrors `LibvirtStorageAdaptor`. Pools are transient: created and started, never defined, so
//! that libvirt forgets them with its own restart and the configuration stays the only truth.

use std::collections::BTreeMap;
use std::path::Path;

use uuid::Uuid;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::sys;

use super::link::{Lease, is_not_found};
use super::refused;
use crate::hypervisor::error::{HypervisorError, Object, Result};
use crate::hypervisor::pools::{NetfsPool, VolumeListing};
use crate::hypervisor::types::{
    Existence, HypervisorKind, NetPool, PoolFacts, PoolKind, PoolState, Refresh, VolumeFacts,
};
use crate::hypervisor::xml::{self, PoolDescription};

const ACTIVE: u32 = sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE;

/// Makes the directory `path` available as the pool `uuid`. The path must have been checked to be
/// absolute.
pub fn ensure_dir_pool(link: &Lease, uuid: Uuid, path: &str) -> Result<PoolFacts> {
    let path = without_trailing_slash(path);
    let id = uuid.to_string();
    if let Some(pool) = lookup(link, &id)? {
        if pool.is_active().map_err(refused("reading the state", &id))? {
            return reuse(&pool, uuid, path);
        }
        pool.undefine().map_err(refused("removing the inactive pool", &id))?;
    }
    // The test driver has no storage behind its pools.
    if link.kind != HypervisorKind::Test && !Path::new(path).is_dir() {
        return Err(HypervisorError::MissingDirectory { path: path.to_owned() });
    }
    evict_other_owner(link, uuid, path)?;
    let text = xml::dir_pool(uuid, path);
    let pool = link
        .connect()?
        .create_storage_pool_xml(&text, 0)
        .map_err(refused("creating the storage pool", &format!("{id} at {path}")))?;
    tracing::info!(pool = id, path, "Created the local storage pool");
    facts(&pool, &id)
}

/// Mounts an NFS export as the pool.
pub fn ensure_netfs_pool(link: &Lease, wanted: &NetfsPool) -> Result<PoolFacts> {
    let id = wanted.uuid.to_string();
    if let Some(pool) = lookup(link, &id)? {
        if pool.is_active().map_err(refused("reading the state", &id))? {
            return reuse(&pool, wanted.uuid, without_trailing_slash(&wanted.target));
        }
        pool.undefine().map_err(refused("removing the inactive pool", &id))?;
    }
    if link.kind != HypervisorKind::Test {
        std::fs::create_dir_all(&wanted.target)
            .map_err(|source| HypervisorError::MountPoint { path: wanted.target.clone(), source })?;
    }
    let subject = format!("{id} from {}:{}", wanted.host, wanted.export);
    let pool = link
        .connect()?
        .create_storage_pool_xml(&xml::netfs_pool(wanted), 0)
        .map_err(refused("mounting the storage pool", &subject))?;
    tracing::info!(pool = id, host = wanted.host, export = wanted.export, "Mounted a storage pool");
    facts(&pool, &id)
}

/// Stops the pool and forgets it; no data is touched.
pub fn destroy_pool(link: &Lease, id: &str) -> Result<Existence> {
    let Some(pool) = lookup(link, id)? else { return Ok(Existence::Absent) };
    let persistent = pool.is_persistent().map_err(refused("reading the state", id))?;
    if pool.is_active().map_err(refused("reading the state", id))? {
        pool.destroy().map_err(refused("stopping the storage pool", id))?;
    }
    if persistent {
        pool.undefine().map_err(refused("removing the storage pool", id))?;
    }
    Ok(Existence::Done)
}

/// Volumes that go away meanwhile are left out.
pub fn list_volumes(link: &Lease, id: &str) -> Result<Vec<VolumeListing>> {
    let volumes = found(link, id)?.list_all_volumes(0).map_err(refused("listing the volumes", id))?;
    let mut all = Vec::with_capacity(volumes.len());
    for volume in volumes {
        let read = || -> std::result::Result<_, virt::error::Error> {
            Ok((volume.name()?, volume.path()?, volume.info()?, volume.xml_desc(0)?))
        };
        match read() {
            Ok((name, path, info, text)) => all.push(VolumeListing {
                name,
                path,
                capacity: info.capacity,
                allocation: info.allocation,
                format: xml::volume_format(&text),
            }),
            Err(error) if is_not_found(&error, ErrorNumber::NoStorageVolume) => {}
            Err(error) => return Err(refused("reading the volumes", id)(error)),
        }
    }
    Ok(all)
}

fn reuse(pool: &StoragePool, uuid: Uuid, wanted: &str) -> Result<PoolFacts> {
    let id = uuid.to_string();
    pool.refresh(0).map_err(refused("refreshing the storage pool", &id))?;
    let facts = facts(pool, &id)?;
    match &facts.path {
        Some(actual) if without_trailing_slash(actual) != wanted => {
            Err(HypervisorError::PoolElsewhere { uuid, wanted: wanted.to_owned(), actual: actual.clone() })
        }
        _ => Ok(facts),
    }
}

/// Stops the pool that has the directory under another id, such as the `default` pool of a fresh
/// libvirt; no data is touched.
fn evict_other_owner(link: &Lease, uuid: Uuid, path: &str) -> Result<()> {
    for pool in list(link, ACTIVE)? {
        let description = describe(&pool, "a storage pool")?;
        let same_path = description.path.as_deref().is_some_and(|p| without_trailing_slash(p) == path);
        if !same_path || pool.uuid().is_ok_and(|other| other == uuid) {
            continue;
        }
        let name = pool.name().unwrap_or_default();
        let persistent = pool.is_persistent().map_err(refused("reading the state", &name))?;
        pool.destroy().map_err(refused("stopping the other pool on the same path", &name))?;
        if persistent {
            pool.undefine().map_err(refused("removing the other pool on the same path", &name))?;
        }
        tracing::info!(pool = name, path, "Took the directory over from another storage pool");
    }
    Ok(())
}

pub fn pool(link: &Lease, id: &str, refresh: Refresh) -> Result<PoolFacts> {
    let pool = found(link, id)?;
    if refresh == Refresh::Yes {
        pool.refresh(0).map_err(refused("refreshing the storage pool", id))?;
    }
    facts(&pool, id)
}

pub fn pools(link: &Lease) -> Result<Vec<PoolFacts>> {
    let mut all = Vec::new();
    for pool in list(link, 0)? {
        match facts(&pool, "a storage pool") {
            Ok(facts) => all.push(facts),
            // Gone since the listing, or its XML is odd: the others count all the same.
            Err(error) => tracing::debug!(%error, "Left a storage pool out of the listing"),
        }
    }
    Ok(all)
}

pub fn net_pools(link: &Lease) -> Result<Vec<NetPool>> {
    let mut all = Vec::new();
    for pool in list(link, ACTIVE)? {
        let (Ok(description), Ok(uuid), Ok(name)) =
            (describe(&pool, "a storage pool"), pool.uuid(), pool.name())
        else {
            continue;
        };
        if PoolKind::from_libvirt(&description.kind) != PoolKind::NetFs {
            continue;
        }
        if let (Some(source_host), Some(source_dir), Some(path)) =
            (description.source_host, description.source_dir, description.path)
        {
            all.push(NetPool { uuid, name, source_host, source_dir, path });
        }
    }
    Ok(all)
}

/// The volumes that exist, by the names as given; of a path the last component counts. Looks at
/// the storage again once if a volume is missing, since files appear behind libvirt's back.
pub fn volumes(link: &Lease, id: &str, names: &[String]) -> Result<BTreeMap<String, VolumeFacts>> {
    let pool = found(link, id)?;
    let mut known = BTreeMap::new();
    let mut refresh = Refresh::Yes;
    for name in names {
        let base = name.rsplit('/').next().unwrap_or_default();
        let mut volume = volume(&pool, base)?;
        if volume.is_none() && refresh == Refresh::Yes {
            pool.refresh(0).map_err(refused("refreshing the storage pool", id))?;
            refresh = Refresh::No;
            volume = self::volume(&pool, base)?;
        }
        if let Some(facts) = volume {
            known.insert(name.clone(), facts);
        }
    }
    Ok(known)
}

fn volume(pool: &StoragePool, name: &str) -> Result<Option<VolumeFacts>> {
    let info = pool.lookup_storage_vol_by_name(name).and_then(|volume| volume.info());
    match info {
        Ok(info) => Ok(Some(VolumeFacts { capacity: info.capacity, allocation: info.allocation })),
        Err(error) if is_not_found(&error, ErrorNumber::NoStorageVolume) => Ok(None),
        Err(error) => Err(refused("reading the volume", name)(error)),
    }
}

fn list(link: &Lease, flags: u32) -> Result<Vec<StoragePool>> {
    link.connect()?.list_all_storage_pools(flags).map_err(refused("listing storage pools", "the node"))
}

/// By UUID if it is one, else by name.
fn lookup(link: &Lease, id: &str) -> Result<Option<StoragePool>> {
    let connect = link.connect()?;
    let found = match Uuid::try_parse(id) {
        Ok(uuid) => connect.lookup_storage_pool_by_uuid(uuid),
        Err(_) => connect.lookup_storage_pool_by_name(id),
    };
    match found {
        Ok(pool) => Ok(Some(pool)),
        Err(error) if is_not_found(&error, ErrorNumber::NoStoragePool) => Ok(None),
        Err(error) => Err(refused("looking up the storage pool", id)(error)),
    }
}

fn found(link: &Lease, id: &str) -> Result<StoragePool> {
    lookup(link, id)?
        .ok_or_else(|| HypervisorError::NotFound { what: Object::StoragePool, name: id.to_owned() })
}

fn describe(pool: &StoragePool, subject: &str) -> Result<PoolDescription> {
    let text = pool.xml_desc(0).map_err(refused("reading the XML", subject))?;
    xml::pool(&text).map_err(|source| HypervisorError::Xml { what: "storage pool", source })
}

fn facts(pool: &StoragePool, subject: &str) -> Result<PoolFacts> {
    let description = describe(pool, subject)?;
    let info = pool.info().map_err(refused("reading the size", subject))?;
    let state = match info.state {
        sys::VIR_STORAGE_POOL_RUNNING | sys::VIR_STORAGE_POOL_DEGRADED => PoolState::Active,
        _ => PoolState::Inactive,
    };
    Ok(PoolFacts {
        uuid: pool.uuid().map_err(refused("reading the UUID", subject))?,
        name: pool.name().map_err(refused("reading the name", subject))?,
        kind: PoolKind::from_libvirt(&description.kind),
        path: description.path,
        capacity: info.capacity,
        allocation: info.allocation,
        available: info.available,
        state,
    })
}

fn without_trailing_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(stripped) => stripped,
    }
}
