//! An agent that starts before what it needs, and how the program speaks when it is not well.

use crate::harness::{Node, all, broken, config, flawless, plain_server, ready};
use cloudstack_agent::sim::{Rule, Scenario, Script, SimEvent};
use cloudstack_agent::status::snapshot::{SessionState, Status};
use serde_json::Value;

async fn waits_for(node: &Node, what: &str) -> Status {
    let waiting =
        |status: &Status| status.session.waiting_for.as_ref().is_some_and(|obstacle| obstacle.contains(what));
    let status = node.wait_for(what, waiting).await;
    assert_eq!(status.session.state, SessionState::Idle);
    status
}

#[tokio::test]
async fn without_a_configuration_it_waits_for_one() {
    let server = plain_server().await;
    let mut node = Node::bare();
    node.start();
    let pid = node.pid();
    waits_for(&node, "agent.properties to appear").await;
    let page = node.ask(&[]).await;
    assert_eq!(page.code, 2);
    assert!(page.stdout.contains("agent.properties"), "{}", page.stdout);
    // Nobody tells the agent: it looks by itself.
    node.write(&node.usual_properties(server.address().port()));
    ready(&server, 1).await;
    node.is_registered().await;
    assert_eq!(node.pid(), pid);
    flawless(&server);
}

#[tokio::test]
async fn without_a_guid_it_waits_for_one() {
    let server = plain_server().await;
    let mut node = Node::bare();
    let whole = node.usual_properties(server.address().port());
    let nameless: String =
        whole.lines().filter(|line| !line.starts_with("guid=")).map(|l| format!("{l}\n")).collect();
    node.write(&nameless);
    node.start();
    waits_for(&node, "guid in ").await;
    assert!(all(&server, |event| matches!(event, SimEvent::Connected { .. })).is_empty());
    node.write(&whole);
    ready(&server, 1).await;
    flawless(&server);
}

#[tokio::test]
async fn with_a_broken_configuration_it_waits_for_a_correction() {
    let server = plain_server().await;
    let mut node = Node::bare();
    let whole = node.usual_properties(server.address().port());
    node.write(&whole.replace("port=", "port=x"));
    node.start();
    let status = waits_for(&node, "a correction").await;
    assert!(status.session.waiting_for.unwrap().contains("port"));
    node.write(&whole);
    node.reload();
    ready(&server, 1).await;
    flawless(&server);
}

#[tokio::test]
async fn without_libvirt_it_waits_for_it() {
    let server = plain_server().await;
    let mut node = Node::new(server.address());
    let machine = node.path("machine.xml");
    let uri = format!("test://{}", machine.display());
    node.set("hypervisor.uri", &uri);
    node.start();
    waits_for(&node, &format!("libvirt at {uri}")).await;
    let page = node.ask(&[]).await;
    assert_eq!(page.code, 2);
    assert!(page.stdout.contains("libvirt"), "{}", page.stdout);
    assert!(all(&server, |event| matches!(event, SimEvent::Connected { .. })).is_empty());

    let guest =
        "<domain type='test'><name>i-2-3-VM</name><memory>65536</memory><os><type>hvm</type></os></domain>";
    let text = format!("<node><memory>8388608</memory>{guest}</node>");
    std::fs::write(node.path("machine.written"), text).unwrap();
    std::fs::rename(node.path("machine.written"), machine).unwrap();
    ready(&server, 1).await;
    let ping =
        crate::harness::seen(&server, |event| matches!(event, SimEvent::Ping { vms: Some(_), .. })).await;
    let SimEvent::Ping { vms: Some(guests), .. } = ping.event else { unreachable!() };
    assert_eq!(guests.into_iter().collect::<Vec<_>>(), [("i-2-3-VM".to_owned(), "PowerOn".to_owned())]);
    flawless(&server);
}

#[tokio::test]
async fn a_name_without_address_is_told_and_the_next_list_is_used() {
    let server = plain_server().await;
    let mut node = Node::new(server.address());
    node.set("host", "no-such-server.invalid");
    node.start();
    let failed = |status: &Status| status.session.last_error.is_some();
    let session = node.wait_for("a failure", failed).await.session;
    // Either the resolver says no, or it does not answer at all.
    let error = session.last_error.unwrap();
    assert!(
        error.contains("no-such-server.invalid has no address") || error.contains("no answer"),
        "{error}"
    );
    assert!(!session.remedy.unwrap().is_empty());
    node.set("host", "127.0.0.1@static");
    node.reload();
    ready(&server, 1).await;
    assert_eq!(node.is_registered().await.session.last_error, None);
    flawless(&server);
}

