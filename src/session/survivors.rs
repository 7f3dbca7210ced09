//! What survives the end of a session. All of it; everything else is dropped with the session.
//!
//! Nothing here is an error state: after any number of failures the next session starts from the
//! same facts as the first. The last error is kept for display only, no decision reads it.

use super::backoff::Delays;
use super::end::{End, EndClass};
use super::machine::Now;
use super::servers::Servers;
use std::time::Duration;

/// Sessions may be replaced at the server's wish once per this time.
const REREGISTER_EVERY: Duration = Duration::from_secs(60);

/// State of the agent between sessions.
#[derive(Debug, Default)]
pub struct Survivors {
    /// Next sequence number of requests that originate here; goes on over reconnects.
    next_sequence: i64,
    /// Host id from the last ReadyCommand, as also saved in agent.properties.
    pub host_id: Option<i64>,
    pub servers: Servers,
    /// Place in the series of delays.
    delays: Delays,
    /// Consecutive sessions that did not become Ready.
    pub failures: u32,
    /// Sessions begun since the process started.
    pub sessions: u64,
    /// Sessions that became Ready.
    pub registrations: u64,
    /// When `sendStartup` last ended a session.
    last_reregister: Option<Now>,
    /// The next startup says that the connection was transferred on purpose (4.21).
    pub transferred: bool,
}

/// What a finished session reports.
#[derive(Debug, Clone)]
pub struct Finished {
    pub end: End,
    /// When it was Ready, and how often it was to ping.
    pub ready: Option<ReadySpan>,
}

/// Time spent Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadySpan {
    pub held: Duration,
    pub ping_interval: Duration,
}

impl Survivors {
    /// Other delays than the agent's own: for tests and the benchmark.
    pub fn with_delays(delays: Delays) -> Survivors {
        Survivors { delays, ..Survivors::default() }
    }

    pub fn take_sequence(&mut self) -> i64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// Earliest moment at which `sendStartup` may end a session.
    pub fn reregister_from(&self) -> Now {
        self.last_reregister.map_or(Now::ZERO, |at| at + REREGISTER_EVERY)
    }

    /// Books the end of a session; gives the wait before the next one.
    pub fn finish(&mut self, now: Now, finished: &Finished) -> Duration {
        match finished.ready {
            Some(_) => self.failures = 0,
            None => self.failures = self.failures.saturating_add(1),
        }
        if finished.ready.is_some_and(|span| span.held >= span.ping_interval * 2) {
            self.delays.reset();
        }
        if finished.end == End::ReregisterAsked {
            self.last_reregister = Some(now);
        }
        let class = match (finished.end.class(), finished.ready) {
            // Whatever ended it: a session that had been Ready is not replaced at once.
            (EndClass::Unreachable | EndClass::TurnedAway, Some(_)) => EndClass::AfterReady,
            (class, _) => class,
        };
        self.delays.after(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::end::{Close, StopReason};

    fn cut() -> Finished {
        let end = End::CutBeforeReady {
            close: Close::Fin,
            last_command: None,
            own_failure: None,
            after: Duration::ZERO,
        };
        Finished { end, ready: None }
    }

    fn lost(held: u64) -> Finished {
        let ping_interval = Duration::from_secs(10);
        let ready = Some(ReadySpan { held: Duration::from_secs(held), ping_interval });
        Finished { end: End::Lost { close: Close::Fin }, ready }
    }

    #[test]
    fn only_a_session_that_held_two_intervals_resets_the_delays() {
        let mut survivors = Survivors::default();
        for _ in 0..10 {
            survivors.finish(Now::ZERO, &cut());
        }
        assert_eq!(survivors.failures, 10);
        survivors.finish(Now::ZERO, &lost(19));
        assert_eq!(survivors.failures, 0);
        assert!(survivors.finish(Now::ZERO, &cut()) > Duration::from_secs(15), "delays were reset too early");
        survivors.finish(Now::ZERO, &lost(20));
        assert!(survivors.finish(Now::ZERO, &cut()) < Duration::from_secs(7), "delays were not reset");
    }

    #[test]
    fn after_ready_the_server_gets_five_seconds() {
        let mut survivors = Survivors::default();
        for held in [0, 1, 1000] {
            assert!(survivors.finish(Now::ZERO, &lost(held)) >= Duration::from_secs(5));
        }
        let renewed = Finished { end: End::Stopped(StopReason::CertificateRenewed), ..lost(1) };
        assert!(survivors.finish(Now::ZERO, &renewed) >= Duration::from_secs(5));
    }

    #[test]
    fn reregistration_is_limited_to_one_a_minute() {
        let mut survivors = Survivors::default();
        assert_eq!(survivors.reregister_from(), Now::ZERO);
        survivors.finish(Duration::from_secs(100), &Finished { end: End::ReregisterAsked, ..lost(5) });
        assert_eq!(survivors.reregister_from(), Duration::from_secs(160));
    }

    /// A thousand failures leave nothing but counters and the place in the series of delays.
    #[test]
    fn failures_leave_no_trace_in_the_facts() {
        let mut survivors =
            Survivors { host_id: Some(7), servers: Servers::new(vec!["a".into()]), ..Default::default() };
        for _ in 0..1000 {
            survivors.finish(Now::ZERO, &cut());
        }
        assert_eq!(
            (survivors.host_id, survivors.take_sequence(), survivors.transferred),
            (Some(7), 0, false)
        );
        assert_eq!(survivors.servers, Servers::new(vec!["a".into()]));
    }

    #[test]
    fn sequences_go_on_over_sessions() {
        let mut survivors = Survivors::default();
        assert_eq!(survivors.take_sequence(), 0);
        survivors.finish(Now::ZERO, &cut());
        assert_eq!(survivors.take_sequence(), 1);
    }
}
