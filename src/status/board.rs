//! The board: every owner of state publishes its section, anyone may take a snapshot.
//!
//! Publishing never waits and never fails, reading never asks an owner: so a hung owner shows its
//! last word instead of hanging the reader. One watch channel per section.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::checks::{self, Check};
use super::health;
use super::snapshot::{
    AgentSection, CertificateSection, CommandsSection, LibvirtSection, MachineSection, OrphansSection,
    PoolSection, SCHEMA, SessionSection, SessionState, Source, Status, Verdict,
};
use super::timestamp::Timestamp;

/// Handle to the board; clones share it.
#[derive(Debug, Clone)]
pub struct Board {
    inner: Arc<Sections>,
}

#[derive(Debug)]
struct Sections {
    started_at: Timestamp,
    session: watch::Sender<SessionSection>,
    commands: watch::Sender<Option<CommandsSection>>,
    libvirt: watch::Sender<Option<LibvirtSection>>,
    machine: watch::Sender<Option<MachineSection>>,
    storage: watch::Sender<Vec<PoolSection>>,
    certificate: watch::Sender<Option<CertificateSection>>,
    orphans: watch::Sender<Option<OrphansSection>>,
    /// Checks by source, so that one source replaces only its own.
    checks: watch::Sender<BTreeMap<&'static str, Vec<Check>>>,
    /// Counts changes that deserve a new snapshot file.
    revision: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// An empty board of a process that starts now.
    pub fn new() -> Self {
        let started_at = Timestamp::now();
        let sections = Sections {
            started_at,
            session: watch::Sender::new(SessionSection::new(SessionState::Idle, started_at)),
            commands: watch::Sender::new(None),
            libvirt: watch::Sender::new(None),
            machine: watch::Sender::new(None),
            storage: watch::Sender::new(Vec::new()),
            certificate: watch::Sender::new(None),
            orphans: watch::Sender::new(None),
            checks: watch::Sender::new(BTreeMap::new()),
            revision: watch::Sender::new(0),
        };
        Self { inner: Arc::new(sections) }
    }

    /// The session's owner: at each state change and each ping.
    pub fn session(&self, section: SessionSection) {
        self.put(&self.inner.session, section);
    }

    /// The dispatcher: as often as it likes. Counters alone do not cause a new snapshot file.
    pub fn commands(&self, section: CommandsSection) {
        self.inner.commands.send_replace(Some(section));
    }

    /// The hypervisor's owner.
    pub fn libvirt(&self, section: LibvirtSection) {
        self.put(&self.inner.libvirt, Some(section));
    }

    /// The inventory's owner.
    pub fn machine(&self, section: MachineSection) {
        self.put(&self.inner.machine, Some(section));
    }

    /// The storage owner: all pools at once.
    pub fn storage(&self, pools: Vec<PoolSection>) {
        self.put(&self.inner.storage, pools);
    }

    /// The TLS material's owner; `None` when the host has no certificate.
    pub fn certificate(&self, section: Option<CertificateSection>) {
        self.put(&self.inner.certificate, section);
    }

    /// Who looks for orphans, now and then.
    pub fn orphans(&self, section: OrphansSection) {
        self.put(&self.inner.orphans, Some(section));
    }

    /// Replaces the checks of `source`. A check whose id also follows from the sections
    /// ([`health::derive`]) wins over that.
    pub fn checks(&self, source: &'static str, found: Vec<Check>) {
        let changed = self.inner.checks.send_if_modified(|all| {
            if all.get(source) == Some(&found) {
                return false;
            }
            all.insert(source, found);
            true
        });
        if changed {
            self.bump();
        }
    }

    /// A receiver that reports every change worth a new snapshot file.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// A receiver of the session section, for readers that follow its state (READY, STATUS=).
    pub fn watch_session(&self) -> watch::Receiver<SessionSection> {
        self.inner.session.subscribe()
    }

