//! The status document, schema 1: one value behind the text, the JSON, the socket and the file.
//!
//! Rules of the schema (`packaging/status.schema.json`): fields are only added; times are RFC 3339
//! UTC; sizes are bytes; what is not known is `null`, or absent where the type has no null. It is
//! never 0 and never the empty string, hence the many `Option`s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checks::{Check, CheckResult};
use super::timestamp::Timestamp;

/// The only schema number there is; readers refuse another.
pub const SCHEMA: u32 = 1;

/// Id of the check that says whether the agent process itself answers.
pub const AGENT_CHECK: &str = "agent";

/// Everything known about the agent at [`Status::taken_at`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// One word for all of it; see [`Status::judge`].
    pub verdict: Verdict,
    /// How deep the reader could look.
    pub source: Source,
    /// When the values were collected.
    pub taken_at: Timestamp,
    /// The agent process.
    pub agent: AgentSection,
    /// The link to the management server.
    pub session: SessionSection,
    /// Commands answered since the process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<CommandsSection>,
    /// The hypervisor connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<LibvirtSection>,
    /// The host's hardware, as reported to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineSection>,
    /// Storage pools in the order they were attached.
    #[serde(default)]
    pub storage: Vec<PoolSection>,
    /// The certificate this host presents; `null` when it was never provisioned.
    #[serde(default)]
    pub certificate: Option<CertificateSection>,
    /// What is left on the host and nobody asks for; absent until it was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphans: Option<OrphansSection>,
    /// Every check, good ones too.
    pub checks: Vec<Check>,
}

/// One word for the whole document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Registered, nothing to report.
    Ok,
    /// Registered, something needs attention.
    Warn,
    /// Not registered, not running, or a check failed.
    Fail,
    /// The agent seems to run but did not answer.
    Unknown,
}

/// How deep the reader could look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The running agent answered.
    Live,
    /// The agent did not answer; this is what it last wrote.
    Snapshot,
    /// Neither; only checks made by the reader.
    Static,
}

/// The agent process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentSection {
    /// Version of this program.
    pub version: String,
    /// CloudStack version spoken on the wire.
    pub wire_version: String,
    /// The host's name (`uname -n`).
    pub hostname: String,
    /// `null` when no agent runs.
    pub pid: Option<u32>,
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// Resident memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_fds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// Why the live agent could not be asked; set by the reader only.
    #[serde(default)]
    pub down_reason: Option<String>,
    /// What systemd says of the unit; set by the reader when the agent does not answer.
    #[serde(default)]
    pub unit: Option<UnitSection>,
}

/// The systemd unit of the agent, from `systemctl show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSection {
    /// `active`, `activating`, `failed`, `inactive`, ...
    pub active_state: String,
    /// When the unit entered this state.
    pub since: Option<Timestamp>,
    /// Exit status of the last main process, if it ended by itself.
    pub exit_status: Option<i32>,
}

/// States of the session machine, in the order of a successful connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    Idle,
    Connecting,
    Tls,
    Registering,
    Registered,
    Draining,
    Backoff,
    Stopped,
}

impl SessionState {
    /// The word as in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Tls => "tls",
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Draining => "draining",
            Self::Backoff => "backoff",
            Self::Stopped => "stopped",
        }
    }
}

/// The link to the management server. Build with [`SessionSection::new`] and fill what is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionSection {
    pub state: SessionState,
    /// When `state` was entered; the first failure while backing off. Without an agent: the time of looking.
    pub since: Timestamp,
    /// `host:port` of the connected or attempted server.
    #[serde(default)]
    pub server: Option<String>,
    /// Every configured server in order of preference.
    #[serde(default)]
    pub servers: Vec<ServerSection>,
    /// Whether `server` is the one the server side asked us to prefer (ReadyCommand's host list).
    #[serde(default)]
    pub preferred: Option<bool>,
    #[serde(default)]
    pub tls: Option<TlsSection>,
    /// Any server certificate is accepted, because this host was never provisioned with a CA.
    #[serde(default)]
    pub unverified_tls: bool,
    #[serde(default)]
    pub host_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    #[serde(default)]
    pub ping_interval_s: Option<u64>,
    #[serde(default)]
    pub last_ping_at: Option<Timestamp>,
    #[serde(default)]
    pub last_reply_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_pings: Option<u64>,
    /// Connection attempts since the last registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    #[serde(default)]
    pub next_attempt_at: Option<Timestamp>,
    /// Connections since the process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connects: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reregisters: Option<u64>,
    /// Connections that became registrations since the process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registrations: Option<u64>,
    /// How connections ended since the process started: a word for the reason (`lost`), and how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ends: BTreeMap<String, u64>,
    /// The last failure in words, with its cause.
    #[serde(default)]
    pub last_error: Option<String>,
    /// What to do about `last_error`.
    #[serde(default)]
    pub remedy: Option<String>,
    /// The server's own sentence, as it sent it (untrusted text).
    #[serde(default)]
    pub server_message: Option<String>,
    /// What the session waits for now ("StartupAnswer", "2 running commands").
    #[serde(default)]
    pub waiting_for: Option<String>,
    /// Number of the current or last session, from 1.
    #[serde(default)]
    pub session_number: Option<u64>,
    /// How often everything a session knows was dropped.
    #[serde(default)]
    pub resets: Option<u64>,
    /// When the last reset happened.
    #[serde(default)]
    pub forgotten_at: Option<Timestamp>,
    /// What the last reset dropped, in words ("host id 7, 2 queued commands").
    #[serde(default)]
    pub forgotten: Option<String>,
    /// The agent waits at its longest interval because trying more often cannot help.
    #[serde(default)]
    pub parked: bool,
    #[serde(default)]
    pub last_disconnect_at: Option<Timestamp>,
    #[serde(default)]
    pub last_disconnect_reason: Option<String>,
}

