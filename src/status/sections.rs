//! The labelled rows of the status page, one section of the document each. Part of
//! [`super::render`]: pure, and every row is cleaned before it is written.

use std::fmt::Write;

use super::human::{self, clean, count};
use super::render::Style;
use super::snapshot::{
    CertificateSection, CommandsSection, LibvirtSection, MachineSection, PoolSection, SessionSection,
    SessionState, Status,
};
use super::timestamp::Timestamp;

const UNKNOWN: &str = "not known yet";

/// One labelled line; `text` is cleaned.
fn row(page: &mut String, label: &str, text: &str) {
    let _ = writeln!(page, "  {label:<13}{}", clean(text));
}

/// Appends every section of `status` to `page`; ages are as of `now`.
pub(super) fn write(page: &mut String, status: &Status, now: Timestamp, style: Style) {
    let session = &status.session;
    let _ = writeln!(page, "  {:<13}{}", "state", state(session, now, style));
    for (index, line) in management(session).iter().enumerate() {
        row(page, if index == 0 { "management" } else { "" }, line);
    }
    if session.state != SessionState::Registered {
        troubles(page, session);
    }
    row(page, "identity", &identity(session));
    row(page, "ping", &ping(session, now));
    row(page, "session", &history(session, now));
    if let Some(line) = resets(session, now) {
        row(page, "", &line);
    }
    row(page, "commands", &status.commands.as_ref().map_or_else(|| UNKNOWN.into(), commands));
    row(page, "libvirt", &status.libvirt.as_ref().map_or_else(|| UNKNOWN.into(), libvirt));
    row(page, "machine", &machine(status.machine.as_ref(), status.libvirt.as_ref()));
    let pools = pools(&status.storage, now);
    for (index, line) in pools.iter().enumerate() {
        row(page, if index == 0 { "storage" } else { "" }, line);
    }
    let certificate = status.certificate.as_ref().map(|found| certificate(found, session));
    row(page, "certificate", &certificate.unwrap_or_else(|| "none: not provisioned".into()));
    if let Some(found) = status.orphans.as_ref().filter(|found| found.count > 0) {
        let things = count(found.count, "thing");
        row(
            page,
            "orphans",
            &format!("{things}, {}   agent orphans lists them", human::bytes_exact(found.bytes)),
        );
    }
    row(page, "process", &process(status));
}

fn state(session: &SessionSection, now: Timestamp, style: Style) -> String {
    let age = human::duration(now.since(session.since));
    let mut line =
        format!("{}  since {} ({age})", style.state(session.state), session.since.relative_to(now));
    let mut more = Vec::new();
    if session.parked {
        more.push("parked".to_owned());
    }
    if session.state != SessionState::Registered {
        more.extend(session.attempt.map(|attempt| format!("attempt {attempt}")));
    }
    match session.next_attempt_at {
        Some(next) if next > now => more.push(format!("next try in {}", human::duration(next.since(now)))),
        Some(_) if session.state == SessionState::Backoff => more.push("next try now".to_owned()),
        _ => {}
    }
    if !more.is_empty() {
        let _ = write!(line, "   {}", more.join(", "));
    }
    line
}