    /// Everything as of now, with the facts of this process and the checks that follow.
    pub fn snapshot(&self) -> Status {
        let now = Timestamp::now();
        let sections = &self.inner;
        let mut certificate = sections.certificate.borrow().clone();
        if let Some(certificate) = &mut certificate {
            // The owner published it once, maybe weeks ago.
            certificate.days_left = super::probes::days_left(certificate.not_after, now);
        }
        let mut status = Status {
            schema: SCHEMA,
            verdict: Verdict::Unknown,
            source: Source::Live,
            taken_at: now,
            agent: process(sections.started_at),
            session: sections.session.borrow().clone(),
            commands: sections.commands.borrow().clone(),
            libvirt: sections.libvirt.borrow().clone(),
            machine: sections.machine.borrow().clone(),
            storage: sections.storage.borrow().clone(),
            certificate,
            orphans: sections.orphans.borrow().clone(),
            checks: Vec::new(),
        };
        status.checks = health::derive(&status, now);
        let published: Vec<Check> = sections.checks.borrow().values().flatten().cloned().collect();
        checks::merge(&mut status.checks, published);
        status.verdict = status.judge();
        status
    }

    fn put<T: PartialEq>(&self, channel: &watch::Sender<T>, value: T) {
        let changed = channel.send_if_modified(|current| {
            let differs = *current != value;
            *current = value;
            differs
        });
        if changed {
            self.bump();
        }
    }

    fn bump(&self) {
        self.inner.revision.send_modify(|revision| *revision = revision.wrapping_add(1));
    }
}

/// The host's name as the kernel has it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Facts of this process from `/proc/self`; what cannot be read is unknown.
fn process(started_at: Timestamp) -> AgentSection {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    // The directory being read is itself an open file.
    let open_fds = std::fs::read_dir("/proc/self/fd").ok().map(|dir| (dir.count() as u64).saturating_sub(1));
    AgentSection {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wire_version: super::WIRE_VERSION.to_owned(),
        hostname: hostname(),
        pid: Some(std::process::id()),
        started_at: Some(started_at),
        rss_bytes: number("VmRSS:").map(|kib| kib.saturating_mul(1024)),
        open_fds,
        threads: number("Threads:"),
        down_reason: None,
        unit: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::CheckResult;
    use super::*;

    fn registered() -> SessionSection {
        SessionSection::new(SessionState::Registered, Timestamp::now())
    }

    #[test]
    fn a_fresh_board_knows_its_process_and_nothing_else() {
        let status = Board::new().snapshot();
        assert_eq!(status.agent.pid, Some(std::process::id()));
        assert!(status.agent.rss_bytes.is_some_and(|rss| rss > 100_000));
        assert!(status.agent.threads.is_some_and(|threads| threads >= 1));
        assert!(status.agent.open_fds.is_some_and(|fds| fds >= 3));
        assert!(status.libvirt.is_none() && status.commands.is_none());
        assert_eq!(status.verdict, Verdict::Fail);
        assert_eq!(status.exit_code(), 2);
    }

    #[test]
    fn verdict_follows_state_and_checks() {
        let board = Board::new();
        board.session(registered());
        assert_eq!(board.snapshot().verdict, Verdict::Ok);
        board.checks("host", vec![Check::warn("disk:/var/log", "full", "free it")]);
        assert_eq!(board.snapshot().verdict, Verdict::Warn);
        board.checks("pool", vec![Check::fail("pool", "gone", "mount it")]);
        assert_eq!(board.snapshot().verdict, Verdict::Fail);
        board.checks("pool", Vec::new());
        board.checks("host", vec![Check::timeout("disk:/mnt", "hangs", "look")]);
        let status = board.snapshot();
        assert_eq!((status.verdict, status.exit_code()), (Verdict::Warn, 1));
    }

    #[test]
    fn a_published_check_replaces_the_derived_one() {
        let board = Board::new();
        board.checks("session", vec![Check::warn("control-plane", "waiting by design", "wait")]);
        let checks = board.snapshot().checks;
        let found: Vec<_> = checks.iter().filter(|check| check.id == "control-plane").collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].result, CheckResult::Warn);
    }

    #[test]
    fn only_real_changes_are_announced() {
        let board = Board::new();
        let mut changed = board.changed();
        let section = registered();
        board.session(section.clone());
        assert!(changed.has_changed().unwrap());
        changed.mark_unchanged();
        board.session(section);
        board.commands(CommandsSection::default());
        board.checks("host", vec![]);
        changed.mark_unchanged();
        board.checks("host", vec![]);
        assert!(!changed.has_changed().unwrap());
    }
}
