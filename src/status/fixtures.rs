//! Documents for the tests of this module and the command line.

use std::time::Duration;

use super::checks::{Check, CheckResult};
use super::health;
use super::snapshot::*;
use super::timestamp::Timestamp;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn ago(seconds: u64) -> Timestamp {
    now().minus(Duration::from_secs(seconds))
}

/// The moment all these documents are looked at.
pub fn now() -> Timestamp {
    at("2026-11-23T12:26:00Z")
}

/// Everything known, nothing wrong.
pub fn healthy() -> Status {
    let mut status = Status {
        schema: SCHEMA,
        verdict: Verdict::Unknown,
        source: Source::Live,
        taken_at: now(),
        agent: AgentSection {
            version: "0.3.0".into(),
            wire_version: "4.19.1.0".into(),
            hostname: "kvm-07.example.net".into(),
            pid: Some(2211),
            started_at: Some(at("2026-11-20T08:13:38Z")),
            rss_bytes: Some(12_373_197),
            open_fds: Some(41),
            threads: Some(9),
            down_reason: None,
            unit: None,
        },
        session: registered(),
        commands: Some(CommandsSection {
            in_flight: 1,
            done: 18_204,
            failed: 3,
            unsupported: 0,
            p50_ms: Some(14.2),
            p99_ms: Some(1_910.0),
            by_name: [("StartCommand".to_owned(), CommandCount { done: 12, failed: 1, p99_ms: Some(812.5) })]
                .into(),
        }),
        libvirt: Some(LibvirtSection {
            uri: "qemu:///system".into(),
            connected: true,
            libvirt_version: Some("8.0.0".into()),
            qemu_version: Some("6.2.0".into()),
            domains_running: Some(12),
            domains_paused: Some(0),
        }),
        machine: Some(MachineSection {
            cpus: Some(32),
            cpu_mhz: Some(2_900),
            memory_bytes: Some(270_046_082_662),
            reserved_bytes: Some(1 << 30),
        }),
        storage: pools(),
        certificate: Some(CertificateSection {
            subject: "CN=kvm-07.example.net".into(),
            issuer: "cloudstack".into(),
            not_after: at("2027-08-01T18:00:00Z"),
            days_left: 251,
        }),
        orphans: None,
        checks: Vec::new(),
    };
    status.checks = health::derive(&status, now());
    status.verdict = status.judge();
    status
}

fn registered() -> SessionSection {
    SessionSection {
        server: Some("10.0.0.5:8250".into()),
        servers: vec![server("10.0.0.5:8250", None), server("10.0.0.6:8250", None)],
        preferred: Some(true),
        tls: Some(TlsSection { version: "TLSv1.2".into(), cipher: "ECDHE-RSA-AES256-GCM-SHA384".into() }),
        host_id: Some(7),
        guid: Some("1c2c4a9e-0b53-3f0e-8a4b-6f1d2e3c4b5a-LibvirtComputingResource".into()),
        zone: Some("1".into()),
        pod: Some("1".into()),
        cluster: Some("1".into()),
        ping_interval_s: Some(60),
        last_ping_at: Some(ago(3)),
        last_reply_at: Some(ago(3)),
        missed_pings: Some(0),
        connects: Some(4),
        reregisters: Some(1),
        registrations: Some(3),
        ends: [("lost".to_owned(), 2), ("reregister_asked".to_owned(), 1)].into(),
        last_disconnect_at: Some(at("2026-11-20T08:13:40Z")),
        last_disconnect_reason: Some("peer closed".into()),
        ..SessionSection::new(SessionState::Registered, at("2026-11-20T08:14:03Z"))
    }
}

fn server(addr: &str, last_error: Option<&str>) -> ServerSection {
    ServerSection { addr: addr.into(), last_error: last_error.map(Into::into), last_ok_at: None }
}

fn pools() -> Vec<PoolSection> {
    vec![
        PoolSection {
            uuid: "3f0c2d1e-aaaa-4bbb-8ccc-1234567890ab".into(),
            kind: "local".into(),
            path: "/var/lib/libvirt/images".into(),
            total_bytes: Some(1_979_120_929_996),
            used_bytes: Some(412 << 30),
            heartbeat_at: None,
        },
        PoolSection {
            uuid: "9a71bc00-1234-4abc-8def-0123456789ab".into(),
            kind: "nfs".into(),
            path: "/mnt/9a71bc00-1234-4abc-8def-0123456789ab".into(),
            total_bytes: Some(20 << 40),
            used_bytes: Some(6_816_972_092_211),
            heartbeat_at: Some(ago(4)),
        },
    ]
}

/// Registered again after several sessions, one of two servers, certificate not verified.
pub fn resets() -> Status {
    let mut status = healthy();
    status.session.server = Some("10.0.0.6:8250".into());
    status.session.preferred = Some(false);
    status.session.since = ago(95);
    status.session.last_disconnect_at = Some(ago(120));
    status.session.session_number = Some(5);
    status.session.resets = Some(4);
    status.session.forgotten_at = Some(ago(120));
    status.session.forgotten = Some("host id 7, 2 queued commands".into());
    status.session.unverified_tls = true;
    status.certificate = None;
    status.orphans = Some(OrphansSection { count: 2, bytes: 1_288_490_189, looked_at: ago(400) });
    status.checks = health::derive(&status, now());
    status.verdict = status.judge();
    status
}

