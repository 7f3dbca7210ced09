//! The life of one connection to the management server, as a pure machine: events and time in,
//! actions out. No I/O, no clock, no randomness.
//!
//! ```text
//!  Dialing ──TcpConnected──▶ Tls ──Secured──▶ StartupSent ──StartupAnswer──▶ Accepted
//!     │                       │                   │                            │ first command
//!     │                       │                   │                            ▼
//!     │                       │                   │        Ready ◀──Ready── Commanding
//!     │                       │                   │          │                 │
//!     │                       │                   └────┬─────┴──────┬──────────┘
//!     │                       │                  stop, renewal,     │ end of stream, refusal,
//!     │                       │                  other server       │ deadline, broken frame
//!     │                       │                        ▼            ▼
//!     └── failure, deadline ──┴────────────────▶    Draining ──▶  Ended(End)
//! ```
//!
//! A session is dropped when it has ended. Nothing of it survives but what
//! [`super::survivors::Survivors`] names. What follows an end (how long to wait, what to tell the
//! operator) is not decided here.
//!
//! Rules, each with a test below:
//! 1. `hostId` 0 is "not assigned", wherever it comes from.
//! 2. StartupAnswer is not acceptance: ReadyCommand without details is. Both have deadlines.
//! 3. Pings start with StartupAnswer if the host id is known, else at Ready, but never later than
//!    one interval: they must flow during a long registration.
//! 4. In Ready, a ping unanswered for three intervals ends the session. Before, the server drops
//!    pings without an answer, so silence means nothing.
//! 5. `sendStartup` never leads to a second startup on this link: while registering it is ignored,
//!    afterwards it ends the session, at most once per minute over all sessions. A ping that went
//!    out less than an interval after Ready may have overtaken the host's turning Up: the wish in
//!    its answer is of before.
//! 6. A refusal ends the session with the server's own sentence, never the process.

use super::end::{Close, End, StopReason};
pub use super::story::{Action, Event, Now, Phase, Timing};
use std::time::Duration;

/// Bounds on the ping interval that a server may ask for.
const PING_INTERVAL: std::ops::RangeInclusive<u64> = 1..=600;

#[derive(Debug, Clone, Copy)]
struct SentPing {
    sequence: i64,
    at: Now,
}

/// What one session knows. Created for each connection attempt, dropped at its end.
#[derive(Debug)]
pub struct Machine {
    phase: Phase,
    entered: Now,
    timing: Timing,
    /// Known from an earlier session or assigned in this one.
    host_id: Option<i64>,
    ping_interval: Duration,
    next_ping: Option<Now>,
    /// Oldest ping of the Ready phase that nobody answered.
    unanswered: Option<SentPing>,
    /// First ping whose answer may ask for a startup.
    wish_counts_from: Option<i64>,
    accepted_at: Option<Now>,
    last_command: Option<String>,
    /// The first failure among our own answers while registering.
    own_failure: Option<String>,
    /// Earliest moment at which `sendStartup` may end the session.
    reregister_from: Now,
    stopping: Option<StopReason>,
}

