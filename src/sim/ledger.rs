//! The record of one simulated server: events, violations, host rows.
//!
//! One lock guards it, held for single updates and never across an await: hundreds of connection
//! tasks write, tests read at any moment and want the answer at once.

use super::event::{ConnectionNumber, Ending, Recorded, Rule, SimEvent, Violation};
use super::order::OrderSender;
use super::status::{HostEvent, Status};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Events kept; older ones are forgotten.
const KEPT_EVENTS: usize = 50_000;

/// One state change of a host row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub at: Duration,
    pub event: HostEvent,
    pub from: Status,
    pub to: Status,
}

/// A host as the server knows it.
#[derive(Debug, Clone)]
pub struct HostRow {
    /// Assigned in the order of first registration, from 1.
    pub id: i64,
    pub guid: String,
    /// `name` of the last startup request.
    pub name: String,
    pub status: Status,
    pub transitions: Vec<Transition>,
    /// Startup requests that were accepted.
    pub registrations: u32,
    /// Pings that were received while attached.
    pub pings: u64,
    /// Connection over which it is registered now.
    pub connection: Option<ConnectionNumber>,
    /// Fields of the last `StartupRoutingCommand`.
    pub routing: Value,
}

impl HostRow {
    /// The states in order, starting with the first after creation.
    pub fn history(&self) -> Vec<Status> {
        self.transitions.iter().map(|t| t.to).collect()
    }
}

#[derive(Debug)]
struct Host {
    row: HostRow,
    orders: Option<OrderSender>,
    lost_ready: Option<Instant>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Recorded>,
    forgotten: u64,
    violations: Vec<Violation>,
    hosts: BTreeMap<String, Host>,
}

/// What a registration found.
#[derive(Debug)]
pub(super) struct Registered {
    pub host_id: i64,
    /// The older connection of the same host, which the server closes.
    pub displaced: Option<(ConnectionNumber, OrderSender)>,
    /// When a Ready session of this host was lost, if it did not end by the agent's own farewell.
    pub lost_ready: Option<Instant>,
}

/// The record. Shared by all connections of a server.
#[derive(Debug)]
pub struct Ledger {
    started: Instant,
    inner: Mutex<Inner>,
    count: watch::Sender<u64>,
}

impl Ledger {
    pub(super) fn new() -> Arc<Ledger> {
        let (count, _) = watch::channel(0);
        Arc::new(Ledger { started: Instant::now(), inner: Mutex::default(), count })
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked while reading leaves the record intact.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, connection: ConnectionNumber, event: SimEvent) {
        self.lock().push(self.started.elapsed(), connection, event);
        self.count.send_modify(|count| *count += 1);
    }

    pub(super) fn violate(&self, connection: ConnectionNumber, rule: Rule, detail: String) {
        self.record(connection, SimEvent::Violation { rule, detail });
    }

    /// Attaches `guid` to `connection`: AgentConnected.
    pub(super) fn register(
        &self,
        connection: ConnectionNumber,
        guid: &str,
        routing: &Value,
        orders: OrderSender,
    ) -> Registered {
        let registered = {
            let mut inner = self.lock();
            let id = i64::try_from(inner.hosts.len()).unwrap_or(i64::MAX) + 1;
            let host = inner.hosts.entry(guid.to_owned()).or_insert_with(|| Host::new(id, guid));
            host.row.registrations += 1;
            host.row.routing = routing.clone();
            host.row.name = routing.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let displaced = host.row.connection.replace(connection).zip(host.orders.replace(orders));
            Registered { host_id: host.row.id, displaced, lost_ready: host.lost_ready.take() }
        };
        self.transition(connection, registered.host_id, HostEvent::AgentConnected);
        registered
    }

    /// Applies `event` to a host row; a transition that the server refuses changes nothing.
    pub(super) fn transition(&self, connection: ConnectionNumber, host_id: i64, event: HostEvent) {
        let at = self.started.elapsed();
        let changed = {
            let mut inner = self.lock();
            let Some(host) = inner.hosts.values_mut().find(|h| h.row.id == host_id) else { return };
            let row = &mut host.row;
            let Some(to) = row.status.after(event) else { return };
            let from = std::mem::replace(&mut row.status, to);
            row.transitions.push(Transition { at, event, from, to });
            SimEvent::Transition { guid: row.guid.clone(), from, event, to }
        };
        self.record(connection, changed);
    }

