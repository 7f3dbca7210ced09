//! Several management servers: the list, its order, moving between them. The servers share a port
//! and differ by loopback address, as real ones differ by host.

use crate::harness::{LIMIT, Node, command, config, flawless, ready, seen, startups};
use cloudstack_agent::sim::{Answers, Script, SimConfig, SimEvent, SimServer, Status};
use cloudstack_agent::wire::{Element, Flags};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const SECOND: &str = "127.0.0.2";

/// A server on each address, both telling the agent the list `servers`.
async fn pair(servers: &[&str]) -> (SimServer, SimServer) {
    let servers: Vec<String> = servers.iter().map(|host| (*host).to_owned()).collect();
    for _ in 0..20 {
        let settings = |listen| SimConfig { listen, servers: servers.clone(), ..config(Script::default()) };
        let first = SimServer::start(settings(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).await.unwrap();
        let beside = SocketAddr::new(IpAddr::V4(SECOND.parse().unwrap()), first.address().port());
        // The port may be taken on the other address by another test.
        if let Ok(second) = SimServer::start(settings(beside)).await {
            return (first, second);
        }
    }
    panic!("no port is free on both addresses");
}

async fn ask(server: &SimServer, element: Element) -> Answers {
    let answers = server.send(1, vec![element], Flags::default());
    tokio::time::timeout(LIMIT, answers).await.expect("no answer").unwrap()
}

#[tokio::test]
async fn a_new_list_is_saved_with_its_algorithm_and_an_equal_one_changes_nothing() {
    let (first, _second) = pair(&["127.0.0.1", SECOND]).await;
    let node = Node::registered(&first).await;
    node.until("the list of ReadyCommand", |node| {
        node.value("host").as_deref() == Some("127.0.0.1,127.0.0.2@static")
    })
    .await;
    let before = node.properties();
    let fields = json!({"msList": ["127.0.0.1", SECOND], "lbAlgorithm": "static", "lbCheckInterval": 0});
    let answers = ask(&first, command("org.apache.cloudstack.agent.lb.SetupMSListCommand", fields)).await;
    assert_eq!(answers.elements[0].class, "org.apache.cloudstack.agent.lb.SetupMSListAnswer");
    assert_eq!(answers.result(0), Some(true));
    let hostile = json!({"msList": ["127.0.0.1\nguid=stolen"], "lbAlgorithm": "static"});
    ask(&first, command("org.apache.cloudstack.agent.lb.SetupMSListCommand", hostile)).await;
    // A third exchange: whatever the second one set off has happened by then.
    ask(&first, command("CheckHealthCommand", json!({}))).await;
    assert_eq!(node.properties(), before);
    flawless(&first);
}

#[tokio::test]
async fn a_lost_server_is_followed_by_the_next_of_the_list() {
    let (first, second) = pair(&["127.0.0.1", SECOND]).await;
    let node = Node::registered(&first).await;
    node.until("the list", |node| node.value("host").is_some_and(|host| host.contains(SECOND))).await;
    first.stop().await;
    ready(&second, 1).await;
    assert!(node.is_registered().await.session.server.unwrap().starts_with(SECOND));
    flawless(&second);
}

#[tokio::test]
async fn a_migration_moves_the_connection_and_says_so() {
    let (first, second) = pair(&["127.0.0.1", SECOND]).await;
    let node = Node::registered(&first).await;
    let fields = json!({"msList": ["127.0.0.1", SECOND], "avoidMsList": ["127.0.0.1"], "lbAlgorithm": "static", "lbCheckInterval": 0});
    let answers = ask(&first, command("MigrateAgentConnectionCommand", fields)).await;
    assert_eq!(answers.elements[0].class, "com.cloud.agent.api.MigrateAgentConnectionAnswer");
    ready(&second, 1).await;
    assert_eq!(startups(&second)[0]["connectionTransferred"], true);
    assert_eq!(startups(&first)[0]["connectionTransferred"], false);
    node.is_registered().await;
    flawless(&second);
}

#[tokio::test]
async fn the_preferred_server_gets_its_host_back() {
    let (first, second) = pair(&["127.0.0.1", SECOND]).await;
    let mut node = Node::new(second.address());
    node.set("host", SECOND);
    node.set("host.lb.check.interval", "1");
    node.start();
    // Registers with the second, learns that the first is preferred, finds it reachable, moves.
    ready(&second, 1).await;
    ready(&first, 1).await;
    assert!(node.is_registered().await.session.server.unwrap().starts_with("127.0.0.1:"));
    flawless(&first);
}

#[tokio::test]
async fn a_list_that_avoids_every_server_is_used_as_if_it_avoided_none() {
    let (first, _second) = pair(&["127.0.0.1"]).await;
    let node = Node::registered(&first).await;
    let fields = json!({"msList": ["127.0.0.1"], "avoidMsList": ["127.0.0.1"], "lbAlgorithm": "static", "lbCheckInterval": 0, "triggerHostLb": false});
    ask(&first, command("org.apache.cloudstack.agent.lb.SetupMSListCommand", fields)).await;
    first.restart_after(Duration::from_millis(10)).await;
    ready(&first, 2).await;
    node.is_registered().await;
    seen(&first, |event| matches!(event, SimEvent::Transition { to: Status::Up, .. })).await;
}