#[tokio::test]
async fn a_second_agent_ends_at_once_and_harms_nothing() {
    let server = plain_server().await;
    let mut node = Node::registered(&server).await;
    let pid = node.pid();
    let second = node.run_beside().await;
    assert_eq!(second.code, 67, "{}", second.stderr);
    assert!(second.stderr.contains("already"), "{}", second.stderr);
    assert_eq!(node.is_registered().await.agent.pid, pid);
    assert_eq!(all(&server, |event| matches!(event, SimEvent::Connected { .. })).len(), 1);
    flawless(&server);
}

fn document(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[tokio::test]
async fn the_status_has_three_depths() {
    let server = plain_server().await;
    let mut node = Node::new(server.address());
    // Never started: only what can be seen from outside.
    let before = node.ask(&["--json"]).await;
    assert_eq!((before.code, &document(&before.stdout)["source"]), (3, &"static".into()));
    assert_eq!(document(&before.stdout)["agent"]["pid"], Value::Null);

    node.start();
    ready(&server, 1).await;
    node.is_registered().await;
    let live = node.ask(&["--json"]).await;
    assert_eq!((live.code, &document(&live.stdout)["source"]), (1, &"live".into()));

    // A change reaches the snapshot a moment after it happened.
    let written = |node: &Node| {
        let text = std::fs::read_to_string(node.runtime_dir().join("status.json")).unwrap_or_default();
        text.contains(r#""state":"registered""#)
    };
    node.until("the snapshot", written).await;
    node.kill().await;
    let dead = node.ask(&["--json"]).await;
    let shown = document(&dead.stdout);
    assert_eq!((dead.code, &shown["source"], &shown["verdict"]), (3, &"snapshot".into(), &"fail".into()));
    assert_eq!(shown["session"]["host_id"], 1);
    let page = node.ask(&[]).await;
    assert_eq!(page.code, 3);
    assert!(page.stdout.contains("not running") && page.stdout.contains("snapshot"), "{}", page.stdout);

    // What the dead process left behind is no obstacle.
    node.start();
    ready(&server, 2).await;
    let again = node.ask(&["--json", "--wait", "registered"]).await;
    assert_eq!((again.code, &document(&again.stdout)["source"]), (1, &"live".into()));
    // A new process cannot know when the old one lost its session.
    assert!(broken(&server).iter().all(|rule| *rule == Rule::FastReconnect));
}

#[tokio::test]
async fn a_stopped_agent_says_so() {
    let server = plain_server().await;
    let mut node = Node::registered(&server).await;
    assert_eq!(node.stop().await, Some(0));
    let after = node.ask(&["--json"]).await;
    let shown = document(&after.stdout);
    assert_eq!((after.code, &shown["source"]), (3, &"snapshot".into()));
    assert_eq!(shown["session"]["state"], "stopped");
}

#[tokio::test]
async fn a_stop_is_heard_wherever_it_waits() {
    // Before a configuration, between two attempts, and while a server does not answer.
    let mut bare = Node::bare();
    bare.start();
    waits_for(&bare, "to appear").await;
    assert_eq!(bare.stop().await, Some(0));

    let silent =
        crate::harness::server(Script::first(Scenario::StartupRejected, 1).finally(Scenario::Silent)).await;
    let mut node = Node::started(&silent);
    node.wait_for("a pause", |status| status.session.state == SessionState::Backoff).await;
    assert_eq!(node.stop().await, Some(0));
    node.start();
    let registering = |status: &Status| status.session.state == SessionState::Registering;
    node.wait_for("the startup", registering).await;
    assert_eq!(node.stop().await, Some(0));
    flawless(&silent);
}

#[tokio::test]
async fn statistics_are_answered_from_the_start() {
    let every = Some(std::time::Duration::from_secs(1));
    let settings = cloudstack_agent::sim::SimConfig { stats: every, ..config(Script::default()) };
    let server = cloudstack_agent::sim::SimServer::start(settings).await.unwrap();
    let _node = Node::registered(&server).await;
    for wanted in ["GetHostStatsAnswer", "GetStorageStatsAnswer"] {
        let good = |event: &SimEvent| matches!(event, SimEvent::Answer { class, result: Some(true), .. } if class == wanted);
        crate::harness::nth(&server, 2, good).await;
    }
    flawless(&server);
}
