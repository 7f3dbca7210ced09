//! Commands beside each other and in batches, as the server sees them.

use crate::harness::{Node, all, command, flawless, long_command, nth, plain_server, ready};
use cloudstack_agent::sim::{Answers, SendError, SimEvent, SimServer};
use cloudstack_agent::wire::{Element, Flags};
use serde_json::json;
use std::time::Duration;

const NO_FLAGS: Flags = Flags(0);

async fn prepared() -> (SimServer, Node) {
    let server = plain_server().await;
    let mut node = Node::new(server.address());
    node.with_long_command().await;
    node.start();
    ready(&server, 1).await;
    node.is_registered().await;
    (server, node)
}

fn health() -> Element {
    command("CheckHealthCommand", json!({}))
}

/// Fails on a host whose maintenance scripts are in order: there is no such stage.
fn failing() -> Element {
    command("RollingMaintenanceCommand", json!({"stage": "Lunch", "payload": ""}))
}

async fn answers(waiting: impl Future<Output = Result<Answers, SendError>>) -> Answers {
    tokio::time::timeout(crate::harness::LIMIT, waiting).await.expect("no answer").unwrap()
}

fn names(answers: &Answers) -> Vec<&str> {
    answers.elements.iter().map(Element::simple_name).collect()
}

#[tokio::test]
async fn a_long_command_delays_nothing_else() {
    let (server, node) = prepared().await;
    let long = server.send(1, vec![long_command()], Flags::STOP_ON_ERROR);
    tokio::pin!(long);
    node.long_command_begins().await;

    let pings = all(&server, |event| matches!(event, SimEvent::Ping { .. })).len();
    assert_eq!(answers(server.send(1, vec![health()], NO_FLAGS)).await.result(0), Some(true));
    let maintain = command("MaintainCommand", json!({}));
    assert_eq!(answers(server.send(1, vec![maintain], Flags::IN_SEQUENCE)).await.result(0), Some(true));
    let stats = command(
        "GetHostStatsCommand",
        json!({"hostGuid": node.resource_guid(), "hostName": "x", "hostId": 1}),
    );
    let stats = answers(server.send(1, vec![stats], NO_FLAGS)).await;
    assert_eq!((names(&stats), stats.result(0)), (vec!["GetHostStatsAnswer"], Some(true)));
    nth(&server, pings + 3, |event| matches!(event, SimEvent::Ping { answered: true, .. })).await;
    assert!(at_once(long.as_mut()).await.is_none(), "the long command was to be on its way still");
    let busy =
        node.wait_for("the count", |status| status.commands.as_ref().is_some_and(|c| c.in_flight == 1)).await;
    assert!(busy.session.missed_pings.unwrap_or_default() < 3);

    node.finish_long_command();
    let end = answers(long).await;
    assert_eq!((names(&end), end.result(0)), (vec!["RollingMaintenanceAnswer"], Some(true)));
    flawless(&server);
}

/// The result if it is there already.
async fn at_once<F: Future + Unpin>(future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::ZERO, future).await.ok()
}

#[tokio::test]
async fn many_long_commands_leave_room_for_short_ones() {
    let (server, node) = prepared().await;
    let long: Vec<_> = (0..20).map(|_| server.send(1, vec![long_command()], NO_FLAGS)).collect();
    node.long_command_begins().await;
    node.wait_for("all of them", |status| status.commands.as_ref().is_some_and(|c| c.in_flight == 20)).await;
    assert_eq!(answers(server.send(1, vec![health()], NO_FLAGS)).await.result(0), Some(true));
    node.finish_long_command();
    for one in long {
        assert_eq!(answers(one).await.result(0), Some(true));
    }
    flawless(&server);
}

#[tokio::test]
async fn a_batch_stops_at_the_first_failure_if_it_is_told_to() {
    let (server, _node) = prepared().await;
    let batch = || vec![health(), failing(), health(), health()];
    let stopped = answers(server.send(1, batch(), Flags::STOP_ON_ERROR)).await;
    assert_eq!(stopped.elements.len(), 4);
    assert_eq!([0, 1, 2, 3].map(|n| stopped.result(n)), [Some(true), Some(false), Some(false), Some(false)]);
    for skipped in [2, 3] {
        assert_eq!(stopped.details(skipped).as_deref(), Some("Stopped by previous failure"));
    }
    assert_ne!(stopped.details(1), stopped.details(2));

    let whole = answers(server.send(1, batch(), NO_FLAGS)).await;
    assert_eq!([0, 1, 2, 3].map(|n| whole.result(n)), [Some(true), Some(false), Some(true), Some(true)]);
    assert_eq!(names(&whole)[1], "RollingMaintenanceAnswer", "a failure has the class of its command");
    flawless(&server);
}

#[tokio::test]
async fn an_unknown_class_keeps_its_place_in_the_batch() {
    let (server, node) = prepared().await;
    let unknown = command("com.example.NoSuchCommand", json!({"deep": [{"er": null}]}));
    let batch = vec![health(), unknown, health()];
    let whole = answers(server.send(1, batch.clone(), NO_FLAGS)).await;
    assert_eq!(names(&whole), ["CheckHealthAnswer", "UnsupportedAnswer", "CheckHealthAnswer"]);
    assert_eq!([0, 1, 2].map(|n| whole.result(n)), [Some(true), Some(false), Some(true)]);
    assert!(whole.details(1).unwrap().contains("com.example.NoSuchCommand"));
    let stopped = answers(server.send(1, batch, Flags::STOP_ON_ERROR)).await;
    assert_eq!(names(&stopped)[..2], ["CheckHealthAnswer", "UnsupportedAnswer"]);
    assert_eq!(stopped.details(2).as_deref(), Some("Stopped by previous failure"));
    let counted = |status: &cloudstack_agent::status::Status| {
        status.commands.as_ref().is_some_and(|commands| commands.unsupported == 2)
    };
    node.wait_for("the count of unsupported commands", counted).await;
    flawless(&server);
}

#[tokio::test]
async fn fields_that_cannot_be_read_are_one_failed_answer() {
    let (server, _node) = prepared().await;
    let odd =
        command("RollingMaintenanceCommand", json!({"stage": {"not": "text"}, "payload": "", "started": []}));
    let whole = answers(server.send(1, vec![odd, health()], NO_FLAGS)).await;
    assert_eq!(names(&whole), ["RollingMaintenanceAnswer", "CheckHealthAnswer"]);
    assert_eq!((whole.result(0), whole.result(1)), (Some(false), Some(true)));
    flawless(&server);
}

#[tokio::test]
async fn a_command_that_takes_longer_than_its_own_limit_fails() {
    let (server, node) = prepared().await;
    let long =
        command("RollingMaintenanceCommand", json!({"stage": "PreMaintenance", "payload": "", "wait": 2}));
    let late = answers(server.send(1, vec![long, health()], NO_FLAGS)).await;
    assert_eq!((late.result(0), late.result(1)), (Some(false), Some(true)));
    assert_eq!(names(&late)[0], "RollingMaintenanceAnswer");
    node.finish_long_command();
    flawless(&server);
}

#[tokio::test]
async fn a_large_batch_travels_both_ways() {
    let (server, _node) = prepared().await;
    // Above 8192 bytes bodies are compressed; the simulator checks that.
    let whole = answers(server.send(1, vec![health(); 500], NO_FLAGS)).await;
    assert_eq!(whole.elements.len(), 500);
    assert!((0..500).all(|n| whole.result(n) == Some(true)));
    assert!(whole.header.flags.contains(Flags::COMPRESSED));
    flawless(&server);
}
