//! `agent inventory`: what would be reported to the server, and how it differs from last time.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::out::{self, JsonLayout};
use crate::service::exit;
use crate::status::human;

/// Longest value shown on one line of text, in characters.
const MAX_SHOWN: usize = 160;

/// The inventory now and as it was last sent.
#[derive(Debug, Clone, PartialEq)]
pub struct InventoryReport {
    pub current: Value,
    /// `None` when this host never registered with this configuration.
    pub last_sent: Option<Value>,
}

/// One value that differs; `None` where it is absent.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Difference {
    /// `[0].cpus`, `disks[2].path`.
    pub path: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// Prints the inventory or its differences and returns the exit code. `report` is an error sentence
/// when the inventory cannot be collected.
pub fn show(report: Result<InventoryReport, String>, json: bool, diff: bool) -> u8 {
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            out::complain(&error);
            return exit::FAILURE;
        }
    };
    if !diff {
        if json {
            out::show_json(&report.current, JsonLayout::Indented);
        } else {
            out::show(&listing(&report.current));
        }
        return exit::OK;
    }
    let Some(old) = &report.last_sent else {
        out::complain("nothing was sent yet; there is nothing to compare with");
        return exit::FAILURE;
    };
    let differences = differences(old, &report.current);
    if json {
        out::show_json(&differences, JsonLayout::Indented);
    } else {
        out::show(&difference_lines(&differences));
    }
    if differences.is_empty() { exit::OK } else { exit::WARNINGS }
}

/// `path = value`, one line per leaf.
fn listing(value: &Value) -> String {
    let mut leaves = Vec::new();
    walk("", value, &mut leaves);
    let mut text = String::new();
    for (path, value) in leaves {
        let _ = writeln!(text, "{} = {}", human::clean(&path), shown(value));
    }
    text
}

fn walk<'a>(path: &str, value: &'a Value, leaves: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                walk(&member_path(path, name), member, leaves);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                walk(&format!("{path}[{index}]"), item, leaves);
            }
        }
        leaf => leaves.push((path.to_owned(), leaf)),
    }
}

/// Every leaf that differs between `old` and `new`, in the order of the paths.
pub fn differences(old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", Some(old), Some(new), &mut found);
    found
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Difference>) {
    match (old, new) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                compare(&member_path(path, name), a.get(name), b.get(name), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                compare(&format!("{path}[{index}]"), a.get(index), b.get(index), found);
            }
        }
        (old, new) if old == new => {}
        (old, new) => {
            found.push(Difference { path: path.to_owned(), old: old.cloned(), new: new.cloned() });
        }
    }
}

fn member_path(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn difference_lines(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "no difference\n".to_owned();
    }
    let mut text = String::new();
    for difference in differences {
        let side = |value: &Option<Value>| value.as_ref().map_or_else(|| "(absent)".to_owned(), shown);
        let path = human::clean(&difference.path);
        let _ = writeln!(text, "{path}: {} -> {}", side(&difference.old), side(&difference.new));
    }
    text
}

fn shown(value: &Value) -> String {
    let text = human::clean(&value.to_string());
    if text.chars().count() <= MAX_SHOWN {
        return text;
    }
    let head: String = text.chars().take(MAX_SHOWN - 3).collect();
    format!("{head}...")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_leaf_by_leaf() {
        let old = json!({"cpus": 8, "nics": ["a", "b"], "pool": {"path": "/x"}, "same": [1]});
        let new = json!({"cpus": 16, "nics": ["a"], "pool": {"path": "/x", "size": 1}, "same": [1]});
        assert_eq!(
            difference_lines(&differences(&old, &new)),
            "cpus: 8 -> 16\nnics[1]: \"b\" -> (absent)\npool.size: (absent) -> 1\n"
        );
        assert_eq!(difference_lines(&differences(&new, &new)), "no difference\n");
    }

    #[test]
    fn a_change_of_kind_is_one_difference() {
        let found = differences(&json!({"a": {"b": 1}}), &json!({"a": [1]}));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "a");
    }

    #[test]
    fn the_listing_has_one_line_per_leaf() {
        let value = json!([{"cpus": 8, "caps": "hvm", "empty": {}}]);
        assert_eq!(listing(&value), "[0].caps = \"hvm\"\n[0].cpus = 8\n[0].empty = {}\n");
        let long = listing(&json!({"x": "y".repeat(1_000)}));
        assert!(long.len() < 200 && long.ends_with("...\n"));
    }

    #[test]
    fn exit_codes_follow_diff() {
        let report = |last_sent| Ok(InventoryReport { current: json!({"a": 1}), last_sent });
        assert_eq!(show(report(Some(json!({"a": 1}))), false, true), 0);
        assert_eq!(show(report(Some(json!({"a": 2}))), false, true), 1);
        assert_eq!(show(report(None), false, true), 2);
        assert_eq!(show(Err("no".into()), false, false), 2);
    }
}
