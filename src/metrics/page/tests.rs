use super::*;
use crate::commands::table::TABLE;
use crate::status::fixtures;
use crate::status::snapshot::OrphansSection;
use saphyr::{LoadableYamlNode, Yaml};
use std::collections::BTreeSet;

const RULES: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus/cloudstack-agent.rules.yml"));
const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/observability.md"));

fn figures() -> Figures {
    let mut counters = Counters { unsupported: 2, orphaned_answers: 1, ..Counters::default() };
    let start = counters.by_class.entry("com.cloud.agent.api.StartCommand").or_default();
    (start.done, start.failed) = (12, 1);
    for millis in [3, 700, 700, 2_500, 900_000] {
        start.latency.add(Duration::from_millis(millis));
    }
    let mut latency = Histogram::default();
    latency.add(Duration::from_secs(10));
    Figures {
        requests_in_flight: 3,
        requests_waiting: 1,
        commands: counters,
        calls: vec![CallFigures { kind: "storage", deadline_misses: 4, stuck: 2, latency }],
        programs: Ran { count: 7, took: Duration::from_millis(1500) },
        journal_leftovers: 1,
    }
}

/// A page on which every metric has a value.
fn full() -> String {
    let mut status = fixtures::healthy();
    status.orphans = Some(OrphansSection { count: 2, bytes: 1 << 30, looked_at: fixtures::now() });
    Page { status, figures: Some(figures()) }.text().unwrap()
}

/// Names of the metrics on a page, those of histograms with their endings.
fn names(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// Words of a text that can only be metrics of this agent.
fn mentioned(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("cloudstack_agent_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_page_says_what_is_known() {
    let page = full();
    for line in [
        "# TYPE cloudstack_agent_session_state gauge",
        r#"cloudstack_agent_build_info{version="0.3.0",wire_version="4.19.1.0"} 1"#,
        "cloudstack_agent_start_time_seconds 1795162418",
        r#"cloudstack_agent_session_state{state="registered"} 1"#,
        r#"cloudstack_agent_session_state{state="backoff"} 0"#,
        "cloudstack_agent_session_attempts_total 4",
        "cloudstack_agent_session_registrations_total 3",
        r#"cloudstack_agent_session_ends_total{reason="lost"} 2"#,
        "cloudstack_agent_ping_age_seconds 3.0",
        "# TYPE cloudstack_agent_commands_total counter",
        r#"cloudstack_agent_commands_total{command="StartCommand",result="failed"} 1"#,
        r#"cloudstack_agent_commands_total{command="other",result="unsupported"} 2"#,
        "# TYPE cloudstack_agent_command_duration_seconds histogram",
        r#"cloudstack_agent_command_duration_seconds_bucket{command="StartCommand",le="0.005"} 1"#,
        r#"cloudstack_agent_command_duration_seconds_bucket{command="StartCommand",le="1"} 3"#,
        r#"cloudstack_agent_command_duration_seconds_bucket{command="StartCommand",le="2.5"} 4"#,
        r#"cloudstack_agent_command_duration_seconds_bucket{command="StartCommand",le="500"} 4"#,
        r#"cloudstack_agent_command_duration_seconds_bucket{command="StartCommand",le="+Inf"} 5"#,
        r#"cloudstack_agent_command_duration_seconds_count{command="StartCommand"} 5"#,
        "cloudstack_agent_requests_in_flight 3",
        "cloudstack_agent_requests_waiting 1",
        r#"cloudstack_agent_libvirt_call_timeouts_total{kind="storage"} 4"#,
        r#"cloudstack_agent_libvirt_calls_stuck{kind="storage"} 2"#,
        "cloudstack_agent_libvirt_connected 1",
        r#"cloudstack_agent_guests{state="running"} 12"#,
        "cloudstack_agent_certificate_days_left 251",
        "cloudstack_agent_programs_total 7",
        "cloudstack_agent_program_seconds_total 1.5",
        "cloudstack_agent_orphans 2",
        "cloudstack_agent_journal_leftovers 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not on the page:\n{page}");
    }
    let sum = page.lines().find_map(|line| {
        line.strip_prefix(r#"cloudstack_agent_command_duration_seconds_sum{command="StartCommand"} "#)
    });
    assert_eq!(sum.unwrap().parse::<f64>().unwrap(), 903.903);
}

#[test]
fn what_is_not_known_is_left_out() {
    let page = Page { status: fixtures::starting(), figures: None }.text().unwrap();
    let names = names(&page);
    for absent in
        ["libvirt_connected", "certificate_days_left", "ping_age_seconds", "commands_total", "orphans"]
    {
        assert!(!names.contains(&format!("cloudstack_agent_{absent}")), "{absent}:\n{page}");
    }
    assert!(page.contains(r#"cloudstack_agent_session_state{state="connecting"} 1"#), "{page}");
}

#[test]
fn an_answer_of_an_earlier_session_does_not_make_the_ping_older() {
    let mut status = fixtures::healthy();
    let ago = |seconds| fixtures::now().minus(Duration::from_secs(seconds));
    status.session.since = ago(7);
    status.session.last_reply_at = Some(ago(4_000));
    assert_eq!(ping_age(&status, &status.session), Some(Duration::from_secs(7)));
}

#[test]
fn limits_are_bounds_of_the_histogram() {
    for limit in LIMITS {
        let mut histogram = Histogram::default();
        histogram.add(limit);
        histogram.add(limit + Duration::from_nanos(1));
        assert_eq!(histogram.split(&[limit]), [1], "{limit:?}");
    }
}

#[test]
fn classes_have_labels_of_their_own() {
    let labels: BTreeSet<&str> = TABLE.iter().map(|entry| display_name(entry.class)).collect();
    assert_eq!(labels.len(), TABLE.len());
    assert!(!labels.contains("other"));
}

#[test]
fn the_alert_rules_use_metrics_that_there_are() {
    let known = names(&full());
    let documents = Yaml::load_from_str(RULES).unwrap();
    let rules = documents[0]["groups"][0]["rules"].as_sequence().unwrap();
    let mut alerts = BTreeSet::new();
    for rule in rules {
        let alert = rule["alert"].as_str().unwrap();
        assert!(alerts.insert(alert), "{alert} is there twice");
        assert!(
            ["critical", "warning", "info"].contains(&rule["labels"]["severity"].as_str().unwrap()),
            "{alert}"
        );
        for text in ["summary", "remedy"] {
            let text = rule["annotations"][text].as_str().unwrap();
            assert!(
                text.len() > 20 && text.matches("{{").count() == text.matches("}}").count(),
                "{alert}: {text}"
            );
        }
        let expression = rule["expr"].as_str().unwrap();
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(expression.matches(open).count(), expression.matches(close).count(), "{alert}");
        }
        let used = mentioned(expression);
        assert!(!used.is_empty() || expression.starts_with("up{"), "{alert} looks at nothing");
        for metric in used {
            assert!(known.contains(&metric), "{alert} looks at {metric}, which there is not");
        }
    }
    for wanted in [
        "NotRegistered",
        "ReconnectStorm",
        "PingsUnanswered",
        "Restarts",
        "CommandsFail",
        "LibvirtSlow",
        "LibvirtGone",
        "CertificateExpires",
        "WorkLeftOver",
    ] {
        assert!(alerts.contains(format!("CloudStackAgent{wanted}").as_str()), "{wanted}");
    }
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    let page = full();
    let families: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let table = DOCS.split("\n## ").find(|section| section.starts_with("Metrics")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let listed: BTreeSet<String> = rows.flat_map(|row| mentioned(row.split('|').nth(1).unwrap())).collect();
    assert_eq!(listed, families);
}
