//! How operations reach the threads that run them: four pools by kind, and for storage a gate per
//! pool.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::error::{HypervisorError, Result};
use super::libvirt::conn::Obituary;
use super::libvirt::link::{Lease, Link};
use super::libvirt::pool::{CHANGES, CallError, CallPool, MIGRATIONS, QUERIES, STORAGE};
use super::{CHANGE_DEADLINE, CallFigures, Connection, Hypervisor, STORAGE_DEADLINE};

#[derive(Debug)]
pub(super) struct Calls {
    pub queries: CallPool,
    pub changes: CallPool,
    pub storage: CallPool,
    pub migrations: CallPool,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

/// Lets one call at a time to a storage pool. libvirt would not run two at once either, but the
/// second would cost a thread, and on a dead server all of them.
#[derive(Debug)]
struct Gate {
    turn: Arc<Semaphore>,
    /// The call that has its turn has passed its deadline.
    hung: AtomicBool,
}

impl Calls {
    pub fn new() -> Self {
        Self {
            queries: CallPool::new(QUERIES),
            changes: CallPool::new(CHANGES),
            storage: CallPool::new(STORAGE),
            migrations: CallPool::new(MIGRATIONS),
            gates: Mutex::default(),
        }
    }

    /// All pools but that of the questions.
    pub fn others(&self) -> Vec<CallPool> {
        vec![self.changes.clone(), self.storage.clone(), self.migrations.clone()]
    }

    /// What is known of the calls of each pool.
    pub fn figures(&self) -> Vec<CallFigures> {
        let pools = [
            ("question", &self.queries),
            ("change", &self.changes),
            ("storage", &self.storage),
            ("migration", &self.migrations),
        ];
        let figures = |(kind, pool): (&'static str, &CallPool)| {
            let counters = pool.counters();
            CallFigures {
                kind,
                deadline_misses: counters.deadline_misses,
                stuck: counters.stuck,
                latency: pool.latency(),
            }
        };
        pools.map(figures).into()
    }

    fn gate(&self, id: &str) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        // Ids come from the network: only those in use are kept.
        gates.retain(|_, gate| Arc::strong_count(gate) > 1 || gate.turn.available_permits() == 0);
        let new = || Arc::new(Gate { turn: Arc::new(Semaphore::new(1)), hung: AtomicBool::new(false) });
        Arc::clone(gates.entry(id.to_owned()).or_insert_with(new))
    }
}

impl Hypervisor {
    pub(super) fn link(&self) -> Result<Arc<Link>> {
        self.inner.link.borrow().clone().ok_or_else(|| HypervisorError::NotConnected {
            uri: self.inner.uri.clone(),
            last_error: match &self.inner.status.borrow().connection {
                Connection::Connecting { last_error, .. } => last_error.clone(),
                Connection::Lost { error } => Some(error.clone()),
                Connection::Connected { .. } => None,
            },
        })
    }

    /// Runs a question on the pool for questions.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        deadline: Duration,
        job: impl FnOnce(&Lease) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call_on(&self.inner.calls.queries, operation, deadline, job).await
    }

    /// Runs what changes a guest, within the usual deadline for that.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Lease) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.change_within(operation, CHANGE_DEADLINE, job).await
    }

    pub(super) async fn change_within<T: Send + 'static>(
        &self,
        operation: &'static str,
        deadline: Duration,
        job: impl FnOnce(&Lease) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call_on(&self.inner.calls.changes, operation, deadline, job).await
    }

    /// Runs a call to the storage pool `id`. One call that hangs there costs one thread; others for
    /// the same pool fail at once until it returns, and those for other pools go on.
    pub(super) async fn storage_call<T: Send + 'static>(
        &self,
        operation: &'static str,
        id: &str,
        job: impl FnOnce(&Lease) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.storage_call_within(operation, id, STORAGE_DEADLINE, job).await
    }

    pub(super) async fn storage_call_within<T: Send + 'static>(
        &self,
        operation: &'static str,
        id: &str,
        deadline: Duration,
        job: impl FnOnce(&Lease) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let gate = self.inner.calls.gate(id);
        if gate.turn.available_permits() == 0 && gate.hung.load(Ordering::Relaxed) {
            return Err(HypervisorError::PoolHung { id: id.to_owned() });
        }
        let end = Instant::now() + deadline;
        let turn = tokio::time::timeout_at(end, Arc::clone(&gate.turn).acquire_owned()).await;
        let turn = turn.map_err(|_| {
            gate.hung.store(true, Ordering::Relaxed);
            HypervisorError::Deadline { operation, after: deadline }
        })?;
        gate.hung.store(false, Ordering::Relaxed);
        let run = move |link: &Lease| {
            // Kept until the call returns, however late, or is dropped from the queue.
            let _turn = turn;
            job(link)
        };
        let left = end.saturating_duration_since(Instant::now());
        let result = self.call_on(&self.inner.calls.storage, operation, left, run).await;
        if matches!(result, Err(HypervisorError::Deadline { .. })) {
            gate.hung.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Runs a blocking operation on a pool, and reports the connection's death if it met it.
    pub(super) async fn call_on<T: Send + 'static>(
        &self,
        pool: &CallPool,
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
        pool.call(deadline, run).await.map_err(|error| match error {
            CallError::Deadline { after } => HypervisorError::Deadline { operation, after },
            CallError::Overloaded { waiting } => HypervisorError::Overloaded { operation, waiting },
            CallError::AllStuck { stuck } => HypervisorError::AllStuck { operation, stuck },
            CallError::Panicked => HypervisorError::Panicked { operation },
        })?
    }
}
