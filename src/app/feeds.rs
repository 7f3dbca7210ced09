//! Small tasks that carry facts from their owners to the status board.
//!
//! The board never asks: a hung owner must not make `--status` hang.

use crate::config::{ConfigStore, FileState};
use crate::dispatch::Dispatcher;
use crate::dispatch::stats::Counters;
use crate::hypervisor::{Connection, DomainPower, DomainState, Hypervisor, LibvirtStatus, PowerState};
use crate::orphans::Tools;
use crate::status::board::Board;
use crate::status::checks::Check;
use crate::status::snapshot::{
    CertificateSection, CommandCount, CommandsSection, LibvirtSection, OrphansSection, SessionState,
};
use crate::status::timestamp::Timestamp;
use crate::tls::{CertificateSummary, Material};
use crate::wire::envelope::simple_name;
use std::time::Duration;
use tokio::sync::broadcast;

/// From a registration until orphans are looked for: what the server begins with comes first.
const ORPHANS_AFTER: Duration = Duration::from_secs(5 * 60);
const ORPHANS_EVERY: Duration = Duration::from_secs(10 * 60);
/// A search that takes longer is given up, and its last result stays.
const ORPHANS_LIMIT: Duration = Duration::from_secs(5 * 60);
/// Counters are copied at most this often.
const COMMANDS_EVERY: Duration = Duration::from_secs(1);
/// Guests are counted this often while nothing changes.
const GUESTS_EVERY: Duration = Duration::from_secs(30);
/// Certificate files are looked at this often.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(60);

/// Command counters, after each change.
pub async fn commands(board: Board, dispatcher: Dispatcher) {
    let mut in_flight = dispatcher.in_flight();
    loop {
        let counters = dispatcher.stats().read().await;
        let running = *in_flight.borrow_and_update();
        board.commands(commands_section(&counters, running));
        tokio::time::sleep(COMMANDS_EVERY).await;
        if in_flight.changed().await.is_err() {
            return;
        }
    }
}

fn commands_section(counters: &Counters, in_flight: usize) -> CommandsSection {
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let all = counters.latency();
    let by_name = counters.by_class.iter().map(|(class, counts)| {
        let p99_ms = counts.latency.quantile(0.99).map(millis);
        (simple_name(class).to_owned(), CommandCount { done: counts.done, failed: counts.failed, p99_ms })
    });
    CommandsSection {
        in_flight: in_flight as u64,
        done: counters.done(),
        failed: counters.failed(),
        unsupported: counters.unsupported,
        p50_ms: all.quantile(0.5).map(millis),
        p99_ms: all.quantile(0.99).map(millis),
        by_name: by_name.collect(),
    }
}

/// State of the libvirt connection and the number of guests. The state is never held up by counting.
pub async fn libvirt(board: Board, hypervisor: Hypervisor) {
    let mut status = hypervisor.status();
    let mut events = hypervisor.events();
    loop {
        let known = status.borrow_and_update().clone();
        // Call counters change all the time; only another state of the connection is news.
        let connection = known.connection.clone();
        let news = |status: &LibvirtStatus| status.connection != connection;
        let mut section = libvirt_section(known);
        board.libvirt(section.clone());
        tokio::select! {
            guests = hypervisor.power_states(), if section.connected => {
                if let Ok(guests) = guests {
                    count(&guests, &mut section);
                    board.libvirt(section);
                }
            }
            changed = status.wait_for(news) => match changed {
                Ok(_) => continue,
                Err(_) => return,
            },
        }
        tokio::select! {
            changed = status.wait_for(news) => if changed.is_err() { return },
            // Lagging behind is a reason to count, too.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) = events.recv() => {}
            () = tokio::time::sleep(GUESTS_EVERY) => {}
        }
    }
}

fn libvirt_section(known: LibvirtStatus) -> LibvirtSection {
    let connected = known.connection.is_connected();
    let (libvirt_version, qemu_version) = match known.connection {
        Connection::Connected { libvirt_version, hypervisor_version, .. } => {
            (Some(libvirt_version), Some(hypervisor_version).filter(|version| version != "unknown"))
        }
        Connection::Connecting { .. } | Connection::Lost { .. } => (None, None),
    };
    LibvirtSection {
        uri: known.uri,
        connected,
        libvirt_version,
        qemu_version,
        domains_running: None,
        domains_paused: None,
    }
}

