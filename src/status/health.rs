//! Checks that follow from the sections themselves: whether the host is registered, its heartbeat
//! fresh, libvirt connected, the certificate valid. Pure: the same document gives the same checks.
//!
//! An owner that publishes a check with the same id (it knows more) replaces the one made here.

use std::time::Duration;

use super::PROGRAM;
use super::checks::Check;
use super::human;
use super::probes;
use super::snapshot::{SessionSection, SessionState, Status};
use super::timestamp::Timestamp;

/// Age from which on a heartbeat is late. The Java agent writes one every 60 s
/// (mirrors `kvm.heartbeat.update.frequency`).
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);

/// The checks that the sections of `status` imply at `now`.
pub fn derive(status: &Status, now: Timestamp) -> Vec<Check> {
    let mut checks = vec![control_plane(&status.session, now)];
    if status.session.unverified_tls {
        checks.push(Check::warn(
            "tls",
            "the server's certificate is not verified: this host was never provisioned",
            "provision it from the management server (provisionCertificate)",
        ));
    }
    if let Some(libvirt) = &status.libvirt {
        checks.push(if libvirt.connected {
            Check::ok("libvirt", format!("connected to {}", human::clean(&libvirt.uri)))
        } else {
            Check::fail(
                "libvirt",
                format!("not connected to {}", human::clean(&libvirt.uri)),
                "systemctl status libvirtd; the agent reconnects by itself",
            )
        });
    }
    if let Some(certificate) = &status.certificate {
        let days = probes::days_left(certificate.not_after, now);
        checks.push(probes::expiry(&certificate.subject, certificate.not_after, days));
    }
    for pool in &status.storage {
        let Some(written) = pool.heartbeat_at else { continue };
        let id = format!("heartbeat:{}", human::short_uuids(&pool.uuid));
        let age = now.since(written);
        checks.push(if age > HEARTBEAT_LIMIT {
            let limit = HEARTBEAT_LIMIT.as_secs();
            let summary = format!("last written {} ago (limit {limit}s)", human::duration(age));
            Check::warn(id, summary, format!("check that {} is reachable and writable", pool.path))
        } else {
            Check::ok(id, format!("written {} ago", human::duration(age)))
        });
    }
    checks
}

fn control_plane(session: &SessionSection, now: Timestamp) -> Check {
    const ID: &str = "control-plane";
    let age = human::duration(now.since(session.since));
    let server = session.server.as_deref().map(human::clean);
    let remedy = || match &session.remedy {
        Some(remedy) => human::clean(remedy),
        None => format!("see whether the server can be reached: {PROGRAM} check net"),
    };
    match session.state {
        SessionState::Registered => {
            let server = server.as_deref().unwrap_or("the management server");
            Check::ok(ID, format!("registered with {server} for {age}"))
        }
        SessionState::Draining => {
            Check::warn(ID, format!("draining for {age}: no new commands are taken"), "wait for it to end")
        }
        SessionState::Stopped => {
            Check::fail(ID, format!("the session is stopped for {age}"), "systemctl restart cloudstack-agent")
        }
        SessionState::Idle | SessionState::Connecting | SessionState::Tls | SessionState::Registering
            if session.last_error.is_none() =>
        {
            Check::warn(ID, format!("not registered yet ({} for {age})", session.state.word()), remedy())
        }
        SessionState::Idle
        | SessionState::Connecting
        | SessionState::Tls
        | SessionState::Registering
        | SessionState::Backoff => {
            let cause = session
                .last_error
                .as_deref()
                .map_or_else(|| "no error was recorded".to_owned(), human::clean);
            Check::fail(ID, format!("not registered for {age}: {cause}"), remedy())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::CheckResult;
    use super::super::fixtures;
    use super::*;

    fn result_of(status: &Status, id: &str) -> Option<CheckResult> {
        let now = fixtures::now();
        derive(status, now).into_iter().find(|check| check.id == id).map(|check| check.result)
    }

    #[test]
    fn a_healthy_document_implies_only_good_checks() {
        let checks = derive(&fixtures::healthy(), fixtures::now());
        assert!(checks.len() >= 4);
        assert!(checks.iter().all(|check| check.result == CheckResult::Ok), "{checks:?}");
    }

    #[test]
    fn each_section_can_spoil_it() {
        let mut status = fixtures::healthy();
        status.session.state = SessionState::Backoff;
        status.session.unverified_tls = true;
        if let Some(libvirt) = &mut status.libvirt {
            libvirt.connected = false;
        }
        if let Some(certificate) = &mut status.certificate {
            certificate.not_after = fixtures::now().minus(Duration::from_secs(60));
        }
        for pool in &mut status.storage {
            pool.heartbeat_at = Some(fixtures::now().minus(Duration::from_secs(71)));
        }
        assert_eq!(result_of(&status, "control-plane"), Some(CheckResult::Fail));
        assert_eq!(result_of(&status, "tls"), Some(CheckResult::Warn));
        assert_eq!(result_of(&status, "libvirt"), Some(CheckResult::Fail));
        assert_eq!(result_of(&status, "certificate"), Some(CheckResult::Fail));
        assert_eq!(result_of(&status, "heartbeat:9a71..."), Some(CheckResult::Warn));
    }

    #[test]
    fn the_first_attempt_is_not_yet_a_failure() {
        let mut status = fixtures::healthy();
        status.session.state = SessionState::Connecting;
        assert_eq!(result_of(&status, "control-plane"), Some(CheckResult::Warn));
        status.session.last_error = Some("connection refused".into());
        assert_eq!(result_of(&status, "control-plane"), Some(CheckResult::Fail));
    }
}
