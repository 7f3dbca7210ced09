//! Storage pools and their volumes, as libvirt has them.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::error::{HypervisorError, Object, Result};
use super::libvirt::link::Lease;
use super::libvirt::storage;
use super::{Existence, Hypervisor, NetPool, PoolFacts, Refresh, VolumeFacts, checked, plain};

/// In the place of a pool's id where a call looks at all of them.
const ALL: &str = "*";

/// An NFS export to be mounted by libvirt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetfsPool {
    pub uuid: Uuid,
    pub host: String,
    pub export: String,
    /// Where it is mounted; made if missing.
    pub target: String,
    /// Such as `vers=4.1`.
    pub options: Vec<String>,
}

/// A volume of a pool; sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeListing {
    pub name: String,
    pub path: String,
    pub capacity: u64,
    pub allocation: u64,
    /// Such as "qcow2".
    pub format: Option<String>,
}

impl Hypervisor {
    /// Makes the directory `path` available as the active pool `uuid`, by the rules of
    /// `LibvirtStorageAdaptor.createStoragePool`: an active pool of that id is refreshed and used;
    /// an inactive one is replaced; another pool on the same directory gives way.
    pub async fn ensure_dir_pool(&self, uuid: Uuid, path: &str) -> Result<PoolFacts> {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(HypervisorError::RelativePath { path: path.to_owned() });
        }
        let path = path.to_owned();
        // The semaphore is never closed.
        let _one_at_a_time = self.inner.pool_creation.acquire().await.ok();
        let create = move |link: &Lease| storage::ensure_dir_pool(link, uuid, &path);
        self.storage_call("preparing a storage pool", &uuid.to_string(), create).await
    }

    /// One pool, by UUID or name.
    pub async fn pool(&self, id: &str, refresh: Refresh) -> Result<PoolFacts> {
        let id = checked(Object::StoragePool, id)?;
        let key = id.clone();
        self.storage_call("reading a storage pool", &key, move |link| storage::pool(link, &id, refresh)).await
    }

    /// All pools, active or not.
    pub async fn pools(&self) -> Result<Vec<PoolFacts>> {
        self.storage_call("listing storage pools", ALL, storage::pools).await
    }

    /// Active pools on network file systems.
    pub async fn net_pools(&self) -> Result<Vec<NetPool>> {
        self.storage_call("listing network pools", ALL, storage::net_pools).await
    }

    /// The volumes among `names` that exist in `pool` (UUID or name). Of a path the last component
    /// counts; the answer has the names as given.
    pub async fn volumes(&self, pool: &str, names: &[String]) -> Result<BTreeMap<String, VolumeFacts>> {
        let pool = checked(Object::StoragePool, pool)?;
        for name in names {
            checked(Object::Volume, name.rsplit('/').next().unwrap_or_default())?;
        }
        let names = names.to_vec();
        let key = pool.clone();
        self.storage_call("reading volumes", &key, move |link| storage::volumes(link, &pool, &names)).await
    }

    /// Mounts an NFS export as the active, transient pool `uuid`; an active pool of that id is
    /// refreshed and used. Beware that libvirt itself may hang in all storage calls while it waits
    /// for a dead server.
    pub async fn ensure_netfs_pool(&self, pool: NetfsPool) -> Result<PoolFacts> {
        if !pool.target.starts_with('/') {
            return Err(HypervisorError::RelativePath { path: pool.target });
        }
        for text in [&pool.host, &pool.export, &pool.target].into_iter().chain(&pool.options) {
            plain("The address of an NFS export", text)?;
        }
        let id = pool.uuid.to_string();
        self.storage_call("mounting a storage pool", &id, move |link| storage::ensure_netfs_pool(link, &pool))
            .await
    }

    /// Stops a pool and forgets it; its data stays. What was mounted for it is unmounted.
    pub async fn destroy_pool(&self, id: &str) -> Result<Existence> {
        let id = checked(Object::StoragePool, id)?;
        let key = id.clone();
        self.storage_call("stopping a storage pool", &key, move |link| storage::destroy_pool(link, &id)).await
    }

    /// Makes libvirt look at the files of a pool again.
    pub async fn refresh_pool(&self, id: &str) -> Result<()> {
        self.pool(id, Refresh::Yes).await.map(drop)
    }

    /// All volumes of a pool, as of its last refresh.
    pub async fn list_volumes(&self, pool: &str) -> Result<Vec<VolumeListing>> {
        let pool = checked(Object::StoragePool, pool)?;
        let key = pool.clone();
        self.storage_call("listing volumes", &key, move |link| storage::list_volumes(link, &pool)).await
    }
}
