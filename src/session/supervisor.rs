//! Session after session, for the life of the process.
//!
//! ```text
//!          ┌──────────────── wait (jittered; see backoff.rs) ◀──────────────┐
//!          ▼                                                                │
//!   Configured? ──no──▶ wait for the file     libvirt? ──no──▶ wait for it  │
//!          │ yes                                  │ yes                     │
//!          └──────────────────────────────────────┴──▶ one session ──ended──┘
//!                                                            │ stop asked
//!                                                            ▼
//!                                                          return
//! ```
//!
//! Owns [`Survivors`]. After a session it books the end, tells the operator why, and forgets.

use super::backoff::AFTER_READY;
use super::driver::{self, Environment};
use super::end::{End, EndClass, StopReason};
use super::facts::Facts;
use super::report::{Reporter, address};
use super::survivors::{Finished, Survivors};
use crate::config::{Config, FileState};
use crate::errors::chain;
use crate::service::repeat::Repeat;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Everything the supervisor works with.
#[derive(Debug)]
pub struct Supervisor {
    pub env: Environment,
    pub survivors: Survivors,
    pub reporter: Reporter,
    pub facts: Arc<Facts>,
}

/// Why the wait between sessions is over.
enum Wake {
    Elapsed,
    Stopped,
}

impl Supervisor {
    /// Runs until a stop is asked for and the last session has said good-bye.
    pub async fn run(mut self) {
        let mut failures = Repeat::default();
        loop {
            let Some(config) = self.configured().await else { break };
            if self.libvirt().await.is_none() {
                break;
            }
            let Some(server) = self.survivors.servers.take() else {
                self.reporter.waiting("a management server in the key \"host\" of agent.properties");
                if matches!(self.pause(Duration::from_secs(5)).await, Wake::Stopped) {
                    break;
                }
                continue;
            };
            let finished = self.session(config.clone(), server.clone()).await;
            let wait = self.book(&finished, &server, config.port, &mut failures);
            let over = match finished.end.class() {
                EndClass::Final => true,
                EndClass::Deleted => self.parked().await,
                EndClass::Unreachable | EndClass::TurnedAway | EndClass::Rejected | EndClass::AfterReady => {
                    matches!(self.pause(wait).await, Wake::Stopped)
                }
            };
            if over {
                break;
            }
        }
        self.reporter.stopped();
        tracing::info!("Session stopped");
    }

    async fn session(&mut self, config: Arc<Config>, server: String) -> Finished {
        self.survivors.sessions += 1;
        let attempt = u64::from(self.survivors.failures) + 1;
        let preferred = self.survivors.servers.preferred() == Some(server.as_str());
        self.reporter.configured(&config);
        self.reporter.dialing(&address(&server, config.port), self.survivors.sessions, attempt, preferred);
        // Gathered afresh for each session, while the connection is being made.
        let gathering = tokio::spawn(self.facts.clone().gather(config.clone()));
        // Boxed: what a session needs in memory exists only while there is one.
        Box::pin(driver::run(&self.env, &mut self.survivors, &mut self.reporter, config, server, gathering))
            .await
    }

    /// Books the end of a session, tells log and status; gives the wait.
    fn book(&mut self, finished: &Finished, server: &str, port: u16, failures: &mut Repeat) -> Duration {
        let end = &finished.end;
        let wait = self.survivors.finish(self.env.now(), finished);
        match end {
            End::Stopped(StopReason::Migrate) => {
                self.survivors.servers.prefer_first();
                self.survivors.transferred = true;
            }
            End::Stopped(StopReason::PreferredServer) => self.survivors.servers.prefer_first(),
            End::ReregisterAsked => self.reporter.reregister(),
            End::Unreachable { .. }
            | End::ConnectTimeout { .. }
            | End::HandshakeTimeout { .. }
            | End::NoInventory { .. }
            | End::CutBeforeAnswer { .. }
            | End::StartupUnanswered { .. }
            | End::StartupRejected { .. }
            | End::Refused { .. }
            | End::CutBeforeReady { .. }
            | End::NeverReady { .. }
            | End::Lost { .. }
            | End::PingUnanswered { .. }
            | End::Stopped(_) => {}
        }
        let server = address(server, port);
        if finished.ready.is_some() {
            failures.reset();
            tracing::info!(%server, reason = %end, retry_in_s = wait.as_secs_f32(), "Session ended");
        } else if end.class() != EndClass::Final {
            self.tell_failure(end, &server, wait, failures);
        }
        let forgotten = match finished.ready {
            Some(span) => format!("a session that was registered for {} s", span.held.as_secs()),
            None => "a session that was never registered".into(),
        };
        let parked = end.class() == EndClass::Deleted;
        self.reporter.ended(end, forgotten, wait, finished.ready.is_some(), parked);
        wait
    }

