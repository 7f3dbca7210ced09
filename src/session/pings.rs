//! Collects what a ping says, away from the session's own task: libvirt may be slow or dead, the
//! ping goes out in time all the same, then without the report.

use crate::commands::Services;
use crate::commands::agent::ping::{self, PowerReport, Trigger};
use crate::config::Config;
use crate::errors::chain;
use crate::host::health;
use crate::hypervisor::{DomainEvent, DomainEventKind, StopReason as GuestStop};
use crate::wire::Element;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

/// Longest time that the guests' states may take; half an interval if that is shorter.
const LONGEST_COLLECTION: Duration = Duration::from_secs(10);

/// The contents of a ping that is due.
#[derive(Debug)]
pub struct Collected {
    trigger: Trigger,
    report: Option<PowerReport>,
    healthy: Option<bool>,
}

impl Collected {
    pub fn element(&self, host_id: Option<i64>) -> Result<Element, serde_json::Error> {
        ping::element(host_id, self.trigger, self.report.as_ref(), self.healthy)
    }
}

/// Collectors of one session.
#[derive(Debug)]
pub struct Pings {
    services: Arc<Services>,
    config: Arc<Config>,
    ready: mpsc::Receiver<Collected>,
    deliver: mpsc::Sender<Collected>,
    events: Option<broadcast::Receiver<DomainEvent>>,
}

impl Pings {
    pub fn new(services: Arc<Services>, config: Arc<Config>) -> Pings {
        let (deliver, ready) = mpsc::channel(8);
        let events = config.libvirt_events_enabled.then(|| services.hypervisor.events());
        Pings { services, config, ready, deliver, events }
    }

    /// Starts collecting for an interval ping; [`Pings::collected`] gives the result.
    pub fn collect(&mut self, background: &mut JoinSet<()>, interval: Duration) {
        // Finished collectors would otherwise pile up until the end of the session.
        while background.try_join_next().is_some() {}
        let work = collect(
            self.services.clone(),
            self.config.clone(),
            Trigger::Interval,
            interval,
            self.deliver.clone(),
        );
        background.spawn(work);
    }

    /// The next ping to send: collected for an interval, or because a guest stopped by itself.
    /// Cancel safe.
    pub async fn collected(&mut self) -> Option<Collected> {
        loop {
            tokio::select! {
                collected = self.ready.recv() => return collected,
                () = guest_stopped(&mut self.events) => {
                    let work = collect(
                        self.services.clone(), self.config.clone(), Trigger::GuestEvent, LONGEST_COLLECTION, self.deliver.clone(),
                    );
                    tokio::spawn(work);
                }
            }
        }
    }
}

/// Returns when a guest stopped without being told to (mirrors the reference's lifecycle listener).
async fn guest_stopped(events: &mut Option<broadcast::Receiver<DomainEvent>>) {
    while let Some(receiver) = events {
        match receiver.recv().await {
            Ok(event) => match event.kind {
                DomainEventKind::Stopped {
                    reason: GuestStop::Shutdown | GuestStop::Crashed | GuestStop::Failed,
                } => {
                    tracing::info!(guest = %event.name, "Guest stopped by itself, telling the server");
                    return;
                }
                DomainEventKind::Stopped { reason: GuestStop::Destroyed | GuestStop::Other }
                | DomainEventKind::Started
                | DomainEventKind::Other => {}
            },
            // Some events were missed: one of them may have been a stop.
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => *events = None,
        }
    }
    std::future::pending().await
}

async fn collect(
    services: Arc<Services>,
    config: Arc<Config>,
    trigger: Trigger,
    interval: Duration,
    deliver: mpsc::Sender<Collected>,
) {
    let limit = LONGEST_COLLECTION.min(interval / 2);
    let (report, healthy) = tokio::join!(
        async { tokio::time::timeout(limit, power_report(&services)).await.unwrap_or_default() },
        async {
            match config.health_check_script.as_deref() {
                Some(script) => health::check(script, limit).await,
                None => None,
            }
        },
    );
    // Without a report an out-of-band ping says nothing.
    if trigger == Trigger::Interval || report.is_some() {
        let _ = deliver.send(Collected { trigger, report, healthy }).await;
    }
}

async fn power_report(services: &Services) -> Option<PowerReport> {
    let hypervisor = &services.hypervisor;
    match tokio::try_join!(hypervisor.node_facts(), hypervisor.power_states()) {
        Ok((node, guests)) => Some(PowerReport::new(node.hostname, guests)),
        Err(error) => {
            tracing::debug!(error = %chain(&error), "Ping goes without the guests' states");
            None
        }
    }
}
