//! A host registers: what travels, what is kept, what the operator sees.

use crate::golden;
use crate::harness::{Node, all, config, flawless, nth, ready, seen, startups};
use cloudstack_agent::sim::{Profile, Script, SimConfig, SimEvent, SimServer, Status};
use serde_json::Value;
use std::collections::BTreeMap;

/// Members that depend on what a machine has.
const OPTIONAL: [&str; 4] =
    ["iqn", "gatewayIpAddress", "hostDetails.host.virtv2v.version", "hostDetails.host.ovftool.version"];
/// Members that 4.20 and later know; older servers pass over them.
const ADDED: [&str; 4] = ["arch", "connectionTransferred", "cpuArch", "gpuDevices"];

async fn start(profile: Profile) -> (SimServer, Node) {
    let server = SimServer::start(SimConfig { profile, ..config(Script::default()) }).await.unwrap();
    let node = Node::registered(&server).await;
    (server, node)
}

/// Path and JSON type of each member, maps included.
fn members(value: &Value, path: &str, found: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "fraction",
        Value::Number(_) => "integer",
        Value::String(_) => "text",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !path.is_empty() {
        found.insert(path.to_owned(), kind);
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        members(member, &below, found);
    }
}

fn shape(value: &Value) -> BTreeMap<String, &'static str> {
    let mut found = BTreeMap::new();
    members(value, "", &mut found);
    found.retain(|path, _| !OPTIONAL.contains(&path.as_str()));
    found
}

/// Fields of a captured startup request: the routing command and the first storage command.
fn captured(text: &str) -> (Value, Value) {
    let body = &golden::captured(text)[0].body;
    let commands: Vec<Value> = serde_json::from_str(body).unwrap();
    let fields = |n: usize, class: &str| commands[n][format!("com.cloud.agent.api.{class}")].clone();
    (fields(0, "StartupRoutingCommand"), fields(1, "StartupStorageCommand"))
}

/// Members of `ours` that `theirs` lacks.
fn surplus(ours: &Value, theirs: &Value) -> Vec<String> {
    let theirs = shape(theirs);
    shape(ours).into_keys().filter(|path| !theirs.contains_key(path)).collect()
}

#[tokio::test]
async fn the_startup_request_has_the_members_of_the_captured_one() {
    let (server, _node) = start(Profile::V4_19_1).await;
    let SimEvent::Startup { routing, storages, sequence, .. } =
        seen(&server, |event| matches!(event, SimEvent::Startup { .. })).await.event
    else {
        unreachable!()
    };
    assert_eq!((sequence, storages.len()), (0, 1));
    let (newer_routing, newer_storage) = captured(golden::REGISTRATION_4_22);
    assert_eq!(shape(&routing), shape(&newer_routing));
    assert_eq!(shape(&storages[0]), shape(&newer_storage));

    let (older_routing, older_storage) = captured(golden::REGISTRATION_4_19);
    for (ours, theirs) in [(&routing, &older_routing), (&storages[0], &older_storage)] {
        let ours_of = shape(ours);
        for (path, kind) in shape(theirs) {
            assert_eq!(ours_of.get(&path), Some(&kind), "{path}");
        }
    }
    assert_eq!(surplus(&routing, &older_routing), ADDED);
    assert_eq!(surplus(&storages[0], &older_storage), ["arch", "connectionTransferred"]);
}

#[tokio::test]
async fn the_startup_request_says_what_the_configuration_says() {
    let (server, node) = start(Profile::V4_22).await;
    let routing = &startups(&server)[0];
    for (member, expected) in [
        ("guid", node.resource_guid().as_str()),
        ("resourceName", "LibvirtComputingResource"),
        ("dataCenter", "1"),
        ("pod", "1"),
        ("cluster", "1"),
        ("hypervisorType", "KVM"),
        ("privateIpAddress", "127.0.0.1"),
        ("privateNetmask", "255.0.0.0"),
        ("msHostList", "127.0.0.1@static"),
    ] {
        assert_eq!(routing[member], expected, "{member}");
    }
    assert!(routing.get("id").is_none(), "no id was ever assigned: {routing}");
}

