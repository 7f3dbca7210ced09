//! What handlers ask of their connection: new server lists, a move, new certificates, repeated work.

use super::end::StopReason;
use super::link;
use super::survivors::Survivors;
use crate::commands::{ServerList, SessionRequest};
use crate::config::{Change, ConfigStore};
use crate::errors::chain;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Between the answer to SetupCertificateCommand and the reconnect, as the reference has it: the
/// server may close the link by itself first.
const RENEW_AFTER: Duration = Duration::from_secs(5);
/// Between the answer to MigrateAgentConnectionCommand and the move.
const MIGRATE_AFTER: Duration = Duration::from_secs(3);
/// Time that a probe of another server may take.
const PROBE: Duration = Duration::from_secs(5);
/// Cron intervals from the wire are kept within these.
const SHORTEST_CRON: Duration = Duration::from_secs(10);

/// When to look whether the preferred server is back.
#[derive(Debug, Clone, Copy)]
struct Check {
    at: Instant,
    every: Option<Duration>,
}

/// Pending requests of one session.
#[derive(Debug)]
pub struct Requests {
    /// `host.lb.check.interval`, which overrides the server's wish.
    configured_interval: Option<Duration>,
    renew_at: Option<Instant>,
    migrate_at: Option<Instant>,
    check: Option<Check>,
    probe: Option<JoinHandle<bool>>,
}

impl Requests {
    pub fn new(configured_interval: Option<Duration>) -> Requests {
        Requests { configured_interval, renew_at: None, migrate_at: None, check: None, probe: None }
    }

    pub fn take(
        &mut self,
        request: SessionRequest,
        survivors: &mut Survivors,
        background: &mut JoinSet<()>,
        config: &ConfigStore,
    ) {
        match request {
            SessionRequest::Servers { list, check_now } => {
                survivors.servers.set_avoid(&list.avoid);
                // An empty list means "keep yours"; names are checked before they reach a socket or a file.
                match checked(&list) {
                    Some(text) => {
                        survivors.servers.set_hosts(&list.hosts);
                        save(config.clone(), text);
                    }
                    None if list.hosts.is_empty() => {}
                    None => tracing::warn!(
                        "The server sent a list of servers that cannot be used; the old one stays"
                    ),
                }
                self.check = self.schedule(&list, check_now);
            }
            SessionRequest::Migrate => self.migrate_at = Some(Instant::now() + MIGRATE_AFTER),
            SessionRequest::CertificateRenewed => self.renew_at = Some(Instant::now() + RENEW_AFTER),
            SessionRequest::Every { name, interval, job } => {
                let interval = interval.max(SHORTEST_CRON);
                tracing::debug!(name, ?interval, "Repeated work scheduled");
                background.spawn(async move {
                    loop {
                        tokio::time::sleep(interval).await;
                        job().await;
                    }
                });
            }
        }
    }

    fn schedule(&self, list: &ServerList, check_now: bool) -> Option<Check> {
        let now = Instant::now();
        if check_now {
            return Some(Check { at: now, every: None });
        }
        let interval = self.configured_interval.unwrap_or(list.check_interval);
        if interval.is_zero() {
            return None;
        }
        // A shuffled list is checked once: its order is this host's own only until the next shuffle.
        let every = (list.algorithm != "shuffle").then_some(interval);
        Some(Check { at: now + interval, every })
    }

    /// Returns when the session should end for one of the pending requests. Cancel safe.
    pub async fn due(
        &mut self,
        in_flight: &watch::Receiver<usize>,
        survivors: &Survivors,
        connected: &str,
        port: u16,
    ) -> StopReason {
        let mut in_flight = in_flight.clone();
        loop {
            let check_at = self.check.map(|check| check.at);
            tokio::select! {
                () = until(self.renew_at) => {
                    // The answer in flight may be the very one that reports the certificate.
                    let _ = in_flight.wait_for(|count| *count == 0).await;
                    return StopReason::CertificateRenewed;
                }
                () = until(self.migrate_at) => return StopReason::Migrate,
                () = until(check_at), if self.probe.is_none() => self.begin_probe(survivors, connected, port),
                reachable = joined(&mut self.probe) => {
                    self.probe = None;
                    if reachable && *in_flight.borrow() == 0 {
                        return StopReason::PreferredServer;
                    }
                }
            }
        }
    }

    fn begin_probe(&mut self, survivors: &Survivors, connected: &str, port: u16) {
        self.check = self.check.and_then(|check| {
            let every = check.every?;
            Some(Check { at: Instant::now() + every, every: Some(every) })
        });
        let preferred = survivors.servers.preferred().unwrap_or(connected).to_owned();
        if preferred != connected {
            self.probe = Some(tokio::spawn(async move {
                matches!(tokio::time::timeout(PROBE, link::dial(&preferred, port)).await, Ok(Ok(_)))
            }));
        }
    }
}

/// The list as agent.properties has it, if it is usable.
fn checked(list: &ServerList) -> Option<String> {
    let text = format!("{}@{}", list.hosts.join(","), list.algorithm);
    let parsed = crate::config::ServerList::parse(&text)?;
    (!list.algorithm.is_empty() && !list.hosts.is_empty() && parsed.hosts == list.hosts).then_some(text)
}

fn save(config: ConfigStore, value: String) {
    tokio::spawn(async move {
        let change = Change { key: "host", value: Some(value) };
        if let Err(error) = config.persist(vec![change]).await {
            tracing::warn!(error = %chain(&error), "The new list of servers cannot be saved; it is used until the next start");
        }
    });
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn joined(probe: &mut Option<JoinHandle<bool>>) -> bool {
    match probe {
        Some(handle) => handle.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(hosts: &[&str], algorithm: &str) -> ServerList {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        ServerList { hosts, algorithm: algorithm.into(), ..ServerList::default() }
    }

    #[test]
    fn only_usable_lists_are_taken_over() {
        assert_eq!(
            checked(&list(&["10.0.0.1", "ms2.example.net"], "static")).as_deref(),
            Some("10.0.0.1,ms2.example.net@static")
        );
        for hostile in [&["a b"][..], &["a\nguid=x"], &["a,b"], &["a@b"], &[]] {
            assert_eq!(checked(&list(hostile, "static")), None, "{hostile:?}");
        }
        assert_eq!(checked(&list(&["10.0.0.1"], "")), None);
    }

    #[tokio::test]
    async fn the_preferred_server_is_checked_as_often_as_asked() {
        let every = |interval: u64, algorithm: &str, configured: Option<u64>| {
            let wanted =
                ServerList { check_interval: Duration::from_secs(interval), ..list(&["a"], algorithm) };
            Requests::new(configured.map(Duration::from_secs))
                .schedule(&wanted, false)
                .map(|check| check.every)
        };
        assert_eq!(every(0, "static", None), None);
        assert_eq!(every(30, "static", None), Some(Some(Duration::from_secs(30))));
        assert_eq!(every(30, "shuffle", None), Some(None));
        assert_eq!(every(30, "static", Some(5)), Some(Some(Duration::from_secs(5))));
    }
}