impl SessionSection {
    /// A session about which only its state is known.
    pub fn new(state: SessionState, since: Timestamp) -> Self {
        Self {
            state,
            since,
            server: None,
            servers: Vec::new(),
            preferred: None,
            tls: None,
            unverified_tls: false,
            host_id: None,
            guid: None,
            zone: None,
            pod: None,
            cluster: None,
            ping_interval_s: None,
            last_ping_at: None,
            last_reply_at: None,
            missed_pings: None,
            attempt: None,
            next_attempt_at: None,
            connects: None,
            reregisters: None,
            registrations: None,
            ends: BTreeMap::new(),
            last_error: None,
            remedy: None,
            server_message: None,
            waiting_for: None,
            session_number: None,
            resets: None,
            forgotten_at: None,
            forgotten: None,
            parked: false,
            last_disconnect_at: None,
            last_disconnect_reason: None,
        }
    }
}

/// One configured management server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSection {
    /// `host:port`.
    pub addr: String,
    #[serde(default)]
    pub last_error: Option<String>,
    #[serde(default)]
    pub last_ok_at: Option<Timestamp>,
}

/// What the handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSection {
    /// `TLSv1.2`.
    pub version: String,
    /// IANA-like name with dashes, `ECDHE-RSA-AES256-GCM-SHA384`.
    pub cipher: String,
}

/// Commands since the process started. Durations in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommandsSection {
    pub in_flight: u64,
    pub done: u64,
    pub failed: u64,
    pub unsupported: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// Keyed by the simple class name (`StartCommand`).
    pub by_name: BTreeMap<String, CommandCount>,
}

/// Counters of one command class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommandCount {
    pub done: u64,
    pub failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

/// The hypervisor connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LibvirtSection {
    pub uri: String,
    pub connected: bool,
    pub libvirt_version: Option<String>,
    pub qemu_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domains_running: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domains_paused: Option<u64>,
}

/// The host's hardware.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_mhz: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_bytes: Option<u64>,
}

/// One storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSection {
    pub uuid: String,
    /// `local`, `nfs`, `rbd`, ...
    pub kind: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Last heartbeat written to the pool; `null` for pools without one.
    #[serde(default)]
    pub heartbeat_at: Option<Timestamp>,
}

/// The certificate this host presents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSection {
    /// Distinguished name, `CN=kvm-07.example.net`.
    pub subject: String,
    /// Common name of the issuing CA.
    pub issuer: String,
    pub not_after: Timestamp,
    /// Whole days until `not_after`; negative once it has passed.
    pub days_left: i64,
}

/// How much `agent orphans` would list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphansSection {
    pub count: u64,
    pub bytes: u64,
    pub looked_at: Timestamp,
}

impl Status {
    /// One word from what is in the document.
    ///
    /// Live: ok or warn needs a registered session and no failed check. Otherwise the agent is down
    /// (fail), unless its own check only says that it could not be asked (unknown).
    pub fn judge(&self) -> Verdict {
        if self.source != Source::Live {
            let agent = self.checks.iter().find(|check| check.id == AGENT_CHECK);
            return match agent.map(|check| check.result) {
                Some(CheckResult::Fail) => Verdict::Fail,
                _ => Verdict::Unknown,
            };
        }
        let has = |result| self.checks.iter().any(|check| check.result == result);
        if self.session.state != SessionState::Registered || has(CheckResult::Fail) {
            Verdict::Fail
        } else if has(CheckResult::Warn) || has(CheckResult::Timeout) {
            Verdict::Warn
        } else {
            Verdict::Ok
        }
    }

    /// Exit code of `agent --status` for this document: 0 ok, 1 warnings, 2 not registered or
    /// failed, 3 not running, 4 cannot tell.
    pub fn exit_code(&self) -> u8 {
        match (self.source, self.verdict) {
            (_, Verdict::Unknown) => 4,
            (Source::Snapshot | Source::Static, _) => 3,
            (Source::Live, Verdict::Ok) => 0,
            (Source::Live, Verdict::Warn) => 1,
            (Source::Live, Verdict::Fail) => 2,
        }
    }
}
