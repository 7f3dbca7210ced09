//! What an agent owes a server that fails, one duty per test. Deadlines of minutes are left to the
//! tests of the pure session machine.

use crate::harness::{
    LIMIT, Node, all, closed, config, connections, flawless, long_command, nth, plain_server, ready, seen,
    server, startups,
};
use cloudstack_agent::sim::{Ending, Scenario, Script, SimConfig, SimEvent, SimServer, Status};
use cloudstack_agent::status::snapshot::SessionState;
use cloudstack_agent::wire::Flags;
use serde_json::Value;
use std::time::Duration;

const ID: &str = "LibvirtComputingResource.id";

fn startup(event: &SimEvent) -> bool {
    matches!(event, SimEvent::Startup { .. })
}

fn without_id(routing: &Value) -> Value {
    let mut routing = routing.clone();
    routing.as_object_mut().unwrap().remove("id");
    routing
}

#[tokio::test]
async fn duty_01_an_end_in_any_phase_gives_a_clean_new_session() {
    let script = Script::first(Scenario::AcceptClose, 1)
        .then(Scenario::Silent, 1)
        .then(Scenario::CutAfterStartup, 1)
        .finally(Scenario::Normal);
    let server = server(script).await;
    let mut node = Node::started(&server);
    let pid = node.pid();
    // Ends: in the handshake; with the startup unanswered; while commands run; after Ready.
    seen(&server, startup).await;
    server.restart_after(Duration::from_millis(10)).await;
    ready(&server, 1).await;
    server.restart_after(Duration::from_millis(10)).await;
    ready(&server, 2).await;
    let session = node.is_registered().await.session;
    assert_eq!((session.session_number, session.resets), (Some(5), Some(4)));
    let startups = startups(&server);
    assert_eq!(startups.len(), 4);
    for later in &startups[1..] {
        assert_eq!(without_id(later), without_id(&startups[0]), "something of an old session went along");
    }
    let ids: Vec<_> = startups.iter().map(|routing| routing.get("id").and_then(Value::as_i64)).collect();
    assert_eq!(ids, [None, None, None, Some(1)]);
    assert_eq!(node.pid(), pid);
    flawless(&server);
}

#[tokio::test]
async fn duty_02_id_zero_is_no_id() {
    let server = server(Script::first(Scenario::CutAfterStartup, 1).finally(Scenario::Normal)).await;
    let mut node = Node::new(server.address());
    // What the Java agent leaves behind after a registration that failed.
    node.set(ID, "0");
    let before = node.properties();
    node.start();
    closed(&server, 1).await;
    node.wait_for("a pause", |status| status.session.state == SessionState::Backoff).await;
    assert_eq!(node.value(ID).as_deref(), Some("0"), "StartupAnswer's hostId was taken for one");
    ready(&server, 1).await;
    node.until("saving the id", |node| node.value(ID).as_deref() == Some("1")).await;
    assert_eq!(before.lines().count(), node.properties().lines().filter(|line| !is_host_param(line)).count());
    nth(&server, 2, |event| matches!(event, SimEvent::Ping { answered: true, .. })).await;
    assert!(startups(&server).iter().all(|routing| routing.get("id").is_none()));
    let as_zero = all(&server, |event| matches!(event, SimEvent::Ping { host_id: 0, .. }));
    assert!(as_zero.is_empty(), "{as_zero:?}");
    flawless(&server);
}

/// Lines that SetHostParamsCommand adds.
fn is_host_param(line: &str) -> bool {
    line.starts_with("vm.migrate.wait=") || line.starts_with("router.aggregation.command.each.timeout=")
}

