//! The open connections to one libvirt daemon and what was learnt on them. Dropped as a whole when
//! one of them dies, so nothing cached outlives the daemon that said it.
//!
//! Each call has a connection to itself. Where two threads share one, the client of libvirt 9.0 can
//! leave the second request lying until the first is answered or a keep-alive arrives, so a quick
//! question would wait seconds for a slow one. Guests' events come on the first connection.

use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{broadcast, watch};
use virt::connect::Connect;
use virt::error::{Error, ErrorDomain, ErrorNumber};

use super::events::{self, Registration};
use super::{fault, refused};
use crate::hypervisor::error::{HypervisorError, LibvirtFault, Result};
use crate::hypervisor::types::{DomainEvent, HypervisorKind, dotted_version};
use crate::hypervisor::xml::HostCapabilities;

/// Seconds between keep-alive messages, and how many may stay unanswered: a daemon that hangs is
/// noticed within 20 s.
const KEEPALIVE: (i32, u32) = (5, 3);

/// What takes libvirt long to tell: read once per connection, since on machines with an unusable
/// /dev/kvm each question costs a probe of QEMU, 8 s and more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowFacts {
    pub hypervisor_version: String,
    pub capabilities: HostCapabilities,
}

#[derive(Debug)]
pub struct Link {
    parts: Option<Parts>,
    uri: String,
    pub generation: u64,
    pub kind: HypervisorKind,
    pub libvirt_version: String,
    /// `virConnectGetHostname`, which may go through DNS.
    pub hostname: OnceLock<String>,
    pub slow: watch::Sender<Option<Arc<SlowFacts>>>,
}

#[derive(Debug)]
struct Parts {
    first: Connect,
    events: Option<Registration>,
    /// Connections that no call uses at the moment.
    idle: Mutex<Vec<Connect>>,
}

/// A connection for the exclusive use of one call; goes back when dropped.
#[derive(Debug)]
pub struct Lease {
    link: Arc<Link>,
    connect: Option<Connect>,
}

impl Deref for Lease {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Lease {
    /// Takes an idle connection, or opens another. For blocking use on a pool thread only.
    pub fn take(link: &Arc<Link>) -> Result<Self> {
        let parts = link.parts()?;
        // The test driver has no daemon: each connection would be a node of its own.
        if link.kind == HypervisorKind::Test {
            return Ok(Self { link: Arc::clone(link), connect: Some(parts.first.clone()) });
        }
        let idle = parts.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connect = match idle {
            Some(connect) => connect,
            None => open_one(&link.uri).map_err(refused("opening a connection", &link.uri))?,
        };
        Ok(Self { link: Arc::clone(link), connect: Some(connect) })
    }

    pub fn connect(&self) -> Result<&Connect> {
        // Taken in `drop` only.
        self.connect.as_ref().ok_or(HypervisorError::Panicked { operation: "libvirt access" })
    }

    /// Asks the daemon something trivial, to learn whether it answers.
    pub fn check(&self) -> Result<()> {
        self.connect()?.lib_version().map(drop).map_err(refused("a liveness check", "the connection"))
    }