/// Two servers, both unreachable, for different reasons.
pub fn backoff() -> Status {
    let mut status = healthy();
    status.session = SessionSection {
        servers: vec![
            server("10.0.0.5:8250", Some("connection refused (os error 111)")),
            server("10.0.0.6:8250", Some("TLS alert: bad certificate")),
        ],
        server: None,
        tls: None,
        preferred: None,
        host_id: None,
        state: SessionState::Backoff,
        since: ago(252),
        attempt: Some(9),
        next_attempt_at: Some(now().plus(Duration::from_secs(17))),
        last_error: Some("connection refused by 10.0.0.5:8250".into()),
        last_ping_at: Some(ago(270)),
        last_reply_at: Some(ago(270)),
        ..registered()
    };
    status.storage.truncate(1);
    status.checks = vec![
        Check::fail(
            "control-plane",
            "no management server reachable for 4m12s",
            "check that 8250/tcp is open: cloudstack-agent check net",
        ),
        Check::warn(
            "certificate",
            "rejected by 10.0.0.6: issued by another CA",
            "re-provision from the management server (provisionCertificate) or re-add the host",
        ),
        Check {
            remedy: None,
            ..Check::warn("nfs heartbeat", "9a71... last written 71s ago (limit 60s)", "")
        },
    ];
    status.verdict = status.judge();
    status
}

/// The server takes the registration and closes: the reason is its own sentence.
pub fn closed_by_server() -> Status {
    let mut status = backoff();
    let session = &mut status.session;
    session.servers = vec![server("10.0.0.5:8250", Some("closed 210ms after registering"))];
    session.last_error = Some("10.0.0.5:8250 closed the connection before ReadyCommand".into());
    session.server_message = Some("Can't add host: zone 1 has no pod named Pod-2".into());
    session.remedy = Some("read the management server's log around 12:25:43".into());
    session.waiting_for = Some("the next attempt; guests keep running".into());
    session.session_number = Some(12);
    session.resets = Some(12);
    session.parked = true;
    session.next_attempt_at = Some(now().plus(Duration::from_secs(600)));
    status.checks = health::derive(&status, now());
    status.verdict = status.judge();
    status
}

/// Just started: nothing but the process is known.
pub fn starting() -> Status {
    let mut status = healthy();
    status.agent.started_at = Some(ago(2));
    status.session = SessionSection {
        server: Some("10.0.0.5:8250".into()),
        servers: vec![server("10.0.0.5:8250", None), server("10.0.0.6:8250", None)],
        attempt: Some(1),
        ..SessionSection::new(SessionState::Connecting, ago(1))
    };
    status.commands = None;
    status.libvirt = None;
    status.machine = None;
    status.storage.clear();
    status.certificate = None;
    status.checks = health::derive(&status, now());
    status.verdict = status.judge();
    status
}

/// The agent failed; its last snapshot is shown.
pub fn dead_with_snapshot() -> Status {
    let mut status = healthy();
    status.source = Source::Snapshot;
    status.taken_at = at("2026-11-23T08:31:02Z");
    status.session.last_ping_at = Some(at("2026-11-23T08:30:40Z"));
    status.session.last_reply_at = status.session.last_ping_at;
    status.storage.truncate(1);
    status.agent.down_reason = Some("no socket at /run/cloudstack-agent/agent.sock".into());
    status.agent.unit =
        Some(UnitSection { active_state: "failed".into(), since: Some(ago(131)), exit_status: Some(66) });
    let remedy = "systemctl start cloudstack-agent; why it stopped: journalctl -u cloudstack-agent -n 50";
    status.checks.insert(0, Check::fail(AGENT_CHECK, "not running: unit failed 2m11s ago, exit 66", remedy));
    status.verdict = status.judge();
    status
}

/// The agent holds its socket but does not answer.
pub fn hung_with_snapshot() -> Status {
    let mut status = dead_with_snapshot();
    let reason = "/run/cloudstack-agent/agent.sock did not answer within 1.8 s";
    status.agent.down_reason = Some(reason.into());
    status.agent.unit = Some(UnitSection { active_state: "active".into(), since: None, exit_status: None });
    status.checks[0] =
        Check { result: CheckResult::Timeout, summary: reason.into(), ..status.checks[0].clone() };
    status.verdict = status.judge();
    status
}

/// Nothing there but what the reader finds itself.
pub fn static_only() -> Status {
    let reason = "no socket at /run/cloudstack-agent/agent.sock";
    let mut status = Status {
        verdict: Verdict::Unknown,
        source: Source::Static,
        agent: AgentSection {
            pid: None,
            started_at: None,
            rss_bytes: None,
            open_fds: None,
            threads: None,
            down_reason: Some(reason.into()),
            ..healthy().agent
        },
        session: SessionSection::new(SessionState::Stopped, now()),
        commands: None,
        libvirt: None,
        machine: None,
        storage: Vec::new(),
        certificate: None,
        checks: vec![
            Check::fail(AGENT_CHECK, reason, "systemctl start cloudstack-agent"),
            Check::ok("config", "/etc/cloudstack/agent/agent.properties: 2 servers"),
            Check::ok("kvm", "/dev/kvm is there"),
            Check::skip("runtime", "/run/cloudstack-agent does not exist; starting the agent creates it"),
            Check::timeout(
                "net:10.0.0.5:8250",
                "10.0.0.5:8250 does not answer",
                "check that 8250/tcp is open between this host and 10.0.0.5",
            ),
            Check::warn("time", "no sign of clock synchronisation", "apt install chrony"),
        ],
        ..healthy()
    };
    status.verdict = status.judge();
    status
}
