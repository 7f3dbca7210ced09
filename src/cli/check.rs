//! `agent check`: the static checks as a list. Needs no agent.

use super::out::{self, JsonLayout};
use crate::service::exit;
use crate::status::Verdict;
use crate::status::checks::{Check, CheckResult};
use crate::status::render::{self, Shown};

/// Prints the checks and returns the exit code.
pub fn show(checks: &[Check], json: bool) -> u8 {
    let verdict = judge(checks);
    if json {
        out::show_json(&checks, JsonLayout::Indented);
    } else {
        let style = out::stdout_style();
        let list = render::checks(checks, Shown::All, style);
        out::show(&format!("{list}\n{}\n", render::checks_conclusion(checks, verdict, style)));
    }
    match verdict {
        Verdict::Ok => exit::OK,
        Verdict::Warn => exit::WARNINGS,
        Verdict::Fail | Verdict::Unknown => exit::FAILURE,
    }
}

fn judge(checks: &[Check]) -> Verdict {
    let has = |result| checks.iter().any(|check| check.result == result);
    if has(CheckResult::Fail) {
        Verdict::Fail
    } else if has(CheckResult::Warn) || has(CheckResult::Timeout) {
        Verdict::Warn
    } else {
        Verdict::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_decides() {
        let mut checks = vec![Check::ok("a", ""), Check::skip("b", "")];
        assert_eq!(judge(&checks), Verdict::Ok);
        checks.push(Check::timeout("c", "", ""));
        assert_eq!(judge(&checks), Verdict::Warn);
        checks.push(Check::fail("d", "", ""));
        assert_eq!(judge(&checks), Verdict::Fail);
    }
}
