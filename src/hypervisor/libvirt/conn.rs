//! Keeps one libvirt connection open for as long as the process lives.
//!
//! ```text
//!                  opened                      died
//!     Opening ----------------> Connected --------------> Lost
//!      ^   |                                               |
//!      |   | failed                                        |
//!      |   +-------> Backoff ----+                         |
//!      |        1 s to 10 s over |             1 s to 2 s over
//!      +-------------------------+-------------------------+
//! ```
//!
//! Mirrors what `LibvirtConnection` does, but notices a dead or hung daemon by itself instead of at
//! the next command. While there is no connection, calls fail at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::capabilities;
use super::link::{Lease, Link};
use super::pool::CallPool;
use crate::errors::chain;
use crate::hypervisor::error::LibvirtFault;
use crate::hypervisor::types::{Connection, DomainEvent, HypervisorKind, LibvirtStatus};

/// How long opening may take before another attempt is made beside it.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(20);
/// Attempts to open that may hang at the same time.
const OPENERS: usize = 2;
const LIVENESS_INTERVAL: Duration = Duration::from_secs(5);
pub const LIVENESS_DEADLINE: Duration = Duration::from_secs(5);
/// Liveness checks without an answer after which the connection counts as lost.
const LIVENESS_MISSES: u32 = 3;
const PAUSE_MIN: f64 = 1.0;
const PAUSE_MAX: f64 = 10.0;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Opening { attempt: u32, last_error: Option<String> },
    Connected,
    Backoff { failures: u32, error: String },
    Lost { error: String },
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Opened,
    OpenFailed(String),
    Died(String),
    PauseOver,
}

impl Phase {
    /// Events that cannot happen in a phase leave it as it is.
    fn next(self, event: Event) -> Self {
        match (self, event) {
            (Self::Opening { .. }, Event::Opened) => Self::Connected,
            (Self::Opening { attempt, .. }, Event::OpenFailed(error)) => {
                Self::Backoff { failures: attempt, error }
            }
            (Self::Connected, Event::Died(error)) => Self::Lost { error },
            (Self::Backoff { failures, error }, Event::PauseOver) => {
                Self::Opening { attempt: failures.saturating_add(1), last_error: Some(error) }
            }
            (Self::Lost { error }, Event::PauseOver) => Self::Opening { attempt: 1, last_error: Some(error) },
            (phase @ Self::Opening { .. }, Event::Died(_) | Event::PauseOver) => phase,
            (phase @ Self::Connected, Event::Opened | Event::OpenFailed(_) | Event::PauseOver) => phase,
            (
                phase @ (Self::Backoff { .. } | Self::Lost { .. }),
                Event::Opened | Event::OpenFailed(_) | Event::Died(_),
            ) => phase,
        }
    }
}

/// Seconds to wait after `failures` attempts in a row: up to 2, 4, 8, then 10, never below 1.
/// `random` is in 0..1.
fn pause(failures: u32, random: f64) -> Duration {
    let top = 2f64.powi(failures.clamp(1, 8) as i32).min(PAUSE_MAX);
    Duration::from_secs_f64(PAUSE_MIN + random * (top - PAUSE_MIN))
}

/// Reports from calls that a connection, named by its generation, has died.
#[derive(Debug)]
pub struct Obituary {
    pub generation: u64,
    pub error: String,
}

pub struct Supervisor {
    pub uri: String,
    /// For liveness checks and what is learnt of a new connection.
    pub pool: CallPool,
    /// Pools whose calls count in the status all the same.
    pub others: Vec<CallPool>,
    pub link: watch::Sender<Option<Arc<Link>>>,
    pub status: watch::Sender<LibvirtStatus>,
    pub obituaries: mpsc::Receiver<Obituary>,
    pub events: broadcast::Sender<DomainEvent>,
}

/// Opening threads and their results; a thread that hangs past its deadline stays counted.
struct Openers {
    results: mpsc::Receiver<Result<Link, LibvirtFault>>,
    sender: mpsc::Sender<Result<Link, LibvirtFault>>,
    in_flight: usize,
    generation: u64,
}

impl Supervisor {
    /// Runs until the task is aborted, which the last `Hypervisor` handle does.
    pub async fn run(mut self) {
        let (sender, results) = mpsc::channel(OPENERS);
        let mut openers = Openers { results, sender, in_flight: 0, generation: 0 };
        let mut phase = Phase::Opening { attempt: 1, last_error: None };
        loop {
            self.publish(&phase);
            let event = match &phase {
                Phase::Opening { attempt, .. } => self.open(&mut openers, *attempt).await,
                Phase::Connected => self.watch_over(&mut openers).await,
                Phase::Backoff { failures, .. } => rest(*failures).await,
                Phase::Lost { .. } => {
                    self.link.send_replace(None);
                    rest(1).await
                }
            };
            phase = phase.next(event);
        }
    }

