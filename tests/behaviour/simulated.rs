//! The server's side of a test: its settings, and waiting for what it sees.

use crate::harness::LIMIT;
use cloudstack_agent::sim::{
    Knobs, Recorded, Rule, Scenario, Script, SimConfig, SimEvent, SimServer, SshKeys, Violation,
};
use serde_json::Value;
use std::time::Duration;

/// Settings of a server for agents on this machine: no bridge needed, and nothing that would write
/// keys into the home directory of whoever runs the tests.
pub fn config(script: Script) -> SimConfig {
    let knobs = Knobs {
        traffic_label: "lo".to_owned(),
        down: Duration::from_secs(2),
        delay: Duration::from_millis(200),
        ..Knobs::default()
    };
    SimConfig { script, knobs, ssh_keys: SshKeys::Leave, ..SimConfig::default() }
}

pub async fn server(script: Script) -> SimServer {
    SimServer::start(config(script)).await.unwrap()
}

/// A server that does nothing unusual.
pub async fn plain_server() -> SimServer {
    server(Script::always(Scenario::Normal)).await
}

/// Waits for the `n`th event that `wanted` accepts, counted from the server's start.
pub async fn nth(server: &SimServer, n: usize, wanted: impl Fn(&SimEvent) -> bool) -> Recorded {
    let mut events = server.events();
    let mut found = None;
    for _ in 0..n {
        found = events.until(LIMIT, |recorded| wanted(&recorded.event)).await;
        assert!(found.is_some(), "not seen {n} times; record:\n{}", record(server));
    }
    found.expect("n is at least 1")
}

pub async fn seen(server: &SimServer, wanted: impl Fn(&SimEvent) -> bool) -> Recorded {
    nth(server, 1, wanted).await
}

/// Waits for the `n`th time that a host became Up.
pub async fn ready(server: &SimServer, n: usize) -> Recorded {
    nth(server, n, |event| matches!(event, SimEvent::Ready { .. })).await
}

/// Waits for the end of connection `number`.
pub async fn closed(server: &SimServer, number: u64) -> Recorded {
    let mut events = server.events();
    let end = |r: &Recorded| r.connection == number && matches!(r.event, SimEvent::Closed { .. });
    events.until(LIMIT, end).await.unwrap_or_else(|| panic!("not closed; record:\n{}", record(server)))
}

/// The events so far that `wanted` accepts.
pub fn all(server: &SimServer, wanted: impl Fn(&SimEvent) -> bool) -> Vec<Recorded> {
    server.recorded().into_iter().filter(|recorded| wanted(&recorded.event)).collect()
}

pub fn connections(server: &SimServer) -> usize {
    all(server, |event| matches!(event, SimEvent::Connected { .. })).len()
}

/// Fields of each StartupRoutingCommand that came, in order.
pub fn startups(server: &SimServer) -> Vec<Value> {
    let routing = |recorded: Recorded| match recorded.event {
        SimEvent::Startup { routing, .. } => Some(routing),
        _ => None,
    };
    server.recorded().into_iter().filter_map(routing).collect()
}

/// Rules that were broken.
pub fn broken(server: &SimServer) -> Vec<Rule> {
    server.violations().into_iter().map(|violation| violation.rule).collect()
}

/// Asserts that no rule was broken.
pub fn flawless(server: &SimServer) {
    let violations: Vec<Violation> = server.violations();
    assert!(violations.is_empty(), "{violations:#?}; record:\n{}", record(server));
}

fn record(server: &SimServer) -> String {
    server.recorded().iter().map(|recorded| format!("{recorded}\n")).collect()
}
