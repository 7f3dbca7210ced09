//! One agent's connection: the task that plays a scenario on it.
//!
//! ```text
//!   door ──▶ TLS ──▶ waiting for startup ──▶ steps ──▶ serving (pings, orders, stats) ──▶ end
//! ```
//!
//! [`super::steps`] runs the steps, [`super::inbound`] takes what the agent sends.

use super::discipline;
use super::door::enter;
use super::event::{ConnectionNumber, Ending, Rule, SimEvent};
use super::link::{Incoming, Link, LinkError};
use super::order::{Order, OrderSender};
use super::outbox::{Outbox, Purpose};
use super::plan::{Asking, Plan, Step, plan};
use super::profile::{Command, Facts};
use super::server::Shared;
use super::status::HostEvent;
use crate::wire::{Flags, Header, Message};
use serde_json::Value;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long a health check may take.
const HEALTH_LIMIT: Duration = Duration::from_secs(50);
/// Pings may be this many intervals apart (`ping.timeout` 2.5), in halves.
const PING_TIMEOUT_HALVES: u32 = 5;

/// What the step interpreter waits for.
#[derive(Debug)]
pub(super) enum Waiting {
    /// The startup request.
    Startup,
    /// Nothing: the next step can run.
    Nothing,
    /// The answer to this sequence.
    Answer { sequence: i64, until: Instant },
    /// A moment.
    Until(Instant),
    /// The storm is on.
    Storm,
}

/// The host row this connection belongs to.
#[derive(Debug)]
pub(super) struct Attached {
    pub id: i64,
    pub facts: Facts,
    pub storages: Vec<Value>,
    /// `ReadyCommand` was answered.
    pub ready: bool,
}

/// Why and how the connection is over.
#[derive(Debug)]
pub(super) struct End {
    pub by: Ending,
    pub detail: String,
}

impl End {
    pub fn new(by: Ending, detail: impl Into<String>) -> End {
        End { by, detail: detail.into() }
    }
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> End {
        let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
        End::new(Ending::Broken, format!("{error}{cause}"))
    }
}

/// Timing of the investigation after missing pings.
#[derive(Debug)]
pub(super) enum Watch {
    /// The last ping, or the moment of attachment.
    Pinged(Instant),
    /// A health check is on its way.
    Investigating { until: Instant },
}

/// State of the storm.
#[derive(Debug)]
pub(super) struct StormState {
    pub left: usize,
    pub started: Instant,
    pub latencies: Vec<Duration>,
}

pub(super) struct Connection {
    pub number: ConnectionNumber,
    pub shared: Arc<Shared>,
    pub link: Link,
    pub dialled: Instant,
    pub rng: fastrand::Rng,
    pub outbox: Outbox,
    pub steps: VecDeque<Step>,
    pub waiting: Waiting,
    pub startup: Option<Startup>,
    pub attached: Option<Attached>,
    pub asking: Asking,
    pub watch: Watch,
    pub storm: Option<StormState>,
    pub last_request: Option<i64>,
    pub deaf: bool,
    pub orders: OrderSender,
    pub next_stats: Option<Instant>,
    delay: Duration,
    delayed: VecDeque<(Instant, Vec<u8>)>,
}

/// The startup request of this connection.
#[derive(Debug)]
pub(super) struct Startup {
    pub header: Header,
    pub at: Instant,
    pub guid: String,
    pub routing: Value,
    pub storages: Vec<Value>,
}

