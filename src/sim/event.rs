//! What the simulated server saw, in types for tests and in plain words for people.

use super::link::Agreed;
use super::status::{HostEvent, Status};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Number of a connection: 1 for the first that was accepted, 0 for the server itself.
pub type ConnectionNumber = u64;

/// One line of the record.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Time since the server started.
    pub at: Duration,
    pub connection: ConnectionNumber,
    pub event: SimEvent,
}

/// Why a connection ended, from the server's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The agent closed the link.
    Agent,
    /// The link broke: reset, or bytes that are no frames of this session.
    Broken,
    /// The agent said goodbye with `ShutdownCommand`.
    Shutdown,
    /// The scenario cut it.
    Scenario,
    /// An answer that the server insists on was missing, negative or of the wrong class.
    Refused,
    /// The same host registered over a newer connection.
    Displaced,
    /// No ping and no answer to the health check that followed.
    PingTimeout,
    /// The server stopped.
    ServerStopped,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum SimEvent {
    /// The port is open.
    Listening { address: SocketAddr },
    /// The port refuses connections now; `down` is for how long, if it is to open again.
    Stopped { down: Option<Duration> },
    /// A TCP connection was accepted; `scenario` is what it will meet.
    Connected { peer: SocketAddr, scenario: &'static str },
    /// The TLS handshake did not succeed, or the scenario did not let it.
    HandshakeFailed { error: String },
    /// The TLS handshake succeeded.
    Handshake(Agreed),
    /// A startup request came. `routing` and `storages` are the fields of its commands.
    Startup { sequence: i64, guid: String, routing: Value, storages: Vec<Value> },
    /// A command batch went out.
    Sent { sequence: i64, classes: Vec<String> },
    /// The agent answered the first `ReadyCommand`: the host is Up.
    Ready { host_id: i64 },
    /// A ping. `vms` is absent if the ping had no report; values are power states.
    Ping {
        sequence: i64,
        host_id: i64,
        class: String,
        out_of_band: bool,
        vms: Option<BTreeMap<String, String>>,
        answered: bool,
        asked_for_startup: bool,
    },
    /// One answer of a response.
    Answer {
        sequence: i64,
        command: String,
        class: String,
        result: Option<bool>,
        details: Option<String>,
        latency: Duration,
        fields: Value,
    },
    /// The agent announced its end.
    Shutdown { reason: String, detail: Option<String> },
    /// Another request of the agent.
    Request { sequence: i64, classes: Vec<String> },
    /// A host row changed.
    Transition { guid: String, from: Status, event: HostEvent, to: Status },
    /// The scenario did something malformed or unusual on purpose.
    Mischief { what: &'static str },
    /// A storm of commands is over.
    Storm { commands: usize, elapsed: Duration, median: Duration, p99: Duration, max: Duration },
    /// The agent broke a rule of the protocol.
    Violation { rule: Rule, detail: String },
    /// The connection is over.
    Closed { by: Ending, detail: String },
}

/// A rule of the protocol that an agent broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// `FROM_SERVER` set: the server would take the agent for a peer server.
    FromServerSet,
    /// Management server id, agent id or via not as required.
    WrongIds,
    /// `IN_SEQUENCE` or `STOP_ON_ERROR` not echoed, or set without cause.
    FlagsNotEchoed,
    /// Flags of an agent's own request are not those of its kind.
    RequestFlags,
    /// As many answers as commands are required.
    AnswerCount,
    /// An answer without a boolean `result`.
    MissingResult,
    /// A command or answer without a `contextMap` object.
    MissingContext,
    /// A member that is null: absent fields are left out, null overwrites the server's default.
    ExplicitNull,
    /// A second startup request on the same connection.
    SecondStartup,
    /// A second connection of a guid registered while the first was still open.
    SecondConnection,
    /// A request before the startup request.
    BeforeStartup,
    /// A startup request that lacks what the server reads without asking whether it is there.
    StartupIncomplete,
    /// A body of 8192 bytes or more that is not compressed.
    NotCompressed,
    /// The header's size is not the length of the uncompressed body.
    WrongSize,
    /// Bytes that are no frames, or frames that do not hold whole TLS records.
    BrokenFrame,
    /// A message that cannot be read.
    Undecodable,
    /// Host id 0, or another host's, after the id was told by `ReadyCommand`.
    WrongHostId,
    /// Dialled again less than five seconds after a Ready session was lost.
    FastReconnect,
    /// A class that no server knows, or that is not of the kind needed here.
    UnknownClass,
    /// The server casts the answer to one class, and this is another.
    WrongAnswerClass,
    /// An answer to a command that was not sent on this connection.
    UnknownSequence,
    /// A second answer to the same command.
    RepeatedAnswer,
    /// The agent's own sequence did not grow.
    RepeatedSequence,
}

/// A broken rule with its place in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at: Duration,
    pub connection: ConnectionNumber,
    pub rule: Rule,
    pub detail: String,
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} #{:<4} {}", self.at.as_secs_f64(), self.connection, self.event)
    }
}

