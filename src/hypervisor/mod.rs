//! The hypervisor as the handlers see it: plain values and one handle; libvirt behind it.
//!
//! Every operation has a deadline: a libvirt call that hangs costs one thread of a small pool,
//! never a handler, a ping or the process. While libvirt is away, operations fail at once with
//! `NotConnected`; the connection comes back by itself.

mod error;
mod libvirt;
mod types;
pub mod xml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use uuid::Uuid;

pub use error::{HypervisorError, LibvirtFault, Result};
pub use types::*;

use libvirt::conn::{Obituary, Supervisor};
use libvirt::link::{Lease, Link};
use libvirt::pool::{CallError, CallPool};
use libvirt::{capabilities, domain, storage};

/// Questions that libvirt answers from memory.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(10);
/// The power report of all guests; must end well within a ping interval.
pub const POWER_DEADLINE: Duration = Duration::from_secs(15);
/// The counters of one guest, some of which QEMU is asked for.
pub const SAMPLE_DEADLINE: Duration = Duration::from_secs(10);
/// Operations that look at storage: a refresh opens every volume.
pub const STORAGE_DEADLINE: Duration = Duration::from_secs(60);
/// How long `node_facts` waits for the capabilities, which take libvirt 8 s and more on a node
/// without usable KVM. Registration must not.
pub const CAPABILITIES_GRACE: Duration = Duration::from_millis(200);

/// Lifecycle events that a slow listener may fall behind; it then learns how many it missed.
const EVENTS: usize = 256;
/// Guests sampled at once; below the number of call slots, so that other calls get through.
const SAMPLERS: usize = 2;
const MAX_NAME: usize = 255;

