//! Every fault of the simulated server, and the whole registration after it. Nothing of a failure
//! may be left behind, and none may end the process.

use crate::harness::{
    Node, all, broken, closed, config, connections, flawless, free_port, nth, plain_server, ready, seen,
    server, startups,
};
use cloudstack_agent::sim::{
    Ending, Identity, KeyKind, Knobs, Pki, Rule, Scenario, Script, SimConfig, SimEvent, SimServer, Status,
    Validity,
};
use cloudstack_agent::status::snapshot::{SessionState, Status as Document};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A fault for one connection, then ordinary ones; the agent is started.
async fn once(scenario: Scenario) -> (SimServer, Node, Option<u32>) {
    let server = server(Script::first(scenario, 1).finally(Scenario::Normal)).await;
    let mut node = Node::started(&server);
    let pid = node.pid();
    (server, node, pid)
}

/// The agent went on: same process, registered, no trace of the failure.
async fn outlived(server: &SimServer, node: &mut Node, pid: Option<u32>) {
    let session = node.is_registered().await.session;
    assert_eq!((session.last_error, session.server_message, session.remedy), (None, None, None));
    assert_eq!(node.pid(), pid);
    assert_eq!(server.host(&node.resource_guid()).unwrap().status, Status::Up);
    let alarms = node.logged("ERROR", "");
    assert!(alarms.is_empty(), "{alarms:?}");
}

async fn failed(node: &Node) -> (String, String) {
    let failed = |status: &Document| status.session.last_error.is_some();
    let session = node.wait_for("a failure", failed).await.session;
    (session.last_error.unwrap(), session.remedy.unwrap())
}

/// What one process may accumulate; everything else must be as if nothing had happened.
fn lasting(status: &Document) -> Value {
    let mut document = serde_json::to_value(status).unwrap();
    for path in ["taken_at", "agent", "commands", "machine", "storage"] {
        document.as_object_mut().unwrap().remove(path);
    }
    let session = document["session"].as_object_mut().unwrap();
    let counters = [
        "session_number",
        "connects",
        "registrations",
        "ends",
        "resets",
        "forgotten",
        "forgotten_at",
        "since",
    ];
    let moments = ["last_ping_at", "last_reply_at", "missed_pings"];
    // The registration that was lost, which is shown as history.
    let history = ["last_disconnect_at", "last_disconnect_reason"];
    for name in counters.into_iter().chain(moments).chain(history) {
        session.remove(name);
    }
    session["servers"][0].as_object_mut().unwrap().remove("last_ok_at");
    for check in document["checks"].as_array_mut().unwrap() {
        // Summaries say how long something has lasted.
        check.as_object_mut().unwrap().retain(|name, _| ["id", "result"].contains(&name.as_str()));
    }
    document
}

async fn settled(server: &SimServer, node: &Node) -> (Value, String) {
    node.is_registered().await;
    node.until("saving the id", |node| node.value("LibvirtComputingResource.id").is_some()).await;
    let pings = all(server, |event| matches!(event, SimEvent::Ping { .. })).len();
    nth(server, pings + 2, |event| matches!(event, SimEvent::Ping { answered: true, .. })).await;
    let complete = |status: &Document| status.libvirt.as_ref().is_some_and(|l| l.domains_running.is_some());
    (lasting(&node.wait_for("all facts", complete).await), node.properties())
}