#[tokio::test]
async fn duty_03_pings_flow_while_the_server_makes_a_host_wait() {
    let server = server(Script::always(Scenario::NoReady)).await;
    let node = Node::started(&server);
    nth(&server, 3, |event| matches!(event, SimEvent::Ping { .. })).await;
    let session = node.status().await.session;
    assert_eq!(
        (session.state, session.waiting_for.as_deref()),
        (SessionState::Registering, Some("ReadyCommand"))
    );
    // The id is not known, so none is claimed.
    assert!(all(&server, |event| matches!(event, SimEvent::Ping { host_id: 0.., .. })).is_empty());
    assert_eq!(connections(&server), 1);
    flawless(&server);
}

#[tokio::test]
async fn duty_04_waits_grow_and_a_lost_registration_waits_five_seconds() {
    let server = server(Script::first(Scenario::AcceptClose, 3).finally(Scenario::Normal)).await;
    let _node = Node::started(&server);
    ready(&server, 1).await;
    let dialled = all(&server, |event| matches!(event, SimEvent::Connected { .. }));
    // Only the least waits are asserted: a busy machine makes them longer.
    for (pair, least) in dialled.windows(2).zip([0.75, 1.5, 3.0]) {
        let waited = (pair[1].at - pair[0].at).as_secs_f64();
        assert!(waited >= least, "{waited} s, at least {least} s expected");
    }
    // The simulator counts a return within five seconds as a violation.
    server.restart_after(Duration::from_millis(10)).await;
    ready(&server, 2).await;
    flawless(&server);
}

#[tokio::test]
async fn duty_05_each_session_has_a_fresh_inventory() {
    let server = plain_server().await;
    let node = Node::registered(&server).await;
    node.set("zone", "2");
    node.set("host.reserved.mem.mb", "2048");
    node.reload();
    node.logs("Configuration reloaded", 1).await;
    server.restart_after(Duration::from_millis(10)).await;
    ready(&server, 2).await;
    let startups = startups(&server);
    assert_eq!((&startups[0]["dataCenter"], &startups[1]["dataCenter"]), (&"1".into(), &"2".into()));
    assert_eq!(startups[1]["dom0MinMemory"], 2048u64 << 20);
    flawless(&server);
}

#[tokio::test]
async fn duty_06_a_cut_registration_is_explained() {
    let server = server(Script::first(Scenario::CutAfterStartup, 1).finally(Scenario::Normal)).await;
    let node = Node::started(&server);
    let session =
        node.wait_for("a pause", |status| status.session.state == SessionState::Backoff).await.session;
    let error = session.last_error.unwrap();
    assert!(error.contains("while registering this host"), "{error}");
    let last = ["CheckNetworkCommand", "CleanupNetworkRulesCmd", "SetHostParamsCommand"];
    assert!(last.iter().any(|name| error.contains(name)), "the last command is not named: {error}");
    let remedy = session.remedy.unwrap();
    assert!(remedy.contains("template_store_ref") && remedy.contains("image_store"), "{remedy}");
    assert!(session.next_attempt_at.is_some());
    let told = node.logged("WARN", "Not registered");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].fields["remedy"], remedy);

    let text = node.ask(&[]).await;
    assert_eq!(text.code, 2);
    assert!(text.stdout.contains("image_store"), "{}", text.stdout);

    ready(&server, 1).await;
    let session = node.is_registered().await.session;
    assert_eq!((session.last_error, session.remedy, session.next_attempt_at), (None, None, None));
}

#[tokio::test]
async fn duty_07_a_refusal_is_shown_and_outlived() {
    let server = server(Script::first(Scenario::Refuse, 1).finally(Scenario::Normal)).await;
    let mut node = Node::started(&server);
    let pid = node.pid();
    let session =
        node.wait_for("a pause", |status| status.session.state == SessionState::Backoff).await.session;
    let sentence = config(Script::default()).knobs.refusal;
    assert_eq!(session.server_message.as_ref(), Some(&sentence));
    assert!(matches!(closed(&server, 1).await.event, SimEvent::Closed { by: Ending::Agent, .. }));
    let page = node.ask(&[]).await;
    assert!(page.stdout.contains(&sentence), "{}", page.stdout);
    assert_eq!(node.logged("WARN", "Not registered")[0].fields["server_says"], sentence);
    ready(&server, 1).await;
    assert_eq!(node.is_registered().await.session.server_message, None);
    assert_eq!(node.pid(), pid);
    flawless(&server);
}

