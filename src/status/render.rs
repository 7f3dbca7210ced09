//! The status document as text. Pure: the same document, time and style give the same bytes.
//!
//! Everything that came over the network or from a file passes through [`human::clean`] before it
//! reaches the terminal. Times are UTC.

use std::fmt::Write;

use super::checks::{Check, CheckResult};
use super::human::{self, clean, count};
use super::sections;
use super::snapshot::{SessionState, Source, Status, Verdict};
use super::timestamp::Timestamp;
use super::unit;

/// How text may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub color: Color,
}

/// Whether words may carry terminal colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    Never,
    Ansi,
}

/// Which checks a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Every check.
    All,
    /// Those that ask for something to be done.
    Problems,
}

impl Style {
    /// No colours.
    pub const PLAIN: Style = Style { color: Color::Never };

    fn paint(self, code: &str, text: &str) -> String {
        match self.color {
            Color::Never => text.to_owned(),
            Color::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }

    fn verdict(self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Ok => self.paint("32", "OK"),
            Verdict::Warn => self.paint("33", "WARN"),
            Verdict::Fail => self.paint("31", "FAIL"),
            Verdict::Unknown => self.paint("33", "UNKNOWN"),
        }
    }

    pub(super) fn state(self, state: SessionState) -> String {
        let code = match state {
            SessionState::Registered => "32",
            SessionState::Backoff | SessionState::Stopped => "31",
            SessionState::Idle
            | SessionState::Connecting
            | SessionState::Tls
            | SessionState::Registering
            | SessionState::Draining => "33",
        };
        self.paint(code, &state.word().to_uppercase())
    }
}

/// The whole page, as `agent --status` prints it, with a newline at the end.
pub fn text(status: &Status, now: Timestamp, style: Style) -> String {
    let mut page = String::new();
    if let Some(line) = absence(status, now) {
        let _ = writeln!(page, "{}\n", style.paint("1", &line));
    }
    // A snapshot's ages are as of the snapshot: "last ping 3s ago" of a dead agent helps nobody.
    let then = if status.source == Source::Snapshot { status.taken_at } else { now };
    let _ = writeln!(page, "{}\n", header(status, then));
    if status.source != Source::Static {
        sections::write(&mut page, status, then, style);
        page.push('\n');
    }
    let shown = if status.source == Source::Static { Shown::All } else { Shown::Problems };
    let list = checks(&status.checks, shown, style);
    if !list.is_empty() {
        let _ = writeln!(page, "{list}");
    }
    let _ = writeln!(page, "{}", conclusion(status, style));
    page
}

/// One line for `STATUS=` of the service manager. Times are absolute: the line stands until the
/// next change.
pub fn one_line(status: &Status) -> String {
    let session = &status.session;
    let server = session.server.as_deref().unwrap_or("the management server");
    let line = match session.state {
        SessionState::Registered => {
            let mut line = "Registered".to_owned();
            if let Some(id) = session.host_id {
                let _ = write!(line, " id={id}");
            }
            let _ = write!(line, " with {server}");
            if let (Some(zone), Some(pod), Some(cluster)) = (&session.zone, &session.pod, &session.cluster) {
                let _ = write!(line, " (zone {zone} pod {pod} cluster {cluster})");
            }
            if let Some(running) = status.libvirt.as_ref().and_then(|libvirt| libvirt.domains_running) {
                let _ = write!(line, ", {}", count(running, "VM"));
            }
            line
        }
        SessionState::Backoff => {
            let mut line = if session.parked { "Parked".to_owned() } else { "Backing off".to_owned() };
            if let Some(next) = session.next_attempt_at {
                let _ = write!(line, " until {} UTC", next.clock());
            }
            if let Some(attempt) = session.attempt {
                let _ = write!(line, " (attempt {attempt})");
            }
            let _ = write!(line, ": {}", session.last_error.as_deref().unwrap_or("no error was recorded"));
            line
        }
        SessionState::Idle => {
            session.waiting_for.as_deref().map_or("Starting".to_owned(), |what| format!("Waiting for {what}"))
        }
        SessionState::Connecting => format!("Connecting to {server}"),
        SessionState::Tls => format!("TLS handshake with {server}"),
        SessionState::Registering => format!("Registering with {server}"),
        SessionState::Draining => "Draining: no new commands are taken".to_owned(),
        SessionState::Stopped => "Stopped".to_owned(),
    };
    clean(&line)
}