fn count(guests: &[DomainPower], section: &mut LibvirtSection) {
    let matching = |wanted: fn(DomainState) -> bool| guests.iter().filter(|g| wanted(g.state)).count() as u64;
    section.domains_paused = Some(matching(|state| state == DomainState::Paused));
    section.domains_running =
        Some(matching(|state| state.power() == PowerState::On && state != DomainState::Paused));
}

/// How much is left on the host that nobody asks for. Only counted: nothing is removed by itself.
pub async fn orphans(board: Board, tools: Tools) {
    let mut session = board.watch_session();
    if session.wait_for(|session| session.state == SessionState::Registered).await.is_err() {
        return;
    }
    tokio::time::sleep(ORPHANS_AFTER).await;
    loop {
        match tokio::time::timeout(ORPHANS_LIMIT, tools.scan()).await {
            Ok(Ok(found)) => board.orphans(OrphansSection {
                count: found.orphans.len() as u64,
                bytes: found.bytes(),
                looked_at: Timestamp::now(),
            }),
            Ok(Err(error)) => {
                tracing::debug!("Orphans cannot be counted: {}", crate::errors::chain(&error));
            }
            Err(_) => tracing::debug!("Orphans cannot be counted: storage or libvirt is too slow"),
        }
        tokio::time::sleep(ORPHANS_EVERY).await;
    }
}

/// The host certificate and what is wrong with it, and with the configuration file.
pub async fn files(board: Board, config: ConfigStore) {
    let mut file = config.subscribe();
    loop {
        let state = file.borrow_and_update().clone();
        let mut checks = Vec::new();
        match &*state {
            FileState::Loaded(config) => {
                checks.extend(
                    config
                        .warnings
                        .iter()
                        .map(|text| Check::warn("config:warnings", text.clone(), "correct agent.properties")),
                );
                publish_certificate(&board, config.dir(), &mut checks).await;
            }
            FileState::Invalid { error } => {
                let text = crate::errors::chain(&**error);
                checks.push(Check::fail(
                    "config",
                    text,
                    "correct agent.properties; the agent notices by itself",
                ));
            }
            FileState::Missing { path } => {
                let text = format!("{} does not exist", path.display());
                checks.push(Check::fail("config", text, "set this host up, or restore the file"));
            }
        }
        board.checks("files", checks);
        tokio::select! {
            changed = file.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(CERTIFICATE_EVERY) => {}
        }
    }
}

async fn publish_certificate(board: &Board, dir: &std::path::Path, checks: &mut Vec<Check>) {
    let dir = dir.to_owned();
    match tokio::task::spawn_blocking(move || Material::load(&dir)).await {
        Ok(Ok(material)) => {
            board.certificate(material.summary().map(|summary| certificate(&summary)));
            let remedy = "provision this host again (provisionCertificate)";
            checks.extend(
                material.notes().iter().map(|note| Check::warn("certificate:identity", note.clone(), remedy)),
            );
        }
        Ok(Err(error)) => {
            let text = crate::errors::chain(&error);
            checks.push(Check::fail(
                "certificate:files",
                text,
                "provision this host again (provisionCertificate)",
            ));
        }
        Err(_) => {}
    }
}

/// The certificate as `--status` shows it.
pub fn certificate(summary: &CertificateSummary) -> CertificateSection {
    let now = Timestamp::now();
    let moment =
        time::OffsetDateTime::from_unix_timestamp(now.unix()).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    CertificateSection {
        subject: summary.subject.clone(),
        issuer: common_name(&summary.issuer).to_owned(),
        not_after: Timestamp::from_unix(summary.not_after.unix_timestamp()),
        days_left: summary.days_left(moment),
    }
}

/// `CN=ca.cloudstack.apache.org` → `ca.cloudstack.apache.org`; the whole name if it has no CN.
fn common_name(distinguished: &str) -> &str {
    let part = distinguished.split(',').map(str::trim).find_map(|part| part.strip_prefix("CN="));
    part.unwrap_or(distinguished)
}