    /// Whether an operation failed because the daemon is gone, rather than on its own account.
    pub fn died_of(&self, error: &HypervisorError) -> bool {
        let Some(source) = error.fault() else { return false };
        // Any error may hide a dead connection; the second check is local and cheap.
        (means_dead(source) && !error.is_of_another_host())
            || self.connect().is_ok_and(|connect| matches!(connect.is_alive(), Ok(false)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (Some(connect), Ok(parts)) = (self.connect.take(), self.link.parts())
            && self.link.kind != HypervisorKind::Test
            && matches!(connect.is_alive(), Ok(true))
        {
            parts.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connect);
        }
    }
}

pub fn open_one(uri: &str) -> Result<Connect, Error> {
    let connect = Connect::open(Some(uri))?;
    // Local drivers have no keep-alive and need none.
    if let Err(error) = connect.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1) {
        tracing::debug!(%error, uri, "No keep-alive on the libvirt connection");
    }
    Ok(connect)
}

impl Link {
    /// Opens the first connection. Blocks for as long as the daemon likes.
    pub fn open(
        uri: &str,
        generation: u64,
        listeners: &broadcast::Sender<DomainEvent>,
    ) -> Result<Self, LibvirtFault> {
        events::ensure_loop();
        let first = open_one(uri).map_err(|e| fault(&e))?;
        let kind = first.driver_type().map_err(|e| fault(&e))?;
        let libvirt_version = first.lib_version().map_err(|e| fault(&e))?;
        let events = match Registration::register(&first, listeners.clone()) {
            Ok(registration) => Some(registration),
            Err(error) => {
                tracing::warn!(%error, uri, "No guest events from libvirt: stopped guests show at the next ping");
                None
            }
        };
        let idle = Mutex::new(vec![first.clone()]);
        Ok(Self {
            parts: Some(Parts { first, events, idle }),
            uri: uri.to_owned(),
            generation,
            kind: HypervisorKind::from_driver_type(&kind),
            libvirt_version: dotted_version(libvirt_version),
            hostname: OnceLock::new(),
            slow: watch::channel(None).0,
        })
    }

    fn parts(&self) -> Result<&Parts> {
        // Taken in `drop` only.
        self.parts.as_ref().ok_or(HypervisorError::Panicked { operation: "libvirt access" })
    }

    /// Whether the connection that carries the events is up; asks nobody.
    pub fn is_alive(&self) -> bool {
        self.parts().is_ok_and(|parts| !matches!(parts.first.is_alive(), Ok(false)))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        // Closing talks to the daemon and may block, so it never happens on the dropping thread.
        let close = move || {
            let Parts { first, events, idle } = parts;
            if let Some(events) = events {
                events.deregister(&first);
            }
            drop((idle, first));
        };
        let closer = std::thread::Builder::new().name("libvirt-close".to_owned());
        if let Err(error) = closer.spawn(close) {
            tracing::warn!(%error, "No thread to close a libvirt connection on");
        }
    }
}

/// Errors that only a dead connection gives. `VIR_ERR_NO_CONNECT` is not among them: a modular
/// daemon also says so when one of its siblings is down, while our connection is well.
fn means_dead(fault: &LibvirtFault) -> bool {
    let from_rpc = fault.domain == raw_domain(ErrorDomain::Rpc);
    fault.code == raw_code(ErrorNumber::Rpc)
        || fault.code == raw_code(ErrorNumber::InvalidConn)
        || (from_rpc
            && [ErrorNumber::SystemError, ErrorNumber::InternalError].map(raw_code).contains(&fault.code))
}

fn raw_code(code: ErrorNumber) -> u32 {
    virt::error::ErrorNumberEnum::from(code).to_raw()
}

fn raw_domain(domain: ErrorDomain) -> u32 {
    virt::error::ErrorDomainEnum::from(domain).to_raw()
}

/// Whether libvirt says that there is no such object.
pub fn is_not_found(error: &Error, code: ErrorNumber) -> bool {
    error.code().is(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(code: ErrorNumber, domain: ErrorDomain) -> LibvirtFault {
        LibvirtFault { code: raw_code(code), domain: raw_domain(domain), message: String::new() }
    }

    #[test]
    fn transport_errors_end_the_connection_and_others_do_not() {
        assert!(means_dead(&fault_of(ErrorNumber::Rpc, ErrorDomain::None)));
        assert!(means_dead(&fault_of(ErrorNumber::InvalidConn, ErrorDomain::Qemu)));
        assert!(means_dead(&fault_of(ErrorNumber::SystemError, ErrorDomain::Rpc)));
        assert!(means_dead(&fault_of(ErrorNumber::InternalError, ErrorDomain::Rpc)));
        assert!(!means_dead(&fault_of(ErrorNumber::SystemError, ErrorDomain::Qemu)));
        assert!(!means_dead(&fault_of(ErrorNumber::NoDomain, ErrorDomain::Qemu)));
        assert!(!means_dead(&fault_of(ErrorNumber::NoConnect, ErrorDomain::Storage)));
    }
}
