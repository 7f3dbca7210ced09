//! Checks: the facts an operator can act on, and the runner that gathers the ones which need no
//! live agent, all at once, each with its own deadline.
//!
//! Must never change anything on the host, wait longer than [`TOTAL`], or call libvirt.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::nfs;
use super::probes;
use super::snapshot::CertificateSection;
use super::timestamp::Timestamp;

/// Longest time one probe may take.
pub const PER_PROBE: Duration = Duration::from_millis(1_500);

/// Longest time for all of them: they run side by side.
pub const TOTAL: Duration = Duration::from_millis(1_600);

/// Most servers, NICs or paths probed: a mangled configuration must not fork a thousand probes.
const MAX_PROBES_PER_KIND: usize = 32;

/// Outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// As it should be.
    Ok,
    /// Works, but will not for long, or not for everything.
    Warn,
    /// Does not work.
    Fail,
    /// Could not be looked at (not applicable, no permission).
    Skip,
    /// No answer within the probe's deadline.
    Timeout,
}

/// One fact. `id` is `group` or `group:subject` (`net:10.0.0.5:8250`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub id: String,
    pub result: CheckResult,
    /// One sentence in lower case, no full stop.
    pub summary: String,
    /// What to do; `null` when nothing needs doing.
    #[serde(default)]
    pub remedy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

impl Check {
    /// A check that found nothing wrong.
    pub fn ok(id: impl Into<String>, summary: impl Into<String>) -> Self {
        Self::new(id, CheckResult::Ok, summary, None)
    }

    /// A check that could not be made.
    pub fn skip(id: impl Into<String>, summary: impl Into<String>) -> Self {
        Self::new(id, CheckResult::Skip, summary, None)
    }

    /// Something that needs attention, and what to do.
    pub fn warn(id: impl Into<String>, summary: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, CheckResult::Warn, summary, Some(remedy.into()))
    }

    /// Something broken, and what to do.
    pub fn fail(id: impl Into<String>, summary: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, CheckResult::Fail, summary, Some(remedy.into()))
    }

    /// No answer in time, and what to do.
    pub fn timeout(id: impl Into<String>, summary: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, CheckResult::Timeout, summary, Some(remedy.into()))
    }

    /// The part of the id before the first colon.
    pub fn group(&self) -> &str {
        self.id.split(':').next().unwrap_or(&self.id)
    }

    fn new(
        id: impl Into<String>,
        result: CheckResult,
        summary: impl Into<String>,
        remedy: Option<String>,
    ) -> Self {
        Self { id: id.into(), result, summary: summary.into(), remedy, took_ms: None }
    }
}

/// Adds `more` to `checks`; a check with an id that is already there replaces it in place.
pub fn merge(checks: &mut Vec<Check>, more: impl IntoIterator<Item = Check>) {
    for check in more {
        match checks.iter_mut().find(|known| known.id == check.id) {
            Some(known) => *known = check,
            None => checks.push(check),
        }
    }
}

/// Groups of static checks, as `agent check GROUP` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// agent.properties: readable, complete, no errors
    Config,
    /// /dev/kvm and the processor's virtualisation extension
    Kvm,
    /// the QEMU binary
    Qemu,
    /// libvirt's socket
    Libvirt,
    /// bridges and network cards named in the configuration
    #[value(alias = "bridges")]
    Network,
    /// a TCP connection to every management server
    Net,
    /// this host's certificate: present, not expired
    #[value(aliases = ["certificates", "certs"])]
    Certificate,
    /// clock synchronisation
    Time,
    /// free space under storage pools and logs
    Disk,
    /// defaults of NFS mounts in /etc/nfsmount.conf
    Nfs,
    /// the agent's runtime directory
    Runtime,
}

