//! The pools of this host: which there are, where their files are.
//!
//! libvirt knows which pools are active, so that a look-up works after a restart of the agent. But its
//! pools are transient, so that it forgets them with its own restart; then a pool is made again from
//! what created it last, or from what the command itself says of it.
//!
//! The agent mounts NFS exports itself and then shows them to libvirt, which takes what is mounted
//! already: a dead server hangs one `mount` program here, where libvirt would hang in it.

mod error;
mod reference;

#[cfg(test)]
mod tests;

pub use error::PoolError;
pub use reference::{Definition, PoolKind, PoolRef};

use super::disk::Disks;
use super::mounts::{Export, MountPoint, Mounts, Patience, Wanted, mounted_at};
use super::names::name_uuid;
use super::qemu_img::ImageFormat;
use crate::config::ConfigStore;
use crate::hypervisor::{self, Hypervisor, HypervisorError, NetfsPool, PoolFacts, PoolState, Refresh};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Where exports are mounted if the configuration is unreadable.
const MOUNT_ROOT: &str = "/mnt";

/// A pool that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub uuid: Uuid,
    pub kind: PoolKind,
    /// The directory with its files; the same on every host that has the pool.
    pub local_path: PathBuf,
    pub format: ImageFormat,
}

impl Pool {
    fn new(uuid: Uuid, kind: PoolKind, local_path: impl Into<PathBuf>) -> Pool {
        Pool { uuid, kind, local_path: local_path.into(), format: ImageFormat::Qcow2 }
    }
}

/// A pool with what libvirt says of its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub pool: Pool,
    /// Bytes.
    pub capacity: u64,
    pub available: u64,
    pub allocation: u64,
}

/// A mounted directory of secondary storage; given back when dropped.
#[derive(Debug)]
pub struct Secondary {
    mount: MountPoint,
}

impl Secondary {
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Leaves it mounted for a guest that reads an ISO image from it.
    pub fn leave_mounted(self) {
        self.mount.leave_mounted();
    }

    /// Gives it back and waits for the outcome.
    pub async fn release(self) -> Result<(), PoolError> {
        Ok(self.mount.release().await?)
    }
}

/// What a command said of a pool.
#[derive(Debug, Clone)]
struct Registered {
    definition: Definition,
    local_path: PathBuf,
}

/// Keeps a pool mounted. Pools outlive the agent: dropping one, at the agent's end, unmounts nothing.
#[derive(Debug)]
struct Pin(Option<MountPoint>);

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(mount) = self.0.take() {
            mount.leave_mounted();
        }
    }
}

#[derive(Debug, Default)]
struct Registry {
    known: HashMap<Uuid, Registered>,
    pins: HashMap<Uuid, Pin>,
}

/// Handle; clones share the registry.
#[derive(Debug, Clone)]
pub struct Pools {
    config: ConfigStore,
    hypervisor: Hypervisor,
    mounts: Mounts,
    disks: Disks,
    registry: Arc<Mutex<Registry>>,
}

impl Pools {
    pub fn new(config: ConfigStore, hypervisor: Hypervisor, mounts: Mounts, disks: Disks) -> Pools {
        Pools { config, hypervisor, mounts, disks, registry: Arc::default() }
    }

    /// Makes a pool available and remembers it. Doing it again with the same facts changes nothing.
    pub async fn create(&self, reference: PoolRef<'_>) -> Result<Created, PoolError> {
        self.make(reference.define()?).await
    }

    /// Remembers a local pool that the start-up has made available already.
    pub fn remember_local(&self, uuid: Uuid, path: &Path) {
        let definition = Definition::local(uuid, path);
        self.registry().known.insert(uuid, Registered { definition, local_path: path.to_owned() });
    }

    /// The pool that a command names. It is made available again if libvirt has forgotten it.
    pub async fn get(&self, reference: PoolRef<'_>) -> Result<Pool, PoolError> {
        let pool = self.find(reference).await?;
        // Its file system was unmounted: files must not end up on another.
        if pool.kind != PoolKind::NetworkFilesystem && !self.disks.exists(&pool.local_path).await? {
            return Err(PoolError::Gone { uuid: pool.uuid, path: pool.local_path });
        }
        Ok(pool)
    }