/// The connected server on one line, or every server with what went wrong there.
fn management(session: &SessionSection) -> Vec<String> {
    if let (SessionState::Registered | SessionState::Draining, Some(server)) =
        (session.state, &session.server)
    {
        let mut line = server.clone();
        if let Some(tls) = &session.tls {
            let _ = write!(line, "  {} {}", tls.version, tls.cipher);
        }
        if session.unverified_tls {
            line.push_str(", certificate NOT verified");
        }
        if let Some(place) = session.servers.iter().position(|known| known.addr == *server) {
            let total = session.servers.len() as u64;
            let _ = write!(line, "   {} of {}", place + 1, count(total, "host"));
            line.push_str(match session.preferred {
                Some(true) => ", preferred",
                Some(false) => ", not preferred",
                None => "",
            });
        }
        return vec![line];
    }
    let busy = match session.state {
        SessionState::Connecting | SessionState::Tls | SessionState::Registering => session.server.as_deref(),
        _ => None,
    };
    let width = session.servers.iter().map(|server| server.addr.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<String> = session
        .servers
        .iter()
        .map(|server| {
            let now = (busy == Some(server.addr.as_str())).then(|| session.state.word());
            let fate = now.or(server.last_error.as_deref()).unwrap_or("not tried yet");
            format!("{:<width$}  {fate}", server.addr)
        })
        .collect();
    if lines.is_empty() {
        lines.push(session.server.clone().unwrap_or_else(|| "no server known".into()));
    }
    lines
}

/// Why the host is not registered, in words: ours and the server's.
fn troubles(page: &mut String, session: &SessionSection) {
    if let Some(error) = &session.last_error {
        row(page, "last error", error);
    }
    if let Some(message) = &session.server_message {
        row(page, "server says", &format!("\"{}\"", clean(message)));
    }
    if let Some(waiting) = &session.waiting_for {
        row(page, "waiting for", waiting);
    }
}

fn identity(session: &SessionSection) -> String {
    let mut parts = Vec::new();
    parts.extend(session.host_id.map(|id| format!("host id {id}")));
    parts.extend(session.guid.as_ref().map(|guid| format!("guid {}", human::short_uuids(guid))));
    let places = [("zone", &session.zone), ("pod", &session.pod), ("cluster", &session.cluster)];
    let places: Vec<String> = places
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value}")))
        .collect();
    if !places.is_empty() {
        parts.push(places.join("  "));
    }
    if parts.is_empty() { UNKNOWN.into() } else { parts.join("   ") }
}

fn ping(session: &SessionSection, now: Timestamp) -> String {
    let ago = |time: Option<Timestamp>| {
        time.map_or_else(|| "never".to_owned(), |time| format!("{} ago", human::duration(now.since(time))))
    };
    if session.last_ping_at.is_none() && session.last_reply_at.is_none() {
        return "none sent yet".into();
    }
    let mut line =
        format!("last sent {}, last reply {}", ago(session.last_ping_at), ago(session.last_reply_at));
    if let Some(interval) = session.ping_interval_s {
        let _ = write!(line, ", every {interval}s");
    }
    if let Some(missed) = session.missed_pings {
        let _ = write!(line, ", {missed} missed");
    }
    line
}

fn history(session: &SessionSection, now: Timestamp) -> String {
    let mut parts = Vec::new();
    parts.extend(session.connects.map(|n| format!("connects {}", human::grouped(n))));
    parts.extend(session.reregisters.map(|n| format!("re-registers {}", human::grouped(n))));
    if let Some(time) = session.last_disconnect_at {
        let reason = session.last_disconnect_reason.as_deref().unwrap_or("");
        parts.push(format!("last disconnect {} {reason}", time.relative_to(now)).trim_end().to_owned());
    }
    if parts.is_empty() { UNKNOWN.into() } else { parts.join("   ") }
}

/// Proof that nothing is carried over: how often all session state was dropped, and what it was.
fn resets(session: &SessionSection, now: Timestamp) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(session.session_number.map(|n| format!("number {}", human::grouped(n))));
    parts.extend(session.resets.map(|n| format!("resets {}", human::grouped(n))));
    if let Some(time) = session.forgotten_at {
        let what = session.forgotten.as_deref().map(|what| format!(": {what}")).unwrap_or_default();
        parts.push(format!("forgot at {}{what}", time.relative_to(now)));
    }
    (!parts.is_empty()).then(|| parts.join("   "))
}

fn commands(commands: &CommandsSection) -> String {
    let mut line = format!(
        "in flight {}   done {}   failed {}   unsupported {}",
        human::grouped(commands.in_flight),
        human::grouped(commands.done),
        human::grouped(commands.failed),
        human::grouped(commands.unsupported),
    );
    if let (Some(p50), Some(p99)) = (commands.p50_ms, commands.p99_ms) {
        let _ = write!(line, "   p50 {}  p99 {}", human::latency(p50), human::latency(p99));
    }
    line
}