impl fmt::Display for SimEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SimEvent::Listening { address } => write!(f, "listening on {address}"),
            SimEvent::Stopped { down: Some(down) } => write!(f, "stopped, back in {down:?}"),
            SimEvent::Stopped { down: None } => f.write_str("stopped"),
            SimEvent::Connected { peer, scenario } => write!(f, "connected from {peer}, plays {scenario}"),
            SimEvent::HandshakeFailed { error } => write!(f, "handshake failed: {error}"),
            SimEvent::Handshake(agreed) => {
                let certificate = if agreed.client_certificate { "with" } else { "without" };
                write!(f, "handshake done, {}, {certificate} client certificate", agreed.protocol)
            }
            SimEvent::Startup { sequence, guid, storages, .. } => {
                write!(f, "startup {sequence} of {guid} with {} pools", storages.len())
            }
            SimEvent::Sent { sequence, classes } => write!(f, "sent {sequence:#x} {}", classes.join(", ")),
            SimEvent::Ready { host_id } => write!(f, "host {host_id} is ready"),
            SimEvent::Ping { sequence, host_id, out_of_band, vms, answered, .. } => {
                let kind = if *out_of_band { "out-of-band ping" } else { "ping" };
                let vms = vms.as_ref().map_or("no report".to_owned(), |vms| format!("{} guests", vms.len()));
                let fate = if *answered { "answered" } else { "not answered" };
                write!(f, "{kind} {sequence} of host {host_id}, {vms}, {fate}")
            }
            SimEvent::Answer { sequence, class, result, details, latency, .. } => {
                let result = result.map_or("no result".to_owned(), |r| r.to_string());
                write!(f, "answer {sequence:#x} {class}: {result} after {latency:.1?}")?;
                match details {
                    Some(details) if !details.is_empty() => write!(f, ", {details}"),
                    _ => Ok(()),
                }
            }
            SimEvent::Shutdown { reason, .. } => write!(f, "agent shuts down: {reason}"),
            SimEvent::Request { sequence, classes } => {
                write!(f, "request {sequence} {}", classes.join(", "))
            }
            SimEvent::Transition { guid, from, event, to } => {
                write!(f, "host {guid}: {from:?} -> {to:?} ({event:?})")
            }
            SimEvent::Mischief { what } => write!(f, "mischief: {what}"),
            SimEvent::Storm { commands, elapsed, median, p99, max } => write!(
                f,
                "storm of {commands} commands took {elapsed:.1?}: median {median:.1?}, p99 {p99:.1?}, max {max:.1?}"
            ),
            SimEvent::Violation { rule, detail } => write!(f, "VIOLATION {rule:?}: {detail}"),
            SimEvent::Closed { by, detail } if detail.is_empty() => write!(f, "closed by {by:?}"),
            SimEvent::Closed { by, detail } => write!(f, "closed by {by:?}: {detail}"),
        }
    }
}

impl SimEvent {
    /// Short stable name, for logs that machines read.
    pub fn name(&self) -> &'static str {
        match self {
            SimEvent::Listening { .. } => "listening",
            SimEvent::Stopped { .. } => "stopped",
            SimEvent::Connected { .. } => "connected",
            SimEvent::HandshakeFailed { .. } => "handshake-failed",
            SimEvent::Handshake(_) => "handshake",
            SimEvent::Startup { .. } => "startup",
            SimEvent::Sent { .. } => "sent",
            SimEvent::Ready { .. } => "ready",
            SimEvent::Ping { .. } => "ping",
            SimEvent::Answer { .. } => "answer",
            SimEvent::Shutdown { .. } => "shutdown",
            SimEvent::Request { .. } => "request",
            SimEvent::Transition { .. } => "transition",
            SimEvent::Mischief { .. } => "mischief",
            SimEvent::Storm { .. } => "storm",
            SimEvent::Violation { .. } => "violation",
            SimEvent::Closed { .. } => "closed",
        }
    }
}
