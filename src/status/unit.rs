//! What systemd says about the agent's unit, for when the agent itself does not answer.
//!
//! Only the reading of the answer is here; the caller runs `systemctl` with [`SHOW_ARGS`].

use std::time::Duration;

use super::human;
use super::snapshot::UnitSection;
use super::timestamp::Timestamp;

/// Arguments of `systemctl` whose output [`parse`] reads. Monotonic times, because the textual ones
/// follow the locale of the caller.
pub const SHOW_ARGS: [&str; 7] = [
    "show",
    "cloudstack-agent.service",
    "--property=LoadState",
    "--property=ActiveState",
    "--property=StateChangeTimestampMonotonic",
    "--property=ExecMainStatus",
    "--property=ExecMainCode",
];

/// Reads `systemctl show`. `uptime` is the first number of `/proc/uptime`. `None` when there is no
/// such unit.
pub fn parse(output: &str, uptime: Duration, now: Timestamp) -> Option<UnitSection> {
    let value =
        |key: &str| output.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::trim);
    if value("LoadState") != Some("loaded") {
        return None;
    }
    let changed = value("StateChangeTimestampMonotonic").and_then(|text| text.parse::<u64>().ok());
    let since = changed.filter(|us| *us > 0).map(|us| {
        let age = uptime.saturating_sub(Duration::from_micros(us));
        now.minus(age)
    });
    // 1 is CLD_EXITED: only then is the status an exit status.
    let ended = value("ExecMainCode") == Some("1");
    let exit_status = value("ExecMainStatus").filter(|_| ended).and_then(|text| text.parse().ok());
    Some(UnitSection { active_state: value("ActiveState")?.to_owned(), since, exit_status })
}

/// `/proc/uptime` as a duration.
pub fn uptime(text: &str) -> Option<Duration> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// `unit failed 2m11s ago, exit 66`.
pub fn phrase(unit: &UnitSection, now: Timestamp) -> String {
    let mut text = format!("unit {}", human::clean(&unit.active_state));
    if let Some(since) = unit.since {
        text.push_str(&format!(" {} ago", human::duration(now.since(since))));
    }
    if let Some(status) = unit.exit_status {
        text.push_str(&format!(", exit {status}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = "LoadState=loaded\nActiveState=failed\nExecMainCode=1\nExecMainStatus=66\n\
                          StateChangeTimestampMonotonic=880000000\n";

    #[test]
    fn a_failed_unit_says_when_and_how() {
        let now = Timestamp::from_unix(1_800_000_000);
        let unit = parse(FAILED, uptime("1000.50 3.20\n").unwrap(), now).unwrap();
        assert_eq!(unit.exit_status, Some(66));
        assert_eq!(phrase(&unit, now), "unit failed 2m00s ago, exit 66");
    }

    #[test]
    fn a_signal_is_no_exit_status_and_a_missing_unit_is_none() {
        let now = Timestamp::from_unix(1_800_000_000);
        let killed = FAILED.replace("ExecMainCode=1", "ExecMainCode=2");
        assert_eq!(parse(&killed, Duration::ZERO, now).unwrap().exit_status, None);
        let missing = FAILED.replace("LoadState=loaded", "LoadState=not-found");
        assert_eq!(parse(&missing, Duration::ZERO, now), None);
    }
}