#[tokio::test]
async fn the_alert_loop_leaves_no_trace() {
    let script =
        Script::first(Scenario::Normal, 1).then(Scenario::CutAfterStartup, 3).finally(Scenario::Normal);
    let server = server(script).await;
    let mut node = Node::started(&server);
    let pid = node.pid();
    ready(&server, 1).await;
    let before = settled(&server, &node).await;
    server.restart_after(Duration::from_millis(10)).await;
    ready(&server, 2).await;
    assert_eq!(settled(&server, &node).await, before);
    assert_eq!(node.pid(), pid);

    use Status::{Alert, Connecting, Disconnected, Up};
    let history = server.hosts()[0].history();
    let expected = [
        Connecting,
        Up,
        Disconnected,
        Connecting,
        Alert,
        Connecting,
        Alert,
        Connecting,
        Alert,
        Connecting,
        Up,
    ];
    assert_eq!(history, expected);
    let startups = startups(&server);
    assert_eq!(startups.len(), 5);
    assert!(startups[2..].iter().all(|startup| *startup == startups[1]), "{startups:#?}");
    let told: Vec<_> =
        node.logged("WARN", "Not registered").iter().map(|l| l.fields["times"].clone()).collect();
    assert_eq!(told, [json!(1), json!(2)], "one line, then powers of two");
    flawless(&server);
}