/// A list of checks, one fact per line, each problem followed by its remedy. Failures first.
pub fn checks(checks: &[Check], shown: Shown, style: Style) -> String {
    let mut list: Vec<&Check> = checks.iter().filter(|check| wanted(check, shown)).collect();
    if shown == Shown::Problems {
        list.sort_by_key(|check| rank(check.result));
    }
    let names: Vec<String> = list.iter().map(|check| clean(&human::short_uuids(&check.id))).collect();
    let id_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let word_width = list.iter().map(|check| word(check.result).len()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    for (check, name) in list.iter().zip(&names) {
        let word = word(check.result);
        let pad = " ".repeat(word_width - word.len());
        let word = style.paint(code(check.result), word);
        let _ = writeln!(text, "{word}{pad}  {name:<id_width$}  {}", clean(&check.summary));
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "      -> {}", clean(remedy));
        }
    }
    text
}

/// `1 failure, 2 warnings`; a check without an answer counts as a warning.
pub fn tally(checks: &[Check]) -> String {
    let of = |result| checks.iter().filter(|check| check.result == result).count() as u64;
    let failures = of(CheckResult::Fail);
    let warnings = of(CheckResult::Warn) + of(CheckResult::Timeout);
    match (failures, warnings) {
        (0, 0) => "0 problems".to_owned(),
        (0, warnings) => count(warnings, "warning"),
        (failures, 0) => count(failures, "failure"),
        (failures, warnings) => format!("{}, {}", count(failures, "failure"), count(warnings, "warning")),
    }
}

/// The last line of a list of checks that stands alone (`agent check`).
pub fn checks_conclusion(checks: &[Check], verdict: Verdict, style: Style) -> String {
    format!("{}: {}, {}", style.verdict(verdict), count(checks.len() as u64, "check"), tally(checks))
}

fn wanted(check: &Check, shown: Shown) -> bool {
    match (shown, check.result) {
        (Shown::All, _) => true,
        (Shown::Problems, CheckResult::Ok) => false,
        (Shown::Problems, CheckResult::Skip) => check.remedy.is_some(),
        (Shown::Problems, CheckResult::Fail | CheckResult::Warn | CheckResult::Timeout) => true,
    }
}

fn rank(result: CheckResult) -> u8 {
    match result {
        CheckResult::Fail => 0,
        CheckResult::Timeout => 1,
        CheckResult::Warn => 2,
        CheckResult::Skip => 3,
        CheckResult::Ok => 4,
    }
}

fn word(result: CheckResult) -> &'static str {
    match result {
        CheckResult::Ok => "OK",
        CheckResult::Warn => "WARN",
        CheckResult::Fail => "FAIL",
        CheckResult::Skip => "SKIP",
        CheckResult::Timeout => "TIMEOUT",
    }
}

fn code(result: CheckResult) -> &'static str {
    match result {
        CheckResult::Ok => "32",
        CheckResult::Warn | CheckResult::Timeout => "33",
        CheckResult::Fail => "31",
        CheckResult::Skip => "2",
    }
}

/// The first line when the agent did not answer.
fn absence(status: &Status, now: Timestamp) -> Option<String> {
    let instead = match status.source {
        Source::Live => return None,
        Source::Snapshot => format!("showing snapshot of {}", status.taken_at.relative_to(now)),
        Source::Static => "no snapshot, static checks only".to_owned(),
    };
    let what = match status.verdict {
        Verdict::Unknown => "agent does not answer",
        Verdict::Ok | Verdict::Warn | Verdict::Fail => "agent not running",
    };
    let unit = status.agent.unit.as_ref().map(|unit| unit::phrase(unit, now));
    // A unit that is "active" explains nothing; the socket's error does.
    let reason = match status.verdict {
        Verdict::Unknown => status.agent.down_reason.clone(),
        Verdict::Ok | Verdict::Warn | Verdict::Fail => unit.or_else(|| status.agent.down_reason.clone()),
    };
    let reason = reason.map(|reason| format!(" ({})", clean(&reason))).unwrap_or_default();
    Some(format!("{what}{reason}: {instead}"))
}