/// Serves one accepted socket to its end. `stop` closes when the server goes away.
pub(super) async fn serve(
    shared: Arc<Shared>,
    number: ConnectionNumber,
    tcp: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<()>,
) {
    let scenario = shared.config.script.scenario(number);
    shared.ledger.record(number, SimEvent::Connected { peer, scenario: scenario.name() });
    let mut rng = fastrand::Rng::with_seed(shared.config.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let config = &shared.config;
    let plan = plan(scenario, config.profile, &config.knobs, &shared.given, config.ssh_keys, &mut rng);
    let dialled = Instant::now();
    // Frames are written whole; waiting for acknowledgements would only delay them.
    let _ = tcp.set_nodelay(true);
    let link = tokio::select! {
        link = enter(&shared, number, tcp, peer, plan.door) => link,
        _ = stop.changed() => None,
    };
    let Some(link) = link else { return };
    shared.ledger.record(number, SimEvent::Handshake(link.agreed()));
    let (orders, inbox) = mpsc::unbounded_channel();
    let connection = Connection::new(shared, number, link, dialled, rng, plan, orders);
    Box::pin(connection.run(inbox, stop)).await;
}

enum Wake {
    Incoming(Result<Incoming, LinkError>),
    Order(Option<Order>),
    Due,
    Stop,
}

impl Connection {
    fn new(
        shared: Arc<Shared>,
        number: ConnectionNumber,
        link: Link,
        dialled: Instant,
        mut rng: fastrand::Rng,
        plan: Plan,
        orders: OrderSender,
    ) -> Connection {
        // The host id is known at attachment only; nothing is submitted before.
        let outbox = Outbox::new(0, &mut rng);
        Connection {
            number,
            shared,
            link,
            dialled,
            rng,
            outbox,
            steps: plan.steps.into(),
            waiting: Waiting::Startup,
            startup: None,
            attached: None,
            asking: Asking::Never,
            watch: Watch::Pinged(dialled),
            storm: None,
            last_request: None,
            deaf: false,
            orders,
            next_stats: None,
            delay: plan.delay,
            delayed: VecDeque::new(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>, mut stop: watch::Receiver<()>) {
        let end = loop {
            if let Err(end) = self.turn(&mut inbox, &mut stop).await {
                break end;
            }
        };
        self.finish(end).await;
    }

    async fn turn(
        &mut self,
        inbox: &mut mpsc::UnboundedReceiver<Order>,
        stop: &mut watch::Receiver<()>,
    ) -> Result<(), End> {
        self.advance()?;
        let due = self.due();
        let wake = tokio::select! {
            incoming = self.link.next(), if !self.deaf => Wake::Incoming(incoming),
            order = inbox.recv() => Wake::Order(order),
            () = sleep_until(due) => Wake::Due,
            _ = stop.changed() => Wake::Stop,
        };
        match wake {
            Wake::Incoming(Ok(Incoming::Message(raw))) => self.receive(&raw),
            Wake::Incoming(Ok(Incoming::End)) => Err(End::new(Ending::Agent, "")),
            Wake::Incoming(Err(error)) => {
                if matches!(error, LinkError::Frame(_) | LinkError::Seal(_)) {
                    self.violate(Rule::BrokenFrame, error.to_string());
                }
                Err(error.into())
            }
            Wake::Order(order) => self.obey(order),
            Wake::Due => self.on_time(),
            Wake::Stop => Err(End::new(Ending::ServerStopped, "")),
        }
    }

    fn obey(&mut self, order: Option<Order>) -> Result<(), End> {
        match order {
            Some(Order::Send { elements, flags, reply }) => {
                self.submit(elements, flags, Purpose::Caller(reply))?;
                Ok(())
            }
            Some(Order::Displace { by }) => {
                Err(End::new(Ending::Displaced, format!("connection {by} registered the same host")))
            }
            // The connection holds a sender itself.
            None => Ok(()),
        }
    }

    /// The next moment at which something is to be done.
    fn due(&self) -> Option<Instant> {
        let step = match self.waiting {
            Waiting::Until(at) | Waiting::Answer { until: at, .. } => Some(at),
            Waiting::Startup | Waiting::Nothing | Waiting::Storm => None,
        };
        let watch = self.attached.as_ref().filter(|a| a.ready && !self.deaf).map(|_| match self.watch {
            Watch::Pinged(at) => at + self.shared.config.ping_interval * PING_TIMEOUT_HALVES / 2,
            Watch::Investigating { until } => until,
        });
        let late = self.delayed.front().map(|(at, _)| *at);
        [step, watch, late, self.next_stats].into_iter().flatten().min()
    }

    fn on_time(&mut self) -> Result<(), End> {
        let now = Instant::now();
        while self.delayed.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, message)) = self.delayed.pop_front() else { break };
            self.link.queue(&message)?;
        }
        match self.waiting {
            Waiting::Until(at) if at <= now => self.waiting = Waiting::Nothing,
            Waiting::Answer { sequence, until } if until <= now => {
                return Err(End::new(Ending::Refused, format!("no answer to {sequence:#x}")));
            }
            _ => {}
        }
        if self.next_stats.is_some_and(|at| at <= now) {
            self.send_stats()?;
        }
        self.watch_pings(now)
    }

    fn watch_pings(&mut self, now: Instant) -> Result<(), End> {
        if self.deaf || !self.attached.as_ref().is_some_and(|a| a.ready) {
            return Ok(());
        }
        let limit = self.shared.config.ping_interval * PING_TIMEOUT_HALVES / 2;
        match self.watch {
            Watch::Pinged(at) if at + limit <= now => {
                self.watch = Watch::Investigating { until: now + HEALTH_LIMIT };
                let Some(attached) = &self.attached else { return Ok(()) };
                let elements = Command::CheckHealth.elements(&attached.facts);
                self.submit(elements, Flags::STOP_ON_ERROR, Purpose::Health)?;
                Ok(())
            }
            Watch::Investigating { until } if until <= now => {
                Err(End::new(Ending::PingTimeout, "no ping, health check not answered"))
            }
            _ => Ok(()),
        }
    }

    /// The health check was answered.
    pub fn investigated(&mut self, healthy: bool) {
        let Some(attached) = &self.attached else { return };
        if healthy {
            self.shared.ledger.transition(self.number, attached.id, HostEvent::Ping);
            self.watch = Watch::Pinged(Instant::now());
        }
    }

    /// Submits a batch; it leaves now or after the in-sequence one before it.
    pub fn submit(
        &mut self,
        elements: Vec<crate::wire::Element>,
        flags: Flags,
        purpose: Purpose,
    ) -> Result<i64, End> {
        let quiet = matches!(purpose, Purpose::Storm);
        let (sequence, message) = self.outbox.submit(elements, flags, purpose);
        if let Some(message) = message {
            self.put_request(&message, quiet)?;
        }
        Ok(sequence)
    }

    /// Sends a request and records it, unless it is one of very many.
    pub fn put_request(&mut self, message: &Message, quiet: bool) -> Result<(), End> {
        if !quiet {
            let classes = message.elements.iter().map(|e| e.simple_name().to_owned()).collect();
            self.record(SimEvent::Sent { sequence: message.header.sequence, classes });
        }
        self.put(message)
    }

    /// Encodes `message` and queues it, late if the scenario says so.
    pub fn put(&mut self, message: &Message) -> Result<(), End> {
        let bytes = message.encode().map_err(|e| End::new(Ending::Scenario, e.to_string()))?;
        if self.delay.is_zero() {
            self.link.queue(&bytes)?;
        } else {
            self.delayed.push_back((Instant::now() + self.delay, bytes));
        }
        Ok(())
    }

    pub fn record(&self, event: SimEvent) {
        self.shared.ledger.record(self.number, event);
    }

    pub fn violate(&self, rule: Rule, detail: String) {
        self.shared.ledger.violate(self.number, rule, detail);
    }

    pub fn violate_all(&self, breaches: impl IntoIterator<Item = discipline::Breach>) {
        for (rule, detail) in breaches {
            self.violate(rule, detail);
        }
    }

    async fn finish(mut self, end: End) {
        if end.by == Ending::Scenario {
            // What was queued before the cut is part of the scenario. The peer may not read it.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.link.flush()).await;
        }
        if let Some(attached) = &self.attached {
            self.shared.ledger.release(self.number, attached.id, attached.ready, end.by);
        }
        self.record(SimEvent::Closed { by: end.by, detail: end.detail });
        self.outbox.abandon();
        self.link.close().await;
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