    async fn find(&self, reference: PoolRef<'_>) -> Result<Pool, PoolError> {
        let uuid = reference.checked_uuid()?;
        // Types without files are refused by name, whether libvirt knows the pool or not.
        let kind = reference.checked_kind()?;
        match self.hypervisor.pool(&uuid.to_string(), Refresh::No).await {
            Ok(facts) if facts.state == PoolState::Active => self.active(uuid, kind, facts).await,
            Ok(_) | Err(HypervisorError::NotFound { .. }) => {
                let registered = self.registered(uuid).map(|registered| registered.definition);
                let definition = match registered {
                    Some(definition) => definition,
                    None => reference.define().map_err(|_| PoolError::Unknown { uuid })?,
                };
                tracing::info!(pool = %uuid, "libvirt does not have this storage pool: making it again");
                Ok(self.make(definition).await?.pool)
            }
            // Files can be worked on without libvirt, where their place is known.
            Err(error) => match self.registered(uuid) {
                Some(known) if still_there(&known) => {
                    Ok(Pool::new(uuid, known.definition.kind(), known.local_path))
                }
                _ => Err(PoolError::Libvirt { uuid, source: error }),
            },
        }
    }

    async fn active(
        &self,
        uuid: Uuid,
        wanted: Option<PoolKind>,
        facts: PoolFacts,
    ) -> Result<Pool, PoolError> {
        let kind = match &facts.kind {
            hypervisor::PoolKind::NetFs => PoolKind::NetworkFilesystem,
            // libvirt does not tell these two apart.
            hypervisor::PoolKind::Dir if wanted == Some(PoolKind::SharedMountPoint) => {
                PoolKind::SharedMountPoint
            }
            hypervisor::PoolKind::Dir => PoolKind::Filesystem,
            hypervisor::PoolKind::Rbd => return Err(PoolError::Unsupported { kind: "RBD".into() }),
            hypervisor::PoolKind::Logical => return Err(PoolError::Unsupported { kind: "CLVM".into() }),
            hypervisor::PoolKind::Other(kind) => {
                return Err(PoolError::Unsupported { kind: kind.clone() });
            }
        };
        let path = PathBuf::from(facts.path.ok_or(PoolError::Unknown { uuid })?);
        if kind == PoolKind::NetworkFilesystem && mounted_at(&path)?.is_none() {
            // Unmounted by hand: files must not end up on the disk of the host.
            return match self.registered(uuid) {
                Some(known) => Ok(self.make(known.definition).await?.pool),
                None => Err(PoolError::NotMounted { uuid, path }),
            };
        }
        Ok(Pool::new(uuid, kind, path))
    }

    async fn make(&self, definition: Definition) -> Result<Created, PoolError> {
        let uuid = definition.uuid();
        let libvirt = |source| PoolError::Libvirt { uuid, source };
        let (facts, local_path, pin) = match &definition {
            Definition::Directory { path, .. } => {
                let text = path.to_string_lossy();
                let facts = self.hypervisor.ensure_dir_pool(uuid, &text).await.map_err(libvirt)?;
                (facts, path.clone(), None)
            }
            Definition::Nfs { export, .. } => {
                let target = self.mount_root().join(uuid.to_string());
                self.take_over_options(&definition).await?;
                let wanted =
                    Wanted { export: export.clone(), target: target.clone(), patience: Patience::Hard };
                let pin = Pin(Some(self.mounts.acquire(wanted).await?));
                let pool = NetfsPool {
                    uuid,
                    host: export.host().to_owned(),
                    export: export.directory().to_owned(),
                    target: target.to_string_lossy().into_owned(),
                    options: export.options().to_vec(),
                };
                let facts = self.hypervisor.ensure_netfs_pool(pool).await.map_err(libvirt)?;
                (facts, target, Some(pin))
            }
        };
        let pool = Pool::new(uuid, definition.kind(), &local_path);
        let mut registry = self.registry();
        registry.known.insert(uuid, Registered { definition, local_path });
        // The one from before goes, but not the mount, which this one holds too.
        registry.pins.extend(pin.map(|pin| (uuid, pin)));
        drop(registry);
        Ok(Created {
            pool,
            capacity: facts.capacity,
            available: facts.available,
            allocation: facts.allocation,
        })
    }