fn libvirt(libvirt: &LibvirtSection) -> String {
    let mut line = libvirt.uri.clone();
    if let Some(version) = &libvirt.libvirt_version {
        let _ = write!(line, "  libvirt {version}");
    }
    if let Some(version) = &libvirt.qemu_version {
        let _ = write!(line, "  qemu {version}");
    }
    line.push_str(if libvirt.connected { "   connected" } else { "   NOT connected" });
    line
}

fn machine(machine: Option<&MachineSection>, libvirt: Option<&LibvirtSection>) -> String {
    let mut parts = Vec::new();
    if let Some(machine) = machine {
        if let Some(cpus) = machine.cpus {
            let speed = machine.cpu_mhz.map(|mhz| format!(" x {:.1} GHz", mhz as f64 / 1000.0));
            parts.push(format!("{cpus} cpu{}", speed.unwrap_or_default()));
        }
        if let Some(memory) = machine.memory_bytes {
            let reserved =
                machine.reserved_bytes.map(|bytes| format!(" ({} reserved)", human::bytes_exact(bytes)));
            parts.push(format!("{}{}", human::bytes_exact(memory), reserved.unwrap_or_default()));
        }
    }
    if let Some(running) = libvirt.and_then(|libvirt| libvirt.domains_running) {
        let paused = libvirt.and_then(|libvirt| libvirt.domains_paused);
        let paused = paused.map(|paused| format!(", {paused} paused")).unwrap_or_default();
        parts.push(format!("{} running{paused}", count(running, "VM")));
    }
    if parts.is_empty() { UNKNOWN.into() } else { parts.join("   ") }
}

fn pools(pools: &[PoolSection], now: Timestamp) -> Vec<String> {
    let paths: Vec<String> = pools.iter().map(|pool| human::short_uuids(&pool.path)).collect();
    let path_width = paths.iter().map(|path| path.chars().count()).max().unwrap_or(0);
    let kind_width = pools.iter().map(|pool| pool.kind.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<String> = pools
        .iter()
        .zip(paths)
        .map(|(pool, path)| {
            let uuid = human::short_uuids(&pool.uuid);
            let usage = match (pool.used_bytes, pool.total_bytes) {
                (Some(used), Some(total)) => {
                    format!("{} of {} used", human::bytes(used), human::bytes(total))
                }
                _ => "size not known".into(),
            };
            let heartbeat = pool.heartbeat_at.map(|time| human::duration(now.since(time)));
            let heartbeat = heartbeat.map(|age| format!("   heartbeat {age} ago")).unwrap_or_default();
            format!("{:<kind_width$} {uuid}  {path:<path_width$}  {usage}{heartbeat}", pool.kind)
        })
        .collect();
    if lines.is_empty() {
        lines.push("no pool attached".into());
    }
    lines
}

fn certificate(certificate: &CertificateSection, session: &SessionSection) -> String {
    let trust = match (session.unverified_tls, certificate.days_left < 0) {
        (_, true) => "EXPIRED",
        (true, false) => "not verified",
        (false, false) => "ok",
    };
    let date = certificate.not_after.date();
    let (subject, issuer) = (&certificate.subject, &certificate.issuer);
    format!("{subject}  expires {date} ({} d)   CA \"{issuer}\" {trust}", certificate.days_left)
}

fn process(status: &Status) -> String {
    let agent = &status.agent;
    let mut parts = Vec::new();
    parts.extend(agent.pid.map(|pid| format!("pid {pid}")));
    parts.extend(agent.rss_bytes.map(|rss| format!("rss {}", human::bytes_exact(rss))));
    parts.extend(agent.open_fds.map(|fds| format!("fds {fds}")));
    parts.extend(agent.threads.map(|threads| format!("threads {threads}")));
    if parts.is_empty() { UNKNOWN.into() } else { parts.join("   ") }
}