#[tokio::test]
async fn registered_with_a_server_of_each_line() {
    for profile in [Profile::V4_19_1, Profile::V4_22] {
        let (server, mut node) = start(profile).await;
        let answered = |event: &SimEvent| matches!(event, SimEvent::Answer { class, result: Some(true), .. } if class == "ReadyAnswer");
        nth(&server, 2, answered).await;
        let ping = |event: &SimEvent| {
            matches!(event, SimEvent::Ping { host_id: 1, answered: true, vms: Some(_), .. })
        };
        nth(&server, 2, ping).await;
        let host = server.host(&node.resource_guid()).unwrap();
        assert_eq!((host.id, host.status, host.registrations), (1, Status::Up, 1));
        assert_eq!(host.history(), [Status::Connecting, Status::Up]);
        node.stop().await;
        flawless(&server);
    }
}

#[tokio::test]
async fn every_command_of_a_registration_is_answered_well() {
    let (server, _node) = start(Profile::V4_19_1).await;
    // One round of commands: labels, rules, parameters, and ReadyCommand twice.
    nth(&server, 5, |event| matches!(event, SimEvent::Answer { .. })).await;
    let mut classes = Vec::new();
    for recorded in all(&server, |event| matches!(event, SimEvent::Answer { .. })) {
        let SimEvent::Answer { command, class, result, details, .. } = recorded.event else { unreachable!() };
        assert_eq!(result, Some(true), "{command}: {details:?}");
        classes.push(format!("{command}>{class}"));
    }
    classes.sort();
    let expected = [
        "CheckNetworkCommand>CheckNetworkAnswer",
        "CleanupNetworkRulesCmd>Answer",
        "ReadyCommand>ReadyAnswer",
        "ReadyCommand>ReadyAnswer",
        "SetHostParamsCommand>Answer",
    ];
    assert_eq!(classes, expected);
}

#[tokio::test]
async fn the_id_is_kept_and_nothing_else_in_the_file_moves() {
    let server = crate::harness::plain_server().await;
    let mut node = Node::new(server.address());
    let before = node.properties();
    node.start();
    ready(&server, 1).await;
    node.until("saving the id", |node| node.value("LibvirtComputingResource.id").is_some()).await;
    assert_eq!(node.value("LibvirtComputingResource.id").as_deref(), Some("1"));
    let after = node.properties();
    assert!(after.starts_with(&before), "the old text did not stay:\n{after}");
    for line in after[before.len()..].lines() {
        let (key, _) = line.split_once('=').unwrap();
        let own = ["LibvirtComputingResource.", "vm.migrate.wait", "router.aggregation."];
        assert!(own.iter().any(|prefix| key.starts_with(prefix)), "{line}");
    }
    assert_eq!(node.stop().await, Some(0));

    // The next process starts with the id of the first.
    node.start();
    ready(&server, 2).await;
    assert_eq!(startups(&server)[1]["id"], 1);
    assert_eq!(server.hosts().len(), 1);
    flawless(&server);
}

#[tokio::test]
async fn the_operator_sees_a_registered_host() {
    let (server, node) = start(Profile::V4_19_1).await;
    seen(&server, |event| matches!(event, SimEvent::Ping { answered: true, .. })).await;
    node.wait_for("a ping's answer", |status| status.session.last_reply_at.is_some()).await;

    let json = node.ask(&["--json"]).await;
    // No CA yet: a warning, so 1 and not 0. See the certificates for 0.
    assert_eq!((json.code, json.stderr.as_str()), (1, ""), "{}", json.stdout);
    let document: Value = serde_json::from_str(&json.stdout).unwrap();
    let schema = include_str!("../../packaging/status.schema.json");
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&serde_json::from_str(schema).unwrap())
        .unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let session = &document["session"];
    assert_eq!((&session["state"], &session["host_id"]), (&"registered".into(), &1.into()));
    assert_eq!(session["server"], server.address().to_string());
    assert_eq!(session["unverified_tls"], true);
    assert_eq!(document["source"], "live");

    let text = node.ask(&[]).await;
    assert_eq!(text.code, 1);
    assert!(text.stdout.contains("REGISTERED"), "{}", text.stdout);
    let waited = node.ask(&["--wait", "registered", "--timeout", "30"]).await;
    assert_eq!(waited.code, 1);
}