    /// A pool whose mount options have changed is mounted anew, unless it is in use.
    async fn take_over_options(&self, wanted: &Definition) -> Result<(), PoolError> {
        let uuid = wanted.uuid();
        match self.registered(uuid) {
            Some(known) if known.definition != *wanted => {}
            _ => return Ok(()),
        }
        match self.remove(uuid).await {
            Ok(()) => Ok(()),
            Err(PoolError::Mount(error @ super::mounts::MountError::Busy { .. })) => {
                tracing::warn!(pool = %uuid, "The new mount options do not apply yet: {error}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Stops a pool and forgets it; its files stay. One that nobody knows is as good as removed.
    pub async fn remove(&self, uuid: Uuid) -> Result<(), PoolError> {
        let pin = self.registry().pins.remove(&uuid);
        // Unmounted before libvirt would do it: a dead server must not hang in libvirt. A pool whose
        // files guests have open fails here and stays known.
        if let Some(mount) = pin.and_then(|mut pin| pin.0.take()) {
            mount.release().await?;
        }
        self.registry().known.remove(&uuid);
        let destroyed = self.hypervisor.destroy_pool(&uuid.to_string()).await;
        destroyed.map(drop).map_err(|source| PoolError::Libvirt { uuid, source })
    }

    /// Mounts a directory of secondary storage by its URL, such as `nfs://host/export/template/tmpl/1/2`.
    pub async fn secondary(&self, url: &str) -> Result<Secondary, PoolError> {
        let (host, directory) = reference::secondary(url)?;
        let wanted = Wanted {
            export: Export::new(&host, &directory, &[])?,
            target: self.secondary_target(&host, &directory),
            patience: Patience::Soft,
        };
        Ok(Secondary { mount: self.mounts.acquire(wanted).await? })
    }

    /// Unmounts the directory of secondary storage that a guest had `file` from, unless it is not one, or
    /// somebody else uses it.
    pub async fn give_back(&self, file: &Path) -> Result<(), PoolError> {
        let root = self.mount_root();
        let Some(first) = file.strip_prefix(&root).ok().and_then(|below| below.components().next()) else {
            return Ok(());
        };
        let target = root.join(first);
        let Some(mounted) = mounted_at(&target)? else { return Ok(()) };
        let Some((host, directory)) = mounted.source.rsplit_once(":/") else { return Ok(()) };
        let export = Export::new(host, &format!("/{directory}"), &[])?;
        // Named after what is mounted; pools have names of their own and stay.
        let name = name_uuid(&format!("{}{}", export.host(), export.directory()));
        if target.file_name().and_then(|own| own.to_str()) != Some(name.to_string().as_str()) {
            return Ok(());
        }
        let wanted = Wanted { export, target, patience: Patience::Soft };
        Ok(self.mounts.acquire(wanted).await?.release().await?)
    }

    /// Where [`Pools::secondary`] mounts a directory, on this host and on all with the same settings.
    pub fn secondary_path(&self, url: &str) -> Result<PathBuf, PoolError> {
        let (host, directory) = reference::secondary(url)?;
        Ok(self.secondary_target(&host, &directory))
    }

    /// As every agent computes it, so that guests with an ISO image can migrate.
    fn secondary_target(&self, host: &str, directory: &str) -> PathBuf {
        self.mount_root().join(name_uuid(&format!("{host}{directory}")).to_string())
    }

    fn mount_root(&self) -> PathBuf {
        match self.config.last_good() {
            Some(config) if config.mount_path.is_absolute() => config.mount_path.clone(),
            _ => MOUNT_ROOT.into(),
        }
    }

    fn registered(&self, uuid: Uuid) -> Option<Registered> {
        self.registry().known.get(&uuid).cloned()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn still_there(known: &Registered) -> bool {
    match known.definition.kind() {
        PoolKind::NetworkFilesystem => mounted_at(&known.local_path).is_ok_and(|found| found.is_some()),
        PoolKind::Filesystem | PoolKind::SharedMountPoint => true,
    }
}
