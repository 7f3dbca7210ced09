//! The protocol's rules for an agent, checked message by message. Pure: bytes and context in,
//! broken rules out.

use super::event::Rule;
use super::outbox::{MANAGEMENT_ID, Pending};
use crate::wire::classes::{self, Kind};
use crate::wire::header::{self, UNKNOWN_ID};
use crate::wire::limits::COMPRESS_FROM;
use crate::wire::{Element, Flags, Header, Message};
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use std::io::Read;

/// A broken rule and what was seen.
pub(super) type Breach = (Rule, String);

/// Commands whose answer the server casts without looking.
const CAST: [(&str, &str); 10] = [
    ("CheckNetworkCommand", "CheckNetworkAnswer"),
    ("ReadyCommand", "ReadyAnswer"),
    ("CheckHealthCommand", "CheckHealthAnswer"),
    ("GetHostStatsCommand", "GetHostStatsAnswer"),
    ("GetStorageStatsCommand", "GetStorageStatsAnswer"),
    ("MaintainCommand", "MaintainAnswer"),
    ("SetupKeyStoreCommand", "SetupKeystoreAnswer"),
    ("SetupMSListCommand", "SetupMSListAnswer"),
    ("StartCommand", "StartAnswer"),
    ("StopCommand", "StopAnswer"),
];

/// Members of the startup commands that the server reads without asking whether they are there.
const ROUTING_NEEDS: [&str; 11] = [
    "guid",
    "name",
    "dataCenter",
    "pod",
    "cluster",
    "resourceName",
    "hypervisorType",
    "hostTags",
    "hostDetails",
    "privateIpAddress",
    "privateNetmask",
];
const POOL_NEEDS: [&str; 7] =
    ["uuid", "host", "hostPath", "localPath", "poolType", "capacityBytes", "availableBytes"];

/// Checks the message as bytes: size field and compression.
pub(super) fn bytes(raw: &[u8], header: &Header) -> Vec<Breach> {
    let body = raw.get(header::LEN..).unwrap_or_default();
    let announced = header.size as usize;
    let mut broken = Vec::new();
    let length = if header.flags.contains(Flags::COMPRESSED) {
        let mut sink = Vec::new();
        let limit = u64::from(header.size) + 1;
        MultiGzDecoder::new(body).take(limit).read_to_end(&mut sink).unwrap_or(0)
    } else {
        if body.len() >= COMPRESS_FROM {
            broken.push((Rule::NotCompressed, format!("body of {} bytes is plain", body.len())));
        }
        body.len()
    };
    if length != announced {
        broken.push((Rule::WrongSize, format!("header says {announced} bytes, body has {length}")));
    }
    broken
}

/// Checks an agent's own request. `host_id` is what `ReadyCommand` told, `last` the sequence of the
/// request before.
pub(super) fn request(message: &Message, host_id: Option<i64>, last: Option<i64>) -> Vec<Breach> {
    let head = &message.header;
    let mut broken = from_server(head);
    if head.mgmt_id != UNKNOWN_ID || head.agent_id != head.via {
        broken.push((Rule::WrongIds, ids(head)));
    }
    let name = message.elements.first().map_or("", Element::simple_name);
    let expected = match name {
        _ if name.starts_with("Startup") => Flags::REQUEST,
        "ShutdownCommand" => Flags::REQUEST.with(Flags::STOP_ON_ERROR).with(Flags::IN_SEQUENCE),
        _ => Flags::REQUEST.with(Flags::STOP_ON_ERROR),
    };
    let flags = head.flags.without(Flags::COMPRESSED).without(Flags::FROM_SERVER);
    if flags != expected {
        broken.push((Rule::RequestFlags, format!("{name} has {flags:?}, {expected:?} expected")));
    }
    let farewell = name == "ShutdownCommand";
    if !farewell && last.is_some_and(|last| head.sequence <= last) {
        broken.push((Rule::RepeatedSequence, format!("{} after {last:?}", head.sequence)));
    }
    if let Some(known) = host_id {
        let startup = name.starts_with("Startup");
        if head.agent_id != known && !startup {
            broken.push((Rule::WrongHostId, format!("{name} sent as host {}, it is {known}", head.agent_id)));
        }
    }
    broken.extend(message.elements.iter().flat_map(|e| element(e, Kind::Command)));
    broken
}

/// Checks the fields of a ping after `ReadyCommand` told `host_id`.
pub(super) fn ping(fields: &Value, host_id: i64) -> Option<Breach> {
    let said = fields.get("hostId").and_then(Value::as_i64).unwrap_or(0);
    (said != host_id).then(|| (Rule::WrongHostId, format!("ping says host {said}, it is {host_id}")))
}