    async fn open(&mut self, openers: &mut Openers, attempt: u32) -> Event {
        if openers.in_flight < OPENERS {
            openers.generation += 1;
            let (uri, generation) = (self.uri.clone(), openers.generation);
            let (events, results) = (self.events.clone(), openers.sender.clone());
            let thread = std::thread::Builder::new().name("libvirt-open".to_owned());
            // The channel has room for every opener, so a result is never lost.
            let spawned = thread.spawn(move || drop(results.try_send(Link::open(&uri, generation, &events))));
            match spawned {
                Ok(_) => openers.in_flight += 1,
                Err(error) => return Event::OpenFailed(format!("cannot start a thread: {error}")),
            }
        }
        // A result of an earlier attempt, come late, is as good.
        let error = match tokio::time::timeout(OPEN_DEADLINE, openers.results.recv()).await {
            Ok(Some(result)) => {
                openers.in_flight -= 1;
                match result {
                    Ok(link) if link.is_alive() => {
                        self.adopt(link);
                        return Event::Opened;
                    }
                    // Opened by an earlier attempt, and closed again while nobody looked.
                    Ok(_) => "the connection was closed as soon as it stood".to_owned(),
                    Err(fault) => fault.to_string(),
                }
            }
            Ok(None) => "the opening thread is gone".to_owned(),
            Err(_) => format!("no answer within {} s", OPEN_DEADLINE.as_secs()),
        };
        // 1, 2, 4, 8, ...: each failure is as good as the first, and an outage may last for days.
        if attempt.is_power_of_two() {
            tracing::warn!(
                uri = self.uri,
                attempt,
                error,
                "Cannot connect to libvirt: check that libvirtd runs"
            );
        }
        Event::OpenFailed(error)
    }

    fn adopt(&mut self, link: Link) {
        tracing::info!(uri = self.uri, libvirt = link.libvirt_version, kind = %link.kind, "Connected to libvirt");
        let link = Arc::new(link);
        tokio::spawn(capabilities::learn(self.pool.clone(), Arc::downgrade(&link)));
        self.link.send_replace(Some(link));
    }