    /// The end of a connection that had registered `host_id`.
    pub(super) fn release(
        &self,
        connection: ConnectionNumber,
        host_id: i64,
        was_ready: bool,
        ending: Ending,
    ) {
        {
            let mut inner = self.lock();
            let Some(host) = inner.hosts.values_mut().find(|h| h.row.id == host_id) else { return };
            if host.row.connection != Some(connection) {
                return; // a newer connection has taken over
            }
            host.row.connection = None;
            host.orders = None;
            if was_ready && ending != Ending::Shutdown {
                host.lost_ready = Some(Instant::now());
            }
        }
        let event = match ending {
            Ending::Agent | Ending::Broken | Ending::Scenario | Ending::Refused => {
                HostEvent::AgentDisconnected
            }
            Ending::PingTimeout => HostEvent::PingTimeout,
            Ending::Shutdown => HostEvent::ShutdownRequested,
            Ending::ServerStopped => HostEvent::ManagementServerDown,
            Ending::Displaced => return,
        };
        self.transition(connection, host_id, event);
    }

    pub(super) fn count_ping(&self, host_id: i64) {
        if let Some(host) = self.lock().hosts.values_mut().find(|h| h.row.id == host_id) {
            host.row.pings += 1;
        }
    }

    pub(super) fn status(&self, host_id: i64) -> Option<Status> {
        self.lock().hosts.values().find(|h| h.row.id == host_id).map(|h| h.row.status)
    }

    pub(super) fn orders(&self, host_id: i64) -> Option<OrderSender> {
        self.lock().hosts.values().find(|h| h.row.id == host_id).and_then(|h| h.orders.clone())
    }

    pub(super) fn hosts(&self) -> Vec<HostRow> {
        let mut rows: Vec<HostRow> = self.lock().hosts.values().map(|h| h.row.clone()).collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    pub(super) fn recorded(&self) -> Vec<Recorded> {
        self.lock().events.iter().cloned().collect()
    }

    pub(super) fn stream(self: &Arc<Self>) -> EventStream {
        EventStream { ledger: Arc::clone(self), cursor: 0, count: self.count.subscribe() }
    }
}

impl Inner {
    fn push(&mut self, at: Duration, connection: ConnectionNumber, event: SimEvent) {
        if let SimEvent::Violation { rule, detail } = &event {
            self.violations.push(Violation { at, connection, rule: *rule, detail: detail.clone() });
        }
        if self.events.len() == KEPT_EVENTS {
            self.events.pop_front();
            self.forgotten += 1;
        }
        self.events.push_back(Recorded { at, connection, event });
    }
}

impl Host {
    fn new(id: i64, guid: &str) -> Host {
        let row = HostRow {
            id,
            guid: guid.to_owned(),
            name: String::new(),
            status: Status::Creating,
            transitions: Vec::new(),
            registrations: 0,
            pings: 0,
            connection: None,
            routing: Value::Null,
        };
        Host { row, orders: None, lost_ready: None }
    }
}

/// Every event from the server's start on, in order, then the new ones as they happen.
#[derive(Debug)]
pub struct EventStream {
    ledger: Arc<Ledger>,
    cursor: u64,
    count: watch::Receiver<u64>,
}

impl EventStream {
    /// The next event; waits for it without limit. Cancel-safe.
    pub async fn next(&mut self) -> Recorded {
        loop {
            self.count.borrow_and_update();
            if let Some(recorded) = self.take() {
                return recorded;
            }
            if self.count.changed().await.is_err() {
                // The stream holds the ledger itself, so the sender cannot be gone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The first event from here on that `wanted` accepts; `None` if none came within `limit`.
    pub async fn until(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&Recorded) -> bool,
    ) -> Option<Recorded> {
        tokio::time::timeout(limit, async {
            loop {
                let recorded = self.next().await;
                if wanted(&recorded) {
                    return recorded;
                }
            }
        })
        .await
        .ok()
    }

    fn take(&mut self) -> Option<Recorded> {
        let inner = self.ledger.lock();
        self.cursor = self.cursor.max(inner.forgotten);
        let at = usize::try_from(self.cursor - inner.forgotten).ok()?;
        let recorded = inner.events.get(at)?.clone();
        self.cursor += 1;
        Some(recorded)
    }
}