/// One management server to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What the static checks need to know of the configuration, as plain values.
#[derive(Debug, Clone, Default)]
pub struct ConfigFacts {
    /// The agent.properties that was read.
    pub path: PathBuf,
    /// Why it could not be read or understood, one sentence each.
    pub errors: Vec<String>,
    pub servers: Vec<ServerAddress>,
    /// Bridges and network cards named by the `*.network.device` properties.
    pub nics: Vec<String>,
    /// Directories of local storage pools.
    pub storage_paths: Vec<PathBuf>,
    /// Where `cloud.crt` and its neighbours live.
    pub certificate_dir: PathBuf,
    pub certificate: Option<CertificateSection>,
    /// Why `cloud.crt` exists but could not be read.
    pub certificate_error: Option<String>,
    /// The agent's guid; `None` when the property is missing.
    pub guid: Option<String>,
    /// `qemu:///system`, `test:///default`, ...
    pub hypervisor_uri: String,
    pub runtime_dir: PathBuf,
}

pub(super) type Probe = Pin<Box<dyn Future<Output = Check> + Send>>;

/// Runs the static checks (of one group, or all) side by side and returns them in a fixed order.
/// Takes at most [`TOTAL`]; a probe that hangs is reported as a timeout. Threads that hang in a
/// system call are left behind: end the runtime with `shutdown_background`.
pub async fn run(facts: &ConfigFacts, only: Option<Group>, now: Timestamp) -> Vec<Check> {
    let wanted = |group| only.is_none_or(|only| only == group);
    let mut probes: Vec<(String, Probe)> = Vec::new();
    let mut checks: Vec<(usize, Check)> = Vec::new();
    for group in ORDER.into_iter().filter(|group| wanted(*group)) {
        add_group(group, facts, now, &mut probes);
    }
    let ids: Vec<String> = probes.iter().map(|(id, _)| id.clone()).collect();
    let mut running = JoinSet::new();
    for (index, (id, probe)) in probes.into_iter().enumerate() {
        running.spawn(async move { (index, timed(id, probe).await) });
    }
    let collect = async {
        while let Some(done) = running.join_next().await {
            if let Ok(done) = done {
                checks.push(done);
            }
        }
    };
    // The outer deadline only matters if a probe blocks the thread; each has one of its own.
    let _ = tokio::time::timeout(TOTAL, collect).await;
    for (index, id) in ids.into_iter().enumerate() {
        if !checks.iter().any(|(done, _)| *done == index) {
            checks.push((index, late(id)));
        }
    }
    checks.sort_by_key(|(index, _)| *index);
    checks.into_iter().map(|(_, check)| check).collect()
}

/// Order of the report: what stops the agent from starting comes first.
const ORDER: [Group; 11] = [
    Group::Config,
    Group::Runtime,
    Group::Kvm,
    Group::Qemu,
    Group::Libvirt,
    Group::Network,
    Group::Net,
    Group::Certificate,
    Group::Time,
    Group::Disk,
    Group::Nfs,
];

fn add_group(group: Group, facts: &ConfigFacts, now: Timestamp, probes: &mut Vec<(String, Probe)>) {
    match group {
        Group::Config => {
            let facts = facts.clone();
            probes.push(("config".into(), Box::pin(async move { probes::config(&facts) })));
        }
        Group::Runtime => {
            let dir = facts.runtime_dir.clone();
            probes.push(("runtime".into(), blocking("runtime", move || probes::runtime_dir(&dir))));
        }
        Group::Kvm => probes.push(("kvm".into(), blocking("kvm", probes::kvm))),
        Group::Qemu => probes.push(("qemu".into(), blocking("qemu", probes::qemu))),
        Group::Libvirt => {
            let uri = facts.hypervisor_uri.clone();
            probes.push(("libvirt".into(), blocking("libvirt", move || probes::libvirt(&uri))));
        }
        Group::Network => {
            for nic in facts.nics.iter().take(MAX_PROBES_PER_KIND) {
                let nic = nic.clone();
                let id = format!("network:{nic}");
                probes.push((id.clone(), blocking(&id, move || probes::nic(&nic))));
            }
        }
        Group::Net => {
            if facts.servers.is_empty() {
                probes.push(("net".into(), Box::pin(async { probes::no_server() })));
            }
            for server in facts.servers.iter().take(MAX_PROBES_PER_KIND).cloned() {
                probes.push((format!("net:{server}"), Box::pin(probes::reach(server))));
            }
        }
        Group::Certificate => {
            let facts = facts.clone();
            probes.push(("certificate".into(), Box::pin(async move { probes::certificate(&facts, now) })));
        }
        Group::Nfs => {
            probes.push(("nfs".into(), blocking("nfs", || nfs::defaults(std::path::Path::new("/etc")))));
        }
        Group::Time => probes.push(("time".into(), blocking("time", probes::time_sync))),
        Group::Disk => {
            let logs = PathBuf::from("/var/log");
            for path in facts.storage_paths.iter().take(MAX_PROBES_PER_KIND).chain([&logs]) {
                let path = path.clone();
                let id = format!("disk:{}", path.display());
                probes.push((id.clone(), blocking(&id, move || probes::disk(&path))));
            }
        }
    }
}