    /// Returns when the connection has died.
    async fn watch_over(&mut self, openers: &mut Openers) -> Event {
        let Some(link) = self.link.borrow().clone() else {
            return Event::Died("the connection was not kept".to_owned());
        };
        let mut slow = link.slow.subscribe();
        let mut ticks = tokio::time::interval_at(Instant::now() + LIVENESS_INTERVAL, LIVENESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut misses = 0;
        loop {
            let death = tokio::select! {
                Some(obituary) = self.obituaries.recv() => {
                    (obituary.generation == link.generation).then_some(obituary.error)
                }
                Ok(()) = slow.changed() => None,
                // One connection is enough: a second would tell each guest event once more, and be
                // taken for a new one after the first has died.
                Some(late) = openers.results.recv() => {
                    openers.in_flight -= 1;
                    drop(late);
                    None
                }
                _ = ticks.tick() => self.check(&link, &mut misses).await,
            };
            if let Some(error) = death {
                tracing::warn!(uri = self.uri, error, "Lost the connection to libvirt: reconnecting");
                return Event::Died(error);
            }
            self.publish(&Phase::Connected);
        }
    }

    /// The reason, if the connection is found dead.
    async fn check(&self, link: &Arc<Link>, misses: &mut u32) -> Option<String> {
        if !link.is_alive() {
            return Some("the connection is closed".to_owned());
        }
        let checked = Arc::clone(link);
        let check = move || {
            let lease = Lease::take(&checked).map_err(|error| (!checked.is_alive(), error))?;
            lease.check().map_err(|error| (lease.died_of(&error), error))
        };
        match self.pool.call(LIVENESS_DEADLINE, check).await {
            Ok(Ok(())) => {
                *misses = 0;
                None
            }
            Ok(Err((dead, error))) => dead.then(|| chain(&error)),
            Err(_) => {
                *misses += 1;
                (*misses >= LIVENESS_MISSES)
                    .then(|| format!("no answer to {LIVENESS_MISSES} liveness checks"))
            }
        }
    }

    fn publish(&self, phase: &Phase) {
        let connection = match phase {
            Phase::Opening { attempt, last_error } => {
                Connection::Connecting { attempt: *attempt, last_error: last_error.clone() }
            }
            Phase::Backoff { failures, error } => Connection::Connecting {
                attempt: failures.saturating_add(1),
                last_error: Some(error.clone()),
            },
            Phase::Lost { error } => Connection::Lost { error: error.clone() },
            Phase::Connected => self.connected(),
        };
        let counters = || std::iter::once(&self.pool).chain(&self.others).map(CallPool::counters);
        let status = LibvirtStatus {
            uri: self.uri.clone(),
            connection,
            calls: counters().map(|of_pool| of_pool.calls).sum(),
            deadline_misses: counters().map(|of_pool| of_pool.deadline_misses).sum(),
        };
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    fn connected(&self) -> Connection {
        let link = self.link.borrow();
        let slow = link.as_ref().and_then(|link| link.slow.borrow().clone());
        Connection::Connected {
            libvirt_version: link.as_ref().map(|l| l.libvirt_version.clone()).unwrap_or_default(),
            hypervisor_version: slow
                .map_or_else(|| capabilities::UNKNOWN.to_owned(), |s| s.hypervisor_version.clone()),
            hypervisor_kind: link
                .as_ref()
                .map_or_else(|| HypervisorKind::Other(capabilities::UNKNOWN.to_owned()), |l| l.kind.clone()),
        }
    }
}

async fn rest(failures: u32) -> Event {
    tokio::time::sleep(pause(failures, fastrand::f64())).await;
    Event::PauseOver
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::libvirt::pool::QUERIES;

    fn error() -> String {
        "gone".to_owned()
    }

    #[test]
    fn the_phases_follow_the_picture() {
        let opening = Phase::Opening { attempt: 3, last_error: None };
        assert_eq!(opening.clone().next(Event::Opened), Phase::Connected);
        let backoff = opening.next(Event::OpenFailed(error()));
        assert_eq!(backoff, Phase::Backoff { failures: 3, error: error() });
        assert_eq!(backoff.next(Event::PauseOver), Phase::Opening { attempt: 4, last_error: Some(error()) });
        let lost = Phase::Connected.next(Event::Died(error()));
        assert_eq!(lost, Phase::Lost { error: error() });
        assert_eq!(lost.next(Event::PauseOver), Phase::Opening { attempt: 1, last_error: Some(error()) });
    }

    #[test]
    fn impossible_events_change_nothing() {
        assert_eq!(Phase::Connected.next(Event::PauseOver), Phase::Connected);
        let lost = Phase::Lost { error: error() };
        assert_eq!(lost.clone().next(Event::Died("again".to_owned())), lost);
    }

    #[tokio::test]
    async fn a_connection_that_comes_late_is_dropped() {
        let uri = "test:///default".to_owned();
        let (events, _) = broadcast::channel(1);
        let open = |generation| Link::open("test:///default", generation, &events).unwrap();
        let (sender, results) = mpsc::channel(OPENERS);
        let mut openers = Openers { results, sender: sender.clone(), in_flight: 1, generation: 2 };
        let connection = Connection::Connecting { attempt: 1, last_error: None };
        let status = LibvirtStatus { uri: uri.clone(), connection, calls: 0, deadline_misses: 0 };
        let (_keep, obituaries) = mpsc::channel(1);
        let mut supervisor = Supervisor {
            uri,
            pool: CallPool::new(QUERIES),
            others: Vec::new(),
            link: watch::channel(Some(Arc::new(open(2)))).0,
            status: watch::channel(status).0,
            obituaries,
            events: events.clone(),
        };
        sender.try_send(Ok(open(1))).unwrap();
        let taken = async {
            while sender.capacity() < OPENERS {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            event = supervisor.watch_over(&mut openers) => panic!("ended by {event:?}"),
            taken = tokio::time::timeout(Duration::from_secs(60), taken) => taken.unwrap(),
        }
        assert_eq!(openers.in_flight, 0);
        assert_eq!(supervisor.link.borrow().as_ref().map(|link| link.generation), Some(2));
    }

    #[test]
    fn pauses_stay_between_one_and_ten_seconds() {
        for failures in [0, 1, 2, 3, 4, 5, 100, u32::MAX] {
            assert_eq!(pause(failures, 0.0), Duration::from_secs(1));
            assert!(pause(failures, 0.999_999) <= Duration::from_secs(10));
        }
        assert!(pause(1, 0.999) <= Duration::from_secs(2));
        assert!(pause(5, 0.999) > Duration::from_secs(9));
    }
}