fn header(status: &Status, now: Timestamp) -> String {
    let agent = &status.agent;
    let mut line = format!("cloudstack-agent {} (speaks {})", agent.version, agent.wire_version);
    let _ = write!(line, "   {}", agent.hostname);
    if let Some(started) = agent.started_at {
        let _ = write!(line, "   up {}", human::uptime(now.since(started)));
    }
    clean(&line)
}

fn conclusion(status: &Status, style: Style) -> String {
    let verdict = style.verdict(status.verdict);
    let tally = tally(&status.checks);
    let registered = status.session.state == SessionState::Registered;
    match (status.source, status.verdict) {
        (Source::Snapshot | Source::Static, Verdict::Unknown) => {
            format!("{verdict}: the agent does not answer, {tally}")
        }
        (Source::Snapshot | Source::Static, _) => format!("{verdict}: agent not running, {tally}"),
        (Source::Live, _) if registered && status.verdict != Verdict::Fail => {
            format!("{verdict}: registered, {tally}")
        }
        (Source::Live, _) if registered || status.checks.iter().any(|c| c.result == CheckResult::Fail) => {
            format!("{verdict}: {tally}")
        }
        (Source::Live, _) => format!("{verdict}: not registered, {tally}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::fixtures;
    use super::*;

    /// Compares with `tests/data/status/<name>.txt`; `UPDATE_GOLDEN=1` rewrites the file instead.
    fn golden(name: &str, page: &str) {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/status").join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, page).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap();
        assert!(page == wanted, "{name} differs; rendered:\n{page}");
    }

    #[test]
    fn pages_are_as_recorded() {
        for (name, status) in [
            ("healthy", fixtures::healthy()),
            ("resets", fixtures::resets()),
            ("backoff", fixtures::backoff()),
            ("closed-by-server", fixtures::closed_by_server()),
            ("starting", fixtures::starting()),
            ("dead-with-snapshot", fixtures::dead_with_snapshot()),
            ("hung-with-snapshot", fixtures::hung_with_snapshot()),
            ("static-only", fixtures::static_only()),
        ] {
            golden(name, &text(&status, fixtures::now(), Style::PLAIN));
        }
    }

    #[test]
    fn colours_change_no_words() {
        let style = Style { color: Color::Ansi };
        let painted = text(&fixtures::backoff(), fixtures::now(), style);
        assert!(painted.contains("\u{1b}[31mBACKOFF\u{1b}[0m"));
        let mut plain = painted;
        for code in ["0", "1", "2", "31", "32", "33"] {
            plain = plain.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_eq!(plain, text(&fixtures::backoff(), fixtures::now(), Style::PLAIN));
    }

    #[test]
    fn a_hostile_server_cannot_write_to_the_terminal() {
        let mut status = fixtures::backoff();
        let attack = "\u{1b}]0;owned\u{7}\r\nOK: registered, 0 problems".to_owned();
        status.session.server_message = Some(attack.clone());
        status.session.last_error = Some(attack.clone());
        status.session.servers[0].last_error = Some(attack.clone());
        status.checks = vec![Check::fail("x", attack.clone(), attack.clone())];
        let page = text(&status, fixtures::now(), Style::PLAIN);
        assert!(!page.contains(['\u{1b}', '\u{7}', '\r']));
        assert!(!page.lines().any(|line| line.starts_with("OK:")));
        assert!(!one_line(&status).contains('\n'));
    }

    #[test]
    fn the_unit_status_is_one_telling_line() {
        assert_eq!(
            one_line(&fixtures::healthy()),
            "Registered id=7 with 10.0.0.5:8250 (zone 1 pod 1 cluster 1), 12 VMs"
        );
        assert_eq!(
            one_line(&fixtures::backoff()),
            "Backing off until 12:26:17 UTC (attempt 9): connection refused by 10.0.0.5:8250"
        );
    }
}