/// File-system probes run on their own thread: a dead NFS server blocks `statvfs` for minutes.
fn blocking(id: &str, probe: impl FnOnce() -> Check + Send + 'static) -> Probe {
    let id = id.to_owned();
    Box::pin(async move {
        tokio::task::spawn_blocking(probe)
            .await
            .unwrap_or_else(|_| Check::skip(id, "the probe ended without an answer"))
    })
}

async fn timed(id: String, probe: Probe) -> Check {
    let started = Instant::now();
    let mut check = tokio::time::timeout(PER_PROBE, probe).await.unwrap_or_else(|_| late(id));
    check.took_ms = Some(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    check
}

fn late(id: String) -> Check {
    let summary = format!("no answer within {:.1} s", PER_PROBE.as_secs_f64());
    Check::timeout(id, summary, "something below hangs (storage, name service); see dmesg")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_check_replaces_an_earlier_one_in_place() {
        let mut checks = vec![Check::ok("a", "1"), Check::ok("b", "1")];
        merge(&mut checks, [Check::fail("a", "2", "do"), Check::ok("c", "1")]);
        let ids: Vec<_> = checks.iter().map(|c| (c.id.as_str(), c.summary.as_str())).collect();
        assert_eq!(ids, [("a", "2"), ("b", "1"), ("c", "1")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_never_ends_becomes_a_timeout() {
        let check = timed("net:x".into(), Box::pin(std::future::pending())).await;
        assert_eq!((check.id.as_str(), check.result), ("net:x", CheckResult::Timeout));
        assert!(check.remedy.is_some());
    }

    #[tokio::test]
    async fn only_the_wanted_group_runs() {
        let facts = ConfigFacts { nics: vec!["lo".into(), "no-such-nic0".into()], ..ConfigFacts::default() };
        let checks = run(&facts, Some(Group::Network), Timestamp::now()).await;
        let found: Vec<_> = checks.iter().map(|c| (c.id.as_str(), c.result)).collect();
        assert_eq!(found, [("network:lo", CheckResult::Ok), ("network:no-such-nic0", CheckResult::Fail)]);
        assert!(checks.iter().all(|check| check.group() == "network"));
    }

    #[tokio::test]
    async fn every_failing_static_check_has_a_remedy() {
        let facts = ConfigFacts {
            path: "/nonexistent/agent.properties".into(),
            errors: vec!["no such file".into()],
            storage_paths: vec!["/nonexistent/pool".into()],
            runtime_dir: "/nonexistent/run".into(),
            ..ConfigFacts::default()
        };
        let checks = run(&facts, None, Timestamp::now()).await;
        assert!(checks.iter().any(|check| check.result == CheckResult::Fail));
        for check in checks {
            let bad = !matches!(check.result, CheckResult::Ok | CheckResult::Skip);
            assert_eq!(check.remedy.is_some(), bad, "{check:?}");
        }
    }
}