#[tokio::test]
async fn duty_08_a_rejected_startup_is_shown_and_outlived() {
    let server = server(Script::first(Scenario::StartupRejected, 1).finally(Scenario::Normal)).await;
    let mut node = Node::started(&server);
    let pid = node.pid();
    let session =
        node.wait_for("a pause", |status| status.session.state == SessionState::Backoff).await.session;
    assert!(session.last_error.unwrap().contains("rejected the startup"));
    ready(&server, 1).await;
    assert_eq!(node.pid(), pid);
    flawless(&server);
}

#[tokio::test]
async fn duty_09_a_wish_for_a_startup_is_ignored_while_registering() {
    let server = server(Script::always(Scenario::NoReady)).await;
    let mut node = Node::new(server.address());
    // Known from before, so the server finds the host by its pings: it is not Up yet.
    node.set(ID, "1");
    node.start();
    nth(&server, 3, |event| matches!(event, SimEvent::Ping { asked_for_startup: true, .. })).await;
    assert_eq!(node.status().await.session.state, SessionState::Registering);
    assert_eq!((startups(&server).len(), connections(&server)), (1, 1));
    flawless(&server);
}

#[tokio::test]
async fn duty_09_a_wish_for_a_startup_gives_one_new_connection_a_minute() {
    let server = server(Script::first(Scenario::SendStartup, 2).finally(Scenario::Normal)).await;
    let node = Node::started(&server);
    ready(&server, 2).await;
    let asked_again = |recorded: &cloudstack_agent::sim::Recorded| {
        recorded.connection == 2 && matches!(recorded.event, SimEvent::Ping { asked_for_startup: true, .. })
    };
    let mut events = server.events();
    for _ in 0..3 {
        events.until(LIMIT, asked_again).await.expect("the host is not Up again, so the server asks again");
    }
    assert_eq!((connections(&server), startups(&server).len()), (2, 2));
    let session = node.status().await.session;
    assert_eq!((session.state, session.reregisters), (SessionState::Registered, Some(1)));
    assert!(matches!(closed(&server, 1).await.event, SimEvent::Closed { by: Ending::Agent, .. }));
    // Neither a second startup on a link nor two links at once nor a hasty return.
    flawless(&server);
}

async fn is_parked(node: &Node) {
    let session = node.wait_for("parking", |status| status.session.parked).await.session;
    assert_eq!(session.state, SessionState::Backoff);
}

#[tokio::test]
async fn duty_10_a_removed_host_forgets_its_place_and_waits_for_a_new_one() {
    let server = server(Script::first(Scenario::ShutdownRemove, 1).finally(Scenario::Normal)).await;
    let mut node = Node::started(&server);
    let pid = node.pid();
    is_parked(&node).await;
    for key in ["zone", "pod", "cluster"] {
        assert_eq!(node.value(key).as_deref(), Some(""), "{key}");
    }
    let usual = node.usual_properties(server.address().port());
    for line in usual.lines().filter(|line| !["zone=1", "pod=1", "cluster=1"].contains(line)) {
        assert!(node.properties().lines().any(|kept| kept == line), "{line} is gone");
    }
    let answered = |event: &SimEvent| matches!(event, SimEvent::Answer { command, result: Some(true), .. } if command == "ShutdownCommand");
    seen(&server, answered).await;

    // A place that is named only in part is none.
    node.set("zone", "1");
    node.reload();
    node.logs("Configuration reloaded", 1).await;
    is_parked(&node).await;
    node.set("pod", "1");
    node.set("cluster", "3");
    node.reload();
    ready(&server, 2).await;
    assert_eq!((startups(&server)[1]["cluster"].clone(), connections(&server)), ("3".into(), 2));
    assert_eq!(node.pid(), pid);
    flawless(&server);
}