/// Handle to the hypervisor; clones share one connection, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Hypervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    uri: String,
    pool: CallPool,
    link: watch::Receiver<Option<Arc<Link>>>,
    status: watch::Receiver<LibvirtStatus>,
    obituaries: mpsc::Sender<Obituary>,
    events: broadcast::Sender<DomainEvent>,
    /// One pool creation at a time: two on the same path would evict each other.
    pool_creation: Semaphore,
    supervisor: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl Hypervisor {
    /// Starts connecting to `uri` (such as `qemu:///system`) and returns at once. Must be called
    /// within a tokio runtime.
    pub fn spawn(uri: &str) -> Self {
        // libvirt takes C strings; a NUL cannot be part of a URI.
        let uri = uri.replace('\0', "");
        let pool = CallPool::new();
        let (events, _) = broadcast::channel(EVENTS);
        let (link_sender, link) = watch::channel(None);
        let (status_sender, status) = watch::channel(LibvirtStatus {
            uri: uri.clone(),
            connection: Connection::Connecting { attempt: 1, last_error: None },
            calls: 0,
            deadline_misses: 0,
        });
        let (obituaries, received) = mpsc::channel(EVENTS);
        let supervisor = Supervisor {
            uri: uri.clone(),
            pool: pool.clone(),
            link: link_sender,
            status: status_sender,
            obituaries: received,
            events: events.clone(),
        };
        let supervisor = tokio::spawn(supervisor.run()).abort_handle();
        let pool_creation = Semaphore::new(1);
        Self {
            inner: Arc::new(Inner { uri, pool, link, status, obituaries, events, pool_creation, supervisor }),
        }
    }

    pub fn uri(&self) -> &str {
        &self.inner.uri
    }

    /// The connection as it is and becomes. Counters are refreshed every few seconds.
    pub fn status(&self) -> watch::Receiver<LibvirtStatus> {
        self.inner.status.clone()
    }

    /// Returns as soon as there is a connection.
    pub async fn connected(&self) {
        let mut link = self.inner.link.clone();
        // An error means that the supervisor is gone, which only happens at shutdown.
        let _ = link.wait_for(Option::is_some).await;
    }

    /// Guest lifecycle events from now on. A receiver that falls behind gets `Lagged` with the
    /// number of events that it missed.
    pub fn events(&self) -> broadcast::Receiver<DomainEvent> {
        self.inner.events.subscribe()
    }

    /// The node as libvirt sees it. The capabilities are read once per connection; if libvirt has
    /// not told them within `CAPABILITIES_GRACE`, the facts come without (`capabilities: Pending`).
    pub async fn node_facts(&self) -> Result<NodeFacts> {
        let link = self.link()?;
        let quick = self.call("reading the node facts", QUERY_DEADLINE, capabilities::read_quick).await?;
        let mut slow = link.slow.subscribe();
        let known = tokio::time::timeout(CAPABILITIES_GRACE, slow.wait_for(Option::is_some)).await;
        let slow = known.ok().and_then(|known| known.ok().and_then(|value| value.clone()));
        Ok(NodeFacts {
            hostname: quick.hostname,
            cpu_sockets: quick.node.sockets,
            numa_nodes: quick.node.nodes,
            cpus: quick.node.cpus,
            mhz: quick.node.mhz,
            memory_kib: quick.node.memory,
            tsc_hz: slow.as_ref().and_then(|s| s.capabilities.tsc_hz),
            // A QEMU driver without hvm guests does not exist; registration does not wait for proof.
            supports_hvm: slow.as_ref().is_none_or(|s| s.capabilities.supports_hvm),
            // The node info has the machine name in "model".
            arch: slow.as_ref().map_or(quick.node.model, |s| s.capabilities.arch.clone()),
            libvirt_version: link.libvirt_version.clone(),
            hypervisor_version: slow
                .as_ref()
                .map_or_else(|| capabilities::UNKNOWN.to_owned(), |s| s.hypervisor_version.clone()),
            capabilities: if slow.is_some() { CapabilitiesState::Known } else { CapabilitiesState::Pending },
        })
    }

    /// The state of every domain, running or defined: all of them, or an error.
    pub async fn power_states(&self) -> Result<Vec<DomainPower>> {
        self.call("listing guests", POWER_DEADLINE, domain::power_states).await
    }

    /// `None` if libvirt has no domain of that name.
    pub async fn domain(&self, name: &str) -> Result<Option<DomainSummary>> {
        let name = checked("guest", name)?;
        self.call("looking up a guest", QUERY_DEADLINE, move |link| domain::summary(link, &name)).await
    }

    /// Counters of the running guests among `names`. Guests that are missing or stopped, or whose
    /// counters cannot be read, are left out; but an error if nothing was read of any guest, since
    /// an empty answer would say that none of them runs.
    pub async fn domain_samples(&self, names: &[String]) -> Result<BTreeMap<String, DomainSample>> {
        self.link()?;
        let mut samples = BTreeMap::new();
        let mut failure = None;
        let mut tasks = JoinSet::new();
        let mut names = names.iter();
        loop {
            while tasks.len() < SAMPLERS
                && let Some(name) = names.next()
            {
                let (this, name) = (self.clone(), name.clone());
                tasks.spawn(async move {
                    let sample = this.domain_sample(&name).await;
                    (name, sample)
                });
            }
            match tasks.join_next().await {
                None => break,
                Some(Ok((name, Ok(Some(sample))))) => {
                    samples.insert(name, sample);
                }
                Some(Ok((_, Ok(None)))) => {}
                // The other guests would fare no better.
                Some(Ok((
                    _,
                    Err(error @ (HypervisorError::NotConnected { .. } | HypervisorError::AllStuck { .. })),
                ))) => return Err(error),
                Some(Ok((name, Err(error)))) => {
                    tracing::debug!(guest = name, %error, "No statistics");
                    failure.get_or_insert(error);
                }
                Some(Err(error)) => tracing::debug!(%error, "A statistics task failed"),
            }
        }
        match failure {
            Some(error) if samples.is_empty() => Err(error),
            Some(_) | None => Ok(samples),
        }
    }

    async fn domain_sample(&self, name: &str) -> Result<Option<DomainSample>> {
        let name = checked("guest", name)?;
        self.call("reading guest counters", SAMPLE_DEADLINE, move |link| domain::sample(link, &name)).await
    }

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
        self.call("preparing a storage pool", STORAGE_DEADLINE, create).await
    }

    /// One pool, by UUID or name.
    pub async fn pool(&self, id: &str, refresh: Refresh) -> Result<PoolFacts> {
        let id = checked("storage pool", id)?;
        self.call("reading a storage pool", STORAGE_DEADLINE, move |link| storage::pool(link, &id, refresh))
            .await
    }

    /// All pools, active or not.
    pub async fn pools(&self) -> Result<Vec<PoolFacts>> {
        self.call("listing storage pools", STORAGE_DEADLINE, storage::pools).await
    }

    /// Active pools on network file systems.
    pub async fn net_pools(&self) -> Result<Vec<NetPool>> {
        self.call("listing network pools", STORAGE_DEADLINE, storage::net_pools).await
    }

    /// The volumes among `names` that exist in `pool` (UUID or name). Of a path the last component
    /// counts; the answer has the names as given.
    pub async fn volumes(&self, pool: &str, names: &[String]) -> Result<BTreeMap<String, VolumeFacts>> {
        let pool = checked("storage pool", pool)?;
        for name in names {
            checked("volume", name.rsplit('/').next().unwrap_or_default())?;
        }
        let names = names.to_vec();
        self.call("reading volumes", STORAGE_DEADLINE, move |link| storage::volumes(link, &pool, &names))
            .await
    }

    fn link(&self) -> Result<Arc<Link>> {
        self.inner.link.borrow().clone().ok_or_else(|| HypervisorError::NotConnected {
            uri: self.inner.uri.clone(),
            last_error: match &self.inner.status.borrow().connection {
                Connection::Connecting { last_error, .. } => last_error.clone(),
                Connection::Lost { error } => Some(error.clone()),
                Connection::Connected { .. } => None,
            },
        })
    }

    /// Runs a blocking operation on the pool, and reports the connection's death if it met it.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        deadline: Duration,
        job: impl FnOnce(&Lease) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let link = self.link()?;
        let obituaries = self.inner.obituaries.clone();
        let run = move || {
            let report = |error: &HypervisorError| {
                // A full channel means that the supervisor knows already.
                let error = crate::errors::chain(error);
                let _ = obituaries.try_send(Obituary { generation: link.generation, error });
            };
            let lease = Lease::take(&link).inspect_err(|error| {
                // One connection too many is no reason to drop the others.
                if !link.is_alive() {
                    report(error);
                }
            })?;
            let result = job(&lease);
            result.inspect_err(|error| {
                if lease.died_of(error) {
                    report(error);
                }
            })
        };
        self.inner.pool.call(deadline, run).await.map_err(|error| match error {
            CallError::Deadline { after } => HypervisorError::Deadline { operation, after },
            CallError::Overloaded { waiting } => HypervisorError::Overloaded { operation, waiting },
            CallError::AllStuck { stuck } => HypervisorError::AllStuck { operation, stuck },
            CallError::Panicked => HypervisorError::Panicked { operation },
        })?
    }
}

/// Names come from the network and end in C strings and libvirt's own files.
fn checked(what: &'static str, name: &str) -> Result<String> {
    let sound =
        !name.is_empty() && name.len() <= MAX_NAME && !name.contains(|c: char| c == '/' || c.is_control());
    if sound {
        Ok(name.to_owned())
    } else {
        Err(HypervisorError::InvalidName { what, name: name.to_owned() })
    }
}