    /// The first failure of a series, then at powers of two: never a line per attempt.
    fn tell_failure(&self, end: &End, server: &str, wait: Duration, failures: &mut Repeat) {
        let retry_in_s = wait.as_secs_f32();
        let sentence = end.server_sentence().map(|text| text.chars().take(2_000).collect::<String>());
        match failures.seen() {
            Some(times) => {
                tracing::warn!(%server, times, retry_in_s, server_says = sentence, remedy = %end.remedy(), "Not registered: {end}");
            }
            None => tracing::debug!(%server, retry_in_s, "Not registered: {end}"),
        }
    }

    /// Waits for a usable configuration; `None` if a stop came first.
    async fn configured(&mut self) -> Option<Arc<Config>> {
        let mut file = self.env.services.config.subscribe();
        let mut told: Option<String> = None;
        loop {
            let obstacle = match &**file.borrow_and_update() {
                FileState::Loaded(config) if config.missing().is_empty() => {
                    let config = config.clone();
                    self.survivors.servers.set_hosts(&config.servers.hosts);
                    self.survivors.host_id = self.survivors.host_id.or(config.host_id);
                    self.reporter.host_id(self.survivors.host_id);
                    return Some(config);
                }
                FileState::Loaded(config) => {
                    format!(
                        "{} in {}: this host was not set up yet",
                        config.missing().join(", "),
                        config.path.display()
                    )
                }
                FileState::Missing { path } => {
                    format!("{} to appear: this host was not set up yet", path.display())
                }
                FileState::Invalid { error } => format!("a correction: {}", chain(&**error)),
            };
            if told.as_ref() != Some(&obstacle) {
                tracing::warn!("Waiting for {obstacle}");
                self.reporter.waiting(&obstacle);
                told = Some(obstacle);
            }
            self.changed(&mut file).await?;
        }
    }

    /// Waits until libvirt is connected; `None` if a stop came first.
    async fn libvirt(&mut self) -> Option<()> {
        let mut status = self.env.services.hypervisor.status();
        let mut told = false;
        loop {
            let obstacle = {
                let status = status.borrow_and_update();
                match &status.connection {
                    crate::hypervisor::Connection::Connected { .. } => return Some(()),
                    crate::hypervisor::Connection::Connecting { last_error: None, .. } => None,
                    crate::hypervisor::Connection::Connecting { last_error: Some(error), .. }
                    | crate::hypervisor::Connection::Lost { error } => {
                        Some(format!("libvirt at {}: {error}", status.uri))
                    }
                }
            };
            if let Some(obstacle) = obstacle {
                if !told {
                    tracing::warn!("Waiting for {obstacle}");
                    told = true;
                }
                self.reporter.waiting(&obstacle);
            }
            self.changed(&mut status).await?;
        }
    }

    /// Waits for the next value; `None` if a stop came first.
    async fn changed<T>(&mut self, receiver: &mut watch::Receiver<T>) -> Option<()> {
        let mut stop = self.env.stop.clone();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => None,
            changed = receiver.changed() => changed.ok(),
        }
    }

    async fn pause(&mut self, wait: Duration) -> Wake {
        let mut stop = self.env.stop.clone();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Wake::Stopped,
            () = tokio::time::sleep(wait) => Wake::Elapsed,
        }
    }

    /// A deleted host stays quiet until somebody gives it a place again: its configuration changes
    /// and names zone, pod and cluster. True if a stop came first.
    async fn parked(&mut self) -> bool {
        tracing::warn!(
            "This host was deleted on the server; waiting for a new placement in agent.properties"
        );
        let since = self.env.now();
        let mut file = self.env.services.config.subscribe();
        // The session ended after the command was answered, so what the deletion wrote is in here.
        file.mark_unchanged();
        loop {
            if self.changed(&mut file).await.is_none() {
                return true;
            }
            let placed = match &**file.borrow_and_update() {
                FileState::Loaded(config) => has_placement(config),
                FileState::Missing { .. } | FileState::Invalid { .. } => false,
            };
            if placed {
                tracing::info!("This host has a placement again");
                self.survivors.host_id = None;
                // However quick the operator was: the server must have got over the old session.
                let early = AFTER_READY.start.saturating_sub(self.env.now().saturating_sub(since));
                return matches!(self.pause(early).await, Wake::Stopped);
            }
        }
    }
}

/// Whether zone, pod and cluster are all named.
fn has_placement(config: &Config) -> bool {
    let named = |place: &&String| place.as_str() != "default" && !place.is_empty();
    [&config.zone, &config.pod, &config.cluster].iter().all(named)
}
