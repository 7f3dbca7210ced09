//! The captured traffic of real servers with their own agents, and how an answer differs from the
//! captured one: in the names of its members and their JSON types. Where this agent answers otherwise
//! on purpose, [`DIFFERENCES`] says so.

use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Version of the server, and what it and its agents said to each other, a JSON object per line.
pub const FILES: [(&str, &str); 2] = [
    ("4.19.1", include_str!("../../tests/data/wire/exchanges-4.19.1.jsonl")),
    ("4.22", include_str!("../../tests/data/wire/exchanges-4.22.jsonl")),
];

/// Command, members of its answer, why they may differ.
pub const DIFFERENCES: [(&str, &str, &str); 5] = [
    (
        "org.apache.cloudstack.agent.directdownload.CheckUrlCommand",
        "details",
        "says why a URL is refused, which the reference agent does not",
    ),
    (
        "com.cloud.agent.api.GetStorageStatsCommand",
        "used capacity usedBytes capacityBytes",
        "one answer with the names of all versions",
    ),
    (
        "com.cloud.agent.api.ReadyCommand",
        "host.uefi.enable",
        "always sent: some servers dereference it without a check",
    ),
    (
        "org.apache.cloudstack.storage.command.CreateObjectCommand",
        "kvmIncrementalSnapshot",
        "servers before 4.21 do not have it, the others take its absence for false",
    ),
    (
        "com.cloud.agent.api.CleanupNetworkRulesCmd",
        "details",
        "captured with the reference agent's second answer, which this one never sends",
    ),
];

/// One command that a server sent, and its answer if one was captured.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub class: String,
    pub fields: Value,
    /// Class and fields.
    pub answer: Option<(String, Value)>,
}

#[derive(serde::Deserialize)]
struct Line {
    request: Message,
    answer: Option<Message>,
}

#[derive(serde::Deserialize)]
struct Message {
    dir: String,
    /// JSON in itself.
    body: String,
}

impl Message {
    /// The commands or answers of a batch.
    fn elements(&self) -> Result<Vec<(String, Value)>, serde_json::Error> {
        let list: Vec<Map<String, Value>> = serde_json::from_str(&self.body)?;
        Ok(list.into_iter().filter_map(|element| element.into_iter().next()).collect())
    }
}

/// Every command that the server sent in one of [`FILES`], batches taken apart.
pub fn exchanges(file: &str) -> Result<Vec<Exchange>, serde_json::Error> {
    let mut found = Vec::new();
    for line in file.lines().filter(|line| !line.trim().is_empty()) {
        let Line { request, answer } = serde_json::from_str(line)?;
        if request.dir != "server>agent" {
            continue;
        }
        let mut answers = answer.as_ref().map_or(Ok(Vec::new()), Message::elements)?.into_iter();
        for (class, fields) in request.elements()? {
            found.push(Exchange { class, fields, answer: answers.next() });
        }
    }
    Ok(found)
}

/// What only one of two answers to the command has, as `/path/of/member: type`; elements of lists count
/// as one.
pub fn differences(command: &str, theirs: &Value, ours: &Value) -> Vec<String> {
    let [mut expected, mut found] = [BTreeSet::new(), BTreeSet::new()];
    shape(theirs, "", &mut expected);
    shape(ours, "", &mut found);
    let member = |line: &str| {
        let path = line.rsplit_once(": ").map_or(line, |(path, _)| path);
        path.rsplit('/').next().unwrap_or_default().to_owned()
    };
    expected
        .symmetric_difference(&found)
        .filter(|line| !may_differ(command, &member(line)))
        .cloned()
        .collect()
}

fn may_differ(command: &str, member: &str) -> bool {
    DIFFERENCES
        .iter()
        .any(|(class, members, _)| *class == command && members.split(' ').any(|name| name == member))
}

/// Members of an object by path, with their JSON types.
fn shape(value: &Value, path: &str, out: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Object(members) => {
            for (name, member) in members {
                shape(member, &format!("{path}/{name}"), out);
            }
            "object"
        }
        Value::Array(elements) => {
            for element in elements {
                shape(element, &format!("{path}/[]"), out);
            }
            "list"
        }
        Value::String(_) => "text",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "double",
        Value::Number(_) => "integer",
        Value::Null => "null",
    };
    out.insert(format!("{path}: {kind}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_taken_apart_and_answers_stay_with_their_commands() {
        for (version, file) in FILES {
            let exchanges = exchanges(file).unwrap();
            let answered: Vec<_> = exchanges.iter().filter_map(|exchange| exchange.answer.as_ref()).collect();
            assert!(answered.len() > 30, "{version}");
            assert!(
                answered
                    .iter()
                    .all(|(class, fields)| class.contains("Answer") && fields["result"].is_boolean())
            );
        }
        let file = r#"{"request":{"dir":"server>agent","body":"[{\"A\":{}},{\"B\":{}}]"},"answer":{"dir":"","body":"[{\"C\":{}}]"}}
            {"request":{"dir":"agent>server","body":"none"},"answer":null}"#;
        let read: Vec<_> =
            exchanges(file).unwrap().into_iter().map(|one| (one.class, one.answer.is_some())).collect();
        assert_eq!(read, [("A".to_owned(), true), ("B".to_owned(), false)]);
        assert!(exchanges("{}").is_err());
    }

    #[test]
    fn the_comparison_sees_names_types_and_absence() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let theirs = json(r#"{"a":1,"b":{"c":0.5},"l":[{"x":1}]}"#);
        assert!(
            differences("X", &theirs, &json(r#"{"l":[{"x":7},{"x":8}],"b":{"c":1.0},"a":2}"#)).is_empty()
        );
        for other in [
            r#"{"a":1.0,"b":{"c":0.5},"l":[{"x":1}]}"#,
            r#"{"a":1,"b":{"C":0.5},"l":[{"x":1}]}"#,
            r#"{"a":1,"b":{"c":0.5},"l":[]}"#,
            r#"{"a":"1","b":{"c":0.5},"l":[{"x":1}]}"#,
            r#"{"a":1,"b":{"c":0.5},"l":[{"x":1}],"n":null}"#,
        ] {
            assert!(!differences("X", &theirs, &json(other)).is_empty(), "{other}");
        }
    }
}
