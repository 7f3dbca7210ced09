//! The hypervisor as the handlers see it: plain values and one handle; libvirt behind it.
//!
//! Every operation has a deadline: a libvirt call that hangs costs one thread of a small pool,
//! never a handler, a ping or the process. While libvirt is away, operations fail at once with
//! `NotConnected`; the connection comes back by itself.

mod block_copy;
mod blocks;
mod calls;
mod devices;
mod error;
mod guests;
mod libvirt;
mod migration;
mod node;
mod pools;
mod secrets;
mod snapshots;
mod tuning;
mod types;
pub mod xml;

#[cfg(test)]
mod guest_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::AbortHandle;

pub use block_copy::*;
pub use blocks::*;
pub use devices::*;
pub use error::{HypervisorError, LibvirtFault, Object, Result};
pub use guests::*;
pub use migration::*;
pub use pools::*;
pub use snapshots::*;
pub use tuning::*;
pub use types::*;

use calls::Calls;
use libvirt::conn::{Obituary, Supervisor};
use libvirt::link::Link;

/// Questions that libvirt answers from memory.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(10);
/// The power report of all guests; must end well within a ping interval.
pub const POWER_DEADLINE: Duration = Duration::from_secs(15);
/// The counters of one guest, some of which QEMU is asked for.
pub const SAMPLE_DEADLINE: Duration = Duration::from_secs(10);
/// What changes a running guest; libvirt itself waits 30 s for another change to end.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(60);
/// Operations that look at storage: a refresh opens every volume.
pub const STORAGE_DEADLINE: Duration = Duration::from_secs(60);
/// How long `node_facts` waits for the capabilities, which take libvirt 8 s and more on a node
/// without usable KVM. Registration must not.
pub const CAPABILITIES_GRACE: Duration = Duration::from_millis(200);

/// Lifecycle events that a slow listener may fall behind; it then learns how many it missed.
const EVENTS: usize = 256;
const MAX_NAME: usize = 255;

/// Handle to the hypervisor; clones share one connection, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Hypervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    uri: String,
    calls: Calls,
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
        let calls = Calls::new();
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
            pool: calls.queries.clone(),
            others: calls.others(),
            link: link_sender,
            status: status_sender,
            obituaries: received,
            events: events.clone(),
        };
        let supervisor = tokio::spawn(supervisor.run()).abort_handle();
        let pool_creation = Semaphore::new(1);
        Self {
            inner: Arc::new(Inner {
                uri,
                calls,
                link,
                status,
                obituaries,
                events,
                pool_creation,
                supervisor,
            }),
        }
    }

    pub fn uri(&self) -> &str {
        &self.inner.uri
    }

    /// The connection as it is and becomes. Counters are refreshed every few seconds.
    pub fn status(&self) -> watch::Receiver<LibvirtStatus> {
        self.inner.status.clone()
    }

    /// How long libvirt takes, by the kind of calls. Never waits for libvirt.
    pub fn figures(&self) -> Vec<CallFigures> {
        self.inner.calls.figures()
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
}

/// Names come from the network and end in C strings and libvirt's own files.
fn checked(what: Object, name: &str) -> Result<String> {
    let sound =
        !name.is_empty() && name.len() <= MAX_NAME && !name.contains(|c: char| c == '/' || c.is_control());
    if sound {
        Ok(name.to_owned())
    } else {
        Err(HypervisorError::InvalidName { what, name: name.to_owned() })
    }
}

/// Text that goes into a C string: a path, a device name.
fn plain(what: &'static str, text: &str) -> Result<String> {
    if text.contains(char::is_control) {
        Err(HypervisorError::InvalidText { what, value: text.to_owned() })
    } else {
        Ok(text.to_owned())
    }
}