#[tokio::test]
async fn many_failures_of_many_kinds_leave_no_trace() {
    let script = Script::first(Scenario::Normal, 1)
        .then(Scenario::AcceptClose, 1)
        .then(Scenario::TlsAlert, 1)
        .then(Scenario::Refuse, 1)
        .then(Scenario::NotTls, 1)
        .finally(Scenario::Normal);
    let server = server(script).await;
    let mut node = Node::started(&server);
    let pid = node.pid();
    ready(&server, 1).await;
    let before = settled(&server, &node).await;
    server.restart_after(Duration::from_millis(10)).await;
    ready(&server, 2).await;
    assert_eq!(settled(&server, &node).await, before);
    assert_eq!(connections(&server), 6);
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

#[tokio::test]
async fn silent() {
    let (server, mut node, pid) = once(Scenario::Silent).await;
    seen(&server, |event| matches!(event, SimEvent::Startup { .. })).await;
    let session = node.status().await.session;
    assert_eq!(
        (session.state, session.waiting_for.as_deref()),
        (SessionState::Registering, Some("StartupAnswer"))
    );
    server.restart_after(Duration::from_millis(10)).await;
    ready(&server, 1).await;
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

#[tokio::test]
async fn half_open() {
    let (server, mut node, pid) = once(Scenario::HalfOpen).await;
    let lost = |status: &Document| status.session.last_disconnect_reason.is_some();
    let reason = node.wait_for("the end", lost).await.session.last_disconnect_reason.unwrap();
    assert!(reason.contains("did not answer a ping for"), "{reason}");
    ready(&server, 2).await;
    outlived(&server, &mut node, pid).await;
    // The deaf server could not notice that the old link was gone.
    assert_eq!(broken(&server), [Rule::SecondConnection]);
}

#[tokio::test]
async fn slow() {
    let (server, mut node, pid) = once(Scenario::Slow).await;
    ready(&server, 1).await;
    nth(&server, 2, |event| matches!(event, SimEvent::Ping { answered: true, .. })).await;
    outlived(&server, &mut node, pid).await;
    assert_eq!(connections(&server), 1);
    flawless(&server);
}

#[tokio::test]
async fn tls_alert() {
    let (server, mut node, pid) = once(Scenario::TlsAlert).await;
    let (error, _) = failed(&node).await;
    assert!(error.contains(&server.address().to_string()), "{error}");
    ready(&server, 1).await;
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

#[tokio::test]
async fn client_certificate_wanted() {
    let (server, mut node, pid) = once(Scenario::ClientCert).await;
    let (error, remedy) = failed(&node).await;
    assert!(
        error.contains("client certificate") || remedy.contains("client certificate"),
        "{error}: {remedy}"
    );
    assert!(remedy.contains("provision"), "{remedy}");
    ready(&server, 1).await;
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

#[tokio::test]
async fn wrong_ca() {
    let pki = Arc::new(Pki::new(KeyKind::Ecdsa).unwrap());
    let script = Script::first(Scenario::WrongCa, 1).finally(Scenario::Normal);
    let server = SimServer::start(SimConfig { pki: Some(Arc::clone(&pki)), ..config(script) }).await.unwrap();
    let mut node = Node::new(server.address());
    let own: Identity = pki.issue("kvm1", &[IpAddr::from([127, 0, 0, 1])], Validity::Days(30)).unwrap();
    pki.provision(&node.config_dir(), &own).unwrap();
    node.start();
    let pid = node.pid();
    let (error, remedy) = failed(&node).await;
    assert!(error.contains("is not believed"), "{error}");
    assert!(remedy.contains("cloud.ca.crt"), "{remedy}");
    ready(&server, 1).await;
    assert!(all(&server, |event| matches!(event, SimEvent::Startup { .. })).iter().all(|r| r.connection > 1));
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

#[tokio::test]
async fn not_tls() {
    let (server, mut node, pid) = once(Scenario::NotTls).await;
    let (error, remedy) = failed(&node).await;
    assert!(error.contains("is no management server"), "{error}");
    assert!(remedy.contains("8250"), "{remedy}");
    ready(&server, 1).await;
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

#[tokio::test]
async fn accept_close() {
    let (server, mut node, pid) = once(Scenario::AcceptClose).await;
    let (error, _) = failed(&node).await;
    assert!(error.contains("TLS handshake") || error.contains("reset"), "{error}");
    ready(&server, 1).await;
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

/// Input that is no message of this session ends it; the next one is whole.
async fn ends_the_session(scenario: Scenario) {
    let (server, mut node, pid) = once(scenario).await;
    seen(&server, |event| matches!(event, SimEvent::Mischief { .. })).await;
    let lost = |status: &Document| status.session.last_disconnect_reason.is_some();
    let reason = node.wait_for("the end", lost).await.session.last_disconnect_reason.unwrap();
    assert!(reason.contains("not this protocol"), "{reason}");
    ready(&server, 2).await;
    outlived(&server, &mut node, pid).await;
    assert_eq!(startups(&server).len(), 2);
    flawless(&server);
}

#[tokio::test]
async fn truncated() {
    ends_the_session(Scenario::Truncated).await;
}

#[tokio::test]
async fn oversized() {
    ends_the_session(Scenario::Oversized).await;
}

#[tokio::test]
async fn out_of_order() {
    ends_the_session(Scenario::OutOfOrder).await;
}

#[tokio::test]
async fn garbage() {
    ends_the_session(Scenario::Garbage).await;
}

/// Whole frames with a hostile message in them are answered, and the session goes on.
async fn is_answered(scenario: Scenario, expected: bool) {
    let (server, mut node, pid) = once(scenario).await;
    seen(&server, |event| matches!(event, SimEvent::Mischief { .. })).await;
    let health = |event: &SimEvent| matches!(event, SimEvent::Answer { command, .. } if command == "CheckHealthCommand");
    let answer = seen(&server, health).await.event;
    assert!(matches!(answer, SimEvent::Answer { result, .. } if result == Some(expected)), "{answer}");
    let pings = all(&server, |event| matches!(event, SimEvent::Ping { .. })).len();
    nth(&server, pings + 2, |event| matches!(event, SimEvent::Ping { answered: true, .. })).await;
    outlived(&server, &mut node, pid).await;
    assert_eq!(connections(&server), 1);
    flawless(&server);
}

#[tokio::test]
async fn bad_gzip() {
    is_answered(Scenario::BadGzip, false).await;
}

#[tokio::test]
async fn deep_json() {
    // The depth is in a member that the command does not have: passed over, without recursion.
    is_answered(Scenario::DeepJson, true).await;
}

#[tokio::test]
async fn duplicate() {
    let (server, mut node, pid) = once(Scenario::Duplicate).await;
    ready(&server, 2).await;
    outlived(&server, &mut node, pid).await;
    assert_eq!(node.status().await.session.reregisters, Some(1));
    assert_eq!(startups(&server).len(), 2);
    flawless(&server);
}

#[tokio::test]
async fn restart() {
    let (server, mut node, pid) = once(Scenario::Restart).await;
    seen(&server, |event| matches!(event, SimEvent::Stopped { down: Some(_) })).await;
    assert!(matches!(closed(&server, 1).await.event, SimEvent::Closed { by: Ending::ServerStopped, .. }));
    let paused = |status: &Document| status.session.state == SessionState::Backoff;
    assert!(node.wait_for("a pause", paused).await.session.next_attempt_at.is_some());
    ready(&server, 2).await;
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

#[tokio::test]
async fn a_dead_server_of_the_list_is_passed_over() {
    // 127.0.0.2 is this machine too, but nobody listens there.
    let servers = vec!["127.0.0.2".to_owned(), "127.0.0.1".to_owned()];
    let server = SimServer::start(SimConfig { servers, ..config(Script::default()) }).await.unwrap();
    let mut node = Node::new(server.address());
    node.set("host", "127.0.0.2,127.0.0.1@static");
    node.start();
    let pid = node.pid();
    ready(&server, 1).await;
    outlived(&server, &mut node, pid).await;
    let session = node.status().await.session;
    assert_eq!((session.preferred, session.servers.len()), (Some(false), 2));
    assert!(session.servers[0].last_error.as_ref().unwrap().contains("refused"), "{:?}", session.servers);
    assert!(session.servers[1].last_ok_at.is_some());
    flawless(&server);
}

#[tokio::test]
async fn a_server_may_be_away_from_the_start() {
    let port = free_port();
    let listen = ([127, 0, 0, 1], port).into();
    let mut node = Node::new(listen);
    node.start();
    let pid = node.pid();
    let (error, remedy) = failed(&node).await;
    assert!(error.contains("nothing listens"), "{error}");
    assert!(remedy.contains("start the management server"), "{remedy}");
    assert_eq!(node.ask(&["--json"]).await.code, 2);
    let server = SimServer::start(SimConfig { listen, ..config(Script::default()) }).await.unwrap();
    ready(&server, 1).await;
    outlived(&server, &mut node, pid).await;
    flawless(&server);
}

#[tokio::test]
async fn a_storm_of_commands_is_answered_and_pings_go_on() {
    let knobs = Knobs { storm: 2_000, ..config(Script::default()).knobs };
    let script = Script::always(Scenario::Storm);
    let server = SimServer::start(SimConfig { knobs, ..config(script) }).await.unwrap();
    let mut node = Node::started(&server);
    let pid = node.pid();
    seen(&server, |event| matches!(event, SimEvent::Storm { commands: 2_000, .. })).await;
    nth(&server, 2, |event| matches!(event, SimEvent::Ping { answered: true, .. })).await;
    outlived(&server, &mut node, pid).await;
    let done = |status: &Document| {
        status
            .commands
            .as_ref()
            .and_then(|c| c.by_name.get("CheckHealthCommand"))
            .is_some_and(|c| c.done == 2_000)
    };
    node.wait_for("the count", done).await;
    flawless(&server);
}

#[tokio::test]
async fn a_file_that_changes_for_the_worse_does_not_end_a_session() {
    let server = plain_server().await;
    let node = Node::registered(&server).await;
    // What the registration saves comes first: it would overwrite this edit.
    node.until("id and list", |node| {
        node.value("host").is_some_and(|host| host.contains('@'))
            && node.value("LibvirtComputingResource.id").is_some()
    })
    .await;
    let good = node.properties();
    node.write(&good.replace("port=", "port=not a number "));
    node.reload();
    node.logs("Configuration is not reloaded", 1).await;
    let pings = all(&server, |event| matches!(event, SimEvent::Ping { .. })).len();
    nth(&server, pings + 2, |event| matches!(event, SimEvent::Ping { answered: true, .. })).await;
    let failing = |status: &Document| status.checks.iter().any(|check| check.summary.contains("port"));
    assert_eq!(node.wait_for("the fault in the file", failing).await.session.state, SessionState::Registered);
    node.write(&good);
    node.reload();
    node.wait_for("the correction", |status| !failing(status)).await;
    assert_eq!(connections(&server), 1);
}