/// Checks what the server would dereference in a startup request.
pub(super) fn startup(routing: &Value, storages: &[Value]) -> Vec<Breach> {
    let absent = |object: &Value, name: &str| object.get(name).is_none_or(Value::is_null);
    let mut missing: Vec<String> =
        ROUTING_NEEDS.iter().filter(|name| absent(routing, name)).map(|n| (*n).to_owned()).collect();
    if routing.pointer("/hostDetails/Host.OS").is_none() {
        missing.push("hostDetails[Host.OS]".to_owned());
    }
    for storage in storages {
        let pool = storage.get("poolInfo").unwrap_or(&Value::Null);
        missing.extend(POOL_NEEDS.iter().filter(|n| absent(pool, n)).map(|n| format!("poolInfo.{n}")));
        if storage.get("resourceType").and_then(Value::as_str) != Some("STORAGE_POOL") {
            missing.push("resourceType STORAGE_POOL".to_owned());
        }
    }
    if missing.is_empty() {
        return Vec::new();
    }
    vec![(Rule::StartupIncomplete, format!("without {}", missing.join(", ")))]
}

/// Checks a response against the request that it answers.
pub(super) fn response(message: &Message, pending: &Pending) -> Vec<Breach> {
    let head = &message.header;
    let expected = pending.header.response();
    let mut broken = from_server(head);
    if (head.mgmt_id, head.agent_id, head.via) != (expected.mgmt_id, expected.agent_id, expected.via) {
        broken.push((Rule::WrongIds, ids(head)));
    }
    let flags = head.flags.without(Flags::COMPRESSED).without(Flags::FROM_SERVER);
    if flags != expected.flags {
        broken.push((Rule::FlagsNotEchoed, format!("{flags:?}, {:?} expected", expected.flags)));
    }
    let (answers, commands) = (message.elements.len(), pending.classes.len());
    if answers != commands {
        broken.push((Rule::AnswerCount, format!("{answers} answers to {commands} commands")));
    }
    for (answer, command) in message.elements.iter().zip(&pending.classes) {
        broken.extend(element(answer, Kind::Answer));
        broken.extend(cast(answer, command));
    }
    broken
}

fn from_server(head: &Header) -> Vec<Breach> {
    if !head.flags.contains(Flags::FROM_SERVER) {
        return Vec::new();
    }
    vec![(Rule::FromServerSet, format!("flags {:?}", head.flags))]
}

fn ids(head: &Header) -> String {
    let Header { mgmt_id, agent_id, via, .. } = head;
    format!("management server {mgmt_id}, agent {agent_id}, via {via} (this server is {MANAGEMENT_ID})")
}

/// An answer of another class than the server casts to. A negative plain answer is let through
/// where the server looks at the result first.
fn cast(answer: &Element, command: &str) -> Option<Breach> {
    let command = crate::wire::envelope::simple_name(command);
    let (_, needed) = CAST.iter().find(|(name, _)| *name == command)?;
    let strict = matches!(command, "CheckNetworkCommand" | "ReadyCommand");
    let negative = result(answer) == Some(false);
    let wrong = answer.simple_name() != *needed && (strict || !negative);
    wrong.then(|| (Rule::WrongAnswerClass, format!("{} answers {command}", answer.simple_name())))
}

/// `result` of an answer.
pub(super) fn result(answer: &Element) -> Option<bool> {
    answer.read::<Value>().ok()?.get("result")?.as_bool()
}

fn element(element: &Element, kind: Kind) -> Vec<Breach> {
    let name = element.simple_name();
    let mut broken = Vec::new();
    if classes::find(&element.class).is_none_or(|class| class.kind != kind) {
        broken.push((Rule::UnknownClass, format!("{} is no {kind:?} of any server", element.class)));
    }
    let Ok(fields) = element.read::<Value>() else {
        broken.push((Rule::Undecodable, format!("fields of {name}")));
        return broken;
    };
    if !fields.get("contextMap").is_some_and(Value::is_object) {
        broken.push((Rule::MissingContext, name.to_owned()));
    }
    if kind == Kind::Answer && !fields.get("result").is_some_and(Value::is_boolean) {
        broken.push((Rule::MissingResult, name.to_owned()));
    }
    if let Some(path) = null_member(&fields) {
        broken.push((Rule::ExplicitNull, format!("{name}{path}")));
    }
    broken
}

/// Path of the first member that is null.
fn null_member(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) => map.iter().find_map(|(name, inner)| match inner {
            Value::Null => Some(format!(".{name}")),
            _ => null_member(inner).map(|path| format!(".{name}{path}")),
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(n, inner)| null_member(inner).map(|path| format!("[{n}]{path}"))),
        _ => None,
    }
}
