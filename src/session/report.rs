//! What the session tells `--status`: kept beside the session, never read by it.

use super::end::End;
use super::machine::Phase;
use crate::config::Config;
use crate::status::board::Board;
use crate::status::snapshot::{ServerSection, SessionSection, SessionState, TlsSection};
use crate::status::timestamp::Timestamp;
use crate::tls::TlsInfo;
use std::time::Duration;

/// Writes the session section of the status board.
#[derive(Debug)]
pub struct Reporter {
    board: Board,
    section: SessionSection,
    /// Start of the current series of failures.
    failing_since: Option<Timestamp>,
}

impl Reporter {
    pub fn new(board: Board) -> Reporter {
        let section = SessionSection::new(SessionState::Idle, Timestamp::now());
        let mut reporter = Reporter { board, section, failing_since: None };
        reporter.section.connects = Some(0);
        reporter.section.registrations = Some(0);
        reporter.section.reregisters = Some(0);
        reporter.section.resets = Some(0);
        reporter.publish();
        reporter
    }

    fn publish(&self) {
        self.board.session(self.section.clone());
    }

    fn enter(&mut self, state: SessionState) {
        if self.section.state != state {
            self.section.state = state;
            self.section.since = Timestamp::now();
        }
    }

    /// What this host is called, from the configuration.
    pub fn configured(&mut self, config: &Config) {
        self.section.guid = config.resource_guid();
        self.section.zone = Some(config.zone.clone());
        self.section.pod = Some(config.pod.clone());
        self.section.cluster = Some(config.cluster.clone());
        let port = config.port;
        let known = std::mem::take(&mut self.section.servers);
        self.section.servers = config
            .servers
            .hosts
            .iter()
            .map(|host| address(host, port))
            .map(|addr| {
                known.iter().find(|server| server.addr == addr).cloned().unwrap_or(ServerSection {
                    addr,
                    last_error: None,
                    last_ok_at: None,
                })
            })
            .collect();
        self.publish();
    }

    /// Nothing can be dialled yet.
    pub fn waiting(&mut self, what: &str) {
        self.enter(SessionState::Idle);
        self.section.waiting_for = Some(what.to_owned());
        self.section.next_attempt_at = None;
        self.publish();
    }

    pub fn dialing(&mut self, server: &str, number: u64, attempt: u64, preferred: bool) {
        self.enter(SessionState::Connecting);
        self.section.server = Some(server.to_owned());
        self.section.session_number = Some(number);
        self.section.connects = Some(number);
        self.section.attempt = Some(attempt);
        self.section.preferred = Some(preferred);
        self.section.waiting_for = None;
        self.section.next_attempt_at = None;
        self.section.tls = None;
        self.section.parked = false;
        self.publish();
    }

    pub fn secured(&mut self, info: &TlsInfo, unverified: bool) {
        self.section.tls = Some(TlsSection { version: info.version.clone(), cipher: info.cipher.clone() });
        self.section.unverified_tls = unverified;
        self.publish();
    }

    pub fn entered(&mut self, phase: Phase) {
        let (state, waiting_for) = match phase {
            Phase::Dialing => (SessionState::Connecting, None),
            Phase::Tls => (SessionState::Tls, None),
            Phase::StartupSent => (SessionState::Registering, Some("StartupAnswer")),
            Phase::Accepted | Phase::Commanding => (SessionState::Registering, Some("ReadyCommand")),
            Phase::Ready => (SessionState::Registered, None),
            Phase::Draining => (SessionState::Draining, Some("running commands")),
            Phase::Ended => return,
        };
        self.enter(state);
        self.section.waiting_for = waiting_for.map(str::to_owned);
        if phase == Phase::Ready {
            self.registered();
        }
        self.publish();
    }

    fn registered(&mut self) {
        self.failing_since = None;
        self.section.registrations = self.section.registrations.map(|count| count + 1);
        self.section.attempt = Some(0);
        self.section.last_error = None;
        self.section.remedy = None;
        self.section.server_message = None;
        self.section.missed_pings = Some(0);
        let server = self.section.server.clone();
        if let Some(line) = self.section.servers.iter_mut().find(|s| Some(&s.addr) == server.as_ref()) {
            line.last_error = None;
            line.last_ok_at = Some(Timestamp::now());
        }
    }

    pub fn host_id(&mut self, host_id: Option<i64>) {
        self.section.host_id = host_id;
        self.publish();
    }

    pub fn ping_sent(&mut self, interval: Duration) {
        self.section.last_ping_at = Some(Timestamp::now());
        self.section.ping_interval_s = Some(interval.as_secs());
        if self.section.state == SessionState::Registered {
            self.section.missed_pings = self.section.missed_pings.map(|missed| missed + 1);
        }
        self.publish();
    }

    pub fn ping_answered(&mut self) {
        self.section.last_reply_at = Some(Timestamp::now());
        self.section.missed_pings = Some(0);
        self.publish();
    }

    pub fn reregister(&mut self) {
        self.section.reregisters = self.section.reregisters.map(|count| count + 1);
    }

    /// The process ends.
    pub fn stopped(&mut self) {
        self.enter(SessionState::Stopped);
        self.section.next_attempt_at = None;
        self.section.waiting_for = None;
        self.publish();
    }

    /// A session is over and forgotten; the next begins after `wait`.
    pub fn ended(&mut self, end: &End, forgotten: String, wait: Duration, was_ready: bool, parked: bool) {
        let now = Timestamp::now();
        self.section.resets = self.section.resets.map(|count| count + 1);
        self.section.forgotten_at = Some(now);
        self.section.forgotten = Some(forgotten);
        *self.section.ends.entry(end.word().to_owned()).or_default() += 1;
        if was_ready {
            self.section.last_disconnect_at = Some(now);
            self.section.last_disconnect_reason = Some(end.to_string());
        }
        self.section.tls = None;
        self.section.missed_pings = None;
        self.section.waiting_for = None;
        let orderly = matches!(end, End::Stopped(_) | End::ReregisterAsked);
        if !orderly || parked {
            self.section.last_error = Some(end.to_string());
            self.section.remedy = Some(end.remedy());
            self.section.server_message = end.server_sentence().map(str::to_owned);
            let server = self.section.server.clone();
            if let Some(line) = self.section.servers.iter_mut().find(|s| Some(&s.addr) == server.as_ref()) {
                line.last_error = Some(end.to_string());
            }
        }
        self.section.state = SessionState::Backoff;
        self.section.since = *self.failing_since.get_or_insert(now);
        self.section.next_attempt_at = Some(now.plus(wait));
        self.section.parked = parked;
        self.publish();
    }
}

/// `host:port`, IPv6 addresses in brackets.
pub fn address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