impl Machine {
    pub fn new(now: Now, timing: Timing, host_id: Option<i64>, reregister_from: Now) -> Machine {
        Machine {
            phase: Phase::Dialing,
            entered: now,
            timing,
            host_id: host_id.filter(|id| *id > 0),
            ping_interval: Duration::from_secs(60),
            next_ping: None,
            unanswered: None,
            wish_counts_from: None,
            accepted_at: None,
            last_command: None,
            own_failure: None,
            reregister_from,
            stopping: None,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn ping_interval(&self) -> Duration {
        self.ping_interval
    }

    pub fn host_id(&self) -> Option<i64> {
        self.host_id
    }

    /// When [`Event::Tick`] is due next.
    pub fn deadline(&self) -> Option<Now> {
        [self.phase_deadline(), self.next_ping, self.ping_deadline()].into_iter().flatten().min()
    }

    /// Feeds one event.
    pub fn on(&mut self, now: Now, event: Event) -> Vec<Action> {
        match event {
            Event::TcpConnected => self.advance(now, Phase::Dialing, Phase::Tls, vec![]),
            Event::Secured => self.advance(now, Phase::Tls, Phase::StartupSent, vec![Action::SendStartup]),
            Event::DialFailed(end) => self.end(now, end),
            Event::StartupAnswered { accepted, host_id, ping_interval, details } => {
                self.startup_answered(now, accepted, host_id, ping_interval, details)
            }
            Event::CommandArrived(name) => self.command(now, name),
            Event::AnswerFailed(what) => self.answer_failed(what),
            Event::ReadyArrived { refusal, host_id } => self.ready(now, refusal, host_id),
            Event::ShutdownArrived { reason, remove_host } => {
                self.shutdown_by_server(now, reason, remove_host)
            }
            Event::PingSent { sequence } => self.ping_sent(now, sequence),
            Event::PingAnswered { sequence, send_startup } => self.ping_answered(now, sequence, send_startup),
            Event::Closed(close) => self.closed(now, close),
            Event::Stop(reason) => self.stop(now, reason),
            Event::Idle => self.drained(now),
            Event::Tick => self.tick(now),
        }
    }

    fn enter(&mut self, now: Now, phase: Phase) -> Action {
        self.phase = phase;
        self.entered = now;
        Action::Entered(phase)
    }

    fn advance(&mut self, now: Now, from: Phase, to: Phase, then: Vec<Action>) -> Vec<Action> {
        if self.phase != from {
            return vec![];
        }
        let mut actions = vec![self.enter(now, to)];
        actions.extend(then);
        actions
    }

    fn end(&mut self, now: Now, end: End) -> Vec<Action> {
        match self.phase {
            Phase::Ended => vec![],
            Phase::Dialing
            | Phase::Tls
            | Phase::StartupSent
            | Phase::Accepted
            | Phase::Commanding
            | Phase::Ready
            | Phase::Draining => {
                self.next_ping = None;
                vec![self.enter(now, Phase::Ended), Action::End(end)]
            }
        }
    }

    fn startup_answered(
        &mut self,
        now: Now,
        accepted: bool,
        host_id: Option<i64>,
        ping_interval: Option<i64>,
        details: Option<String>,
    ) -> Vec<Action> {
        match self.phase {
            Phase::StartupSent => {}
            // A repeated StartupAnswer, or one after the end: nothing new in it.
            Phase::Dialing
            | Phase::Tls
            | Phase::Accepted
            | Phase::Commanding
            | Phase::Ready
            | Phase::Draining
            | Phase::Ended => return vec![],
        }
        if !accepted {
            let sentence =
                details.unwrap_or_else(|| "StartupAnswer with result=false, without details".into());
            return self.end(now, End::StartupRejected { sentence });
        }
        let seconds = ping_interval.and_then(|s| u64::try_from(s).ok()).unwrap_or(60);
        self.ping_interval = Duration::from_secs(seconds.clamp(*PING_INTERVAL.start(), *PING_INTERVAL.end()));
        self.accepted_at = Some(now);
        let mut actions = vec![self.enter(now, Phase::Accepted)];
        actions.extend(self.learn_host_id(host_id));
        self.next_ping = Some(if self.host_id.is_some() { now } else { now + self.ping_interval });
        actions.extend(self.tick(now));
        actions
    }

    fn learn_host_id(&mut self, host_id: Option<i64>) -> Option<Action> {
        let id = host_id.filter(|id| *id > 0)?;
        self.host_id = Some(id);
        Some(Action::HostId(id))
    }

    fn command(&mut self, now: Now, name: String) -> Vec<Action> {
        self.last_command = Some(name);
        match self.phase {
            Phase::Accepted => vec![self.enter(now, Phase::Commanding), Action::Dispatch],
            Phase::StartupSent | Phase::Commanding | Phase::Ready => vec![Action::Dispatch],
            // While draining no new work is taken; the server fails it when the link closes.
            Phase::Dialing | Phase::Tls | Phase::Draining | Phase::Ended => vec![],
        }
    }

    fn answer_failed(&mut self, what: String) -> Vec<Action> {
        match self.phase {
            Phase::StartupSent | Phase::Accepted | Phase::Commanding => {
                self.own_failure.get_or_insert(what);
            }
            Phase::Dialing | Phase::Tls | Phase::Ready | Phase::Draining | Phase::Ended => {}
        }
        vec![]
    }

    fn ready(&mut self, now: Now, refusal: Option<String>, host_id: Option<i64>) -> Vec<Action> {
        if let Some(sentence) = refusal {
            return self.end(now, End::Refused { sentence });
        }
        match self.phase {
            Phase::StartupSent | Phase::Accepted | Phase::Commanding => {
                let mut actions: Vec<Action> = self.learn_host_id(host_id).into_iter().collect();
                actions.push(self.enter(now, Phase::Ready));
                actions.push(Action::Dispatch);
                if self.unanswered.is_none() && self.next_ping.is_none_or(|at| at > now) {
                    // No ping went out yet, or the last one was dropped by the server: send one
                    // that counts.
                    self.next_ping = Some(now);
                }
                self.unanswered = None;
                actions.extend(self.tick(now));
                actions
            }
            Phase::Ready => {
                let mut actions: Vec<Action> = self.learn_host_id(host_id).into_iter().collect();
                actions.push(Action::Dispatch);
                actions
            }
            Phase::Dialing | Phase::Tls | Phase::Draining | Phase::Ended => vec![],
        }
    }

    fn shutdown_by_server(&mut self, now: Now, reason: String, remove_host: bool) -> Vec<Action> {
        match self.phase {
            Phase::StartupSent | Phase::Accepted | Phase::Commanding | Phase::Ready => {
                let mut actions = vec![Action::Dispatch];
                actions.extend(self.stop(now, StopReason::ByServer { reason, remove_host }));
                actions
            }
            Phase::Dialing | Phase::Tls | Phase::Draining | Phase::Ended => vec![],
        }
    }

    fn ping_sent(&mut self, now: Now, sequence: i64) -> Vec<Action> {
        match self.phase {
            Phase::Ready => {
                self.unanswered.get_or_insert(SentPing { sequence, at: now });
                if now >= self.entered + self.ping_interval {
                    self.wish_counts_from.get_or_insert(sequence);
                }
            }
            Phase::Dialing
            | Phase::Tls
            | Phase::StartupSent
            | Phase::Accepted
            | Phase::Commanding
            | Phase::Draining
            | Phase::Ended => {}
        }
        vec![]
    }

    fn ping_answered(&mut self, now: Now, sequence: i64, send_startup: bool) -> Vec<Action> {
        if self.unanswered.is_some_and(|ping| sequence >= ping.sequence) {
            self.unanswered = None;
        }
        let counts = send_startup && self.wish_counts_from.is_some_and(|first| sequence >= first);
        match self.phase {
            Phase::Ready if counts && now >= self.reregister_from => self.end(now, End::ReregisterAsked),
            Phase::Dialing
            | Phase::Tls
            | Phase::StartupSent
            | Phase::Accepted
            | Phase::Commanding
            | Phase::Ready
            | Phase::Draining
            | Phase::Ended => vec![],
        }
    }

    fn closed(&mut self, now: Now, close: Close) -> Vec<Action> {
        let end = match self.phase {
            Phase::Dialing | Phase::Tls | Phase::StartupSent => End::CutBeforeAnswer { close },
            Phase::Accepted | Phase::Commanding => End::CutBeforeReady {
                close,
                last_command: self.last_command.clone(),
                own_failure: self.own_failure.take(),
                after: now.saturating_sub(self.accepted_at.unwrap_or(now)),
            },
            Phase::Ready => End::Lost { close },
            Phase::Draining => match self.stopping.take() {
                Some(reason) => End::Stopped(reason),
                None => End::Lost { close },
            },
            Phase::Ended => return vec![],
        };
        self.end(now, end)
    }

    fn stop(&mut self, now: Now, reason: StopReason) -> Vec<Action> {
        match self.phase {
            // Nothing was registered on this link: nobody to say good-bye to.
            Phase::Dialing | Phase::Tls => self.end(now, End::Stopped(reason)),
            Phase::StartupSent | Phase::Accepted | Phase::Commanding | Phase::Ready => {
                self.stopping = Some(reason);
                self.next_ping = None;
                self.unanswered = None;
                vec![self.enter(now, Phase::Draining), Action::WatchIdle]
            }
            Phase::Draining => {
                // A stop by signal outranks a renewal in progress.
                if reason == StopReason::Signal {
                    self.stopping = Some(reason);
                }
                vec![]
            }
            Phase::Ended => vec![],
        }
    }

    fn drained(&mut self, now: Now) -> Vec<Action> {
        match self.phase {
            Phase::Draining => {
                let reason = self.stopping.take().unwrap_or(StopReason::Signal);
                let mut actions = Vec::new();
                if let Some(detail) = reason.farewell() {
                    actions.push(Action::SendShutdown { detail: detail.text() });
                }
                actions.extend(self.end(now, End::Stopped(reason)));
                actions
            }
            Phase::Dialing
            | Phase::Tls
            | Phase::StartupSent
            | Phase::Accepted
            | Phase::Commanding
            | Phase::Ready
            | Phase::Ended => vec![],
        }
    }

    fn tick(&mut self, now: Now) -> Vec<Action> {
        if self.phase_deadline().is_some_and(|at| now >= at) {
            return self.overdue(now);
        }
        if self.ping_deadline().is_some_and(|at| now >= at) {
            let silent = now.saturating_sub(self.unanswered.map_or(now, |ping| ping.at));
            return self.end(now, End::PingUnanswered { silent });
        }
        if self.next_ping.is_some_and(|at| now >= at) {
            // From now, not from the planned moment: after a stall one ping is sent, not a burst.
            self.next_ping = Some(now + self.ping_interval);
            return vec![Action::SendPing { host_id: self.host_id }];
        }
        vec![]
    }

    fn overdue(&mut self, now: Now) -> Vec<Action> {
        let after = now.saturating_sub(self.entered);
        let end = match self.phase {
            Phase::Dialing => End::ConnectTimeout { after },
            Phase::Tls => End::HandshakeTimeout { after },
            Phase::StartupSent => End::StartupUnanswered { after },
            Phase::Accepted | Phase::Commanding => End::NeverReady {
                after: now.saturating_sub(self.accepted_at.unwrap_or(now)),
                last_command: self.last_command.clone(),
            },
            Phase::Draining => return self.drained(now),
            Phase::Ready | Phase::Ended => return vec![],
        };
        self.end(now, end)
    }

    fn phase_deadline(&self) -> Option<Now> {
        match self.phase {
            Phase::Dialing => Some(self.entered + self.timing.connect),
            Phase::Tls => Some(self.entered + self.timing.handshake),
            Phase::StartupSent => Some(self.entered + self.timing.startup_answer),
            Phase::Accepted | Phase::Commanding => self.accepted_at.map(|at| at + self.timing.ready),
            Phase::Draining => Some(self.entered + self.timing.drain),
            Phase::Ready | Phase::Ended => None,
        }
    }

    fn ping_deadline(&self) -> Option<Now> {
        match self.phase {
            Phase::Ready => {
                self.unanswered.map(|ping| ping.at + self.ping_interval * self.timing.missed_pings)
            }
            Phase::Dialing
            | Phase::Tls
            | Phase::StartupSent
            | Phase::Accepted
            | Phase::Commanding
            | Phase::Draining
            | Phase::Ended => None,
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