#[tokio::test]
async fn duty_10_a_deleted_host_keeps_its_place_and_stays_quiet() {
    let server = server(Script::first(Scenario::ShutdownCommand, 1).finally(Scenario::Normal)).await;
    let node = Node::started(&server);
    is_parked(&node).await;
    assert_eq!(node.value("zone").as_deref(), Some("1"));
    let page = node.ask(&[]).await;
    assert_eq!(page.code, 2);
    assert!(page.stdout.contains("deleteHost"), "{}", page.stdout);
    node.set("cluster", "2");
    node.reload();
    ready(&server, 2).await;
    assert_eq!(startups(&server)[1]["cluster"], "2");
    flawless(&server);
}

async fn says_good_bye(server: &SimServer, node: &mut Node) {
    let exit = tokio::time::timeout(Duration::from_secs(10), node.stop()).await;
    assert_eq!(exit.expect("the agent takes longer than ten seconds"), Some(0));
    let goodbye = seen(server, |event| matches!(event, SimEvent::Shutdown { .. })).await;
    assert!(matches!(&goodbye.event, SimEvent::Shutdown { reason, .. } if reason == "sig.kill"), "{goodbye}");
    let end = closed(server, 1).await;
    assert!(matches!(end.event, SimEvent::Closed { by: Ending::Shutdown, .. }), "{end}");
    let host = server.host(&node.resource_guid()).unwrap();
    assert_eq!(host.history(), [Status::Connecting, Status::Up, Status::Disconnected]);
    flawless(server);
}

#[tokio::test]
async fn duty_11_a_stop_is_announced() {
    let server = plain_server().await;
    let mut node = Node::registered(&server).await;
    says_good_bye(&server, &mut node).await;
    assert!(node.logged("ERROR", "").is_empty());
}

#[tokio::test]
async fn duty_11_a_stop_is_announced_while_a_command_runs() {
    let server = plain_server().await;
    let mut node = Node::new(server.address());
    node.with_long_command().await;
    node.start();
    ready(&server, 1).await;
    let _answer = server.send(1, vec![long_command()], Flags::STOP_ON_ERROR);
    node.long_command_begins().await;
    says_good_bye(&server, &mut node).await;
}

#[tokio::test]
async fn duty_12_an_answer_belongs_to_its_connection() {
    let server = SimServer::start(SimConfig { ..config(Script::default()) }).await.unwrap();
    let mut node = Node::new(server.address());
    node.with_long_command().await;
    node.start();
    ready(&server, 1).await;
    let answer = server.send(1, vec![long_command()], Flags::STOP_ON_ERROR);
    node.long_command_begins().await;
    server.restart_after(Duration::from_millis(10)).await;
    assert!(answer.await.is_err());
    ready(&server, 2).await;
    node.finish_long_command();
    node.logs("its answer is dropped", 1).await;
    // A ping later the answer would be here too.
    let pings = all(&server, |event| matches!(event, SimEvent::Ping { .. })).len();
    nth(&server, pings + 2, |event| matches!(event, SimEvent::Ping { .. })).await;
    flawless(&server);
}

#[tokio::test]
async fn duty_13_an_end_without_close_notify_is_ordinary() {
    let server = plain_server().await;
    let node = Node::registered(&server).await;
    server.stop().await;
    let status = node.wait_for("the end", |status| status.session.state == SessionState::Backoff).await;
    let reason = status.session.last_disconnect_reason.unwrap();
    assert!(reason.contains("the server closed the connection"), "{reason}");
    assert_eq!(node.logged("INFO", "Session ended").len(), 1);
    let alarms: Vec<_> = node.log().into_iter().filter(|line| line.level == "ERROR").collect();
    assert!(alarms.is_empty(), "{alarms:?}");
}
