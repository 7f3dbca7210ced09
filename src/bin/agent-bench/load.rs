//! Ten thousand trivial commands: their round trips, and what they leave behind in memory.

use crate::child::Child;
use crate::figures::{Figure, Samples, Verdict};
use crate::machine::{self, Memory};
use crate::place::{self, Place, TEST_DRIVER};
use crate::{Failure, Figures};
use cloudstack_agent::hypervisor::Hypervisor;
use cloudstack_agent::sim::{SimEvent, SimServer};
use cloudstack_agent::wire::{Element, Flags};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

const COMMANDS: usize = 10_000;
/// Commands before the measurement, so that caches and pools are warm.
const WARM_UP: usize = 300;
/// Commands under way at a time while memory is measured.
const WINDOW: usize = 16;
const LIMIT: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(2);

/// A registered agent.
pub struct Loaded {
    pub server: SimServer,
    pub agent: Child,
    pub host_id: i64,
}

/// Starts a server and one agent, and waits until it is Ready.
pub async fn registered(place: &Place) -> Result<Loaded, Failure> {
    let server = SimServer::start(place::server(Duration::from_secs(60))).await?;
    let host = place.host(&server, TEST_DRIVER)?;
    let agent = place.start(&host)?;
    let ready = server.events().until(LIMIT, |r| matches!(r.event, SimEvent::Ready { .. })).await;
    match ready.map(|recorded| recorded.event) {
        Some(SimEvent::Ready { host_id }) => Ok(Loaded { server, agent, host_id }),
        _ => Err(format!("The agent did not become Ready: {}", agent.last_words()).into()),
    }
}

/// The `n`th of a row of commands that need no more than this process.
fn trivial(n: usize) -> Result<Vec<Element>, serde_json::Error> {
    let (class, mut fields) = match n % 3 {
        0 => ("CheckHealthCommand", json!({})),
        1 => ("GetHostStatsCommand", json!({"hostGuid": "g", "hostName": "h", "hostId": 1})),
        _ => ("CheckNetworkCommand", json!({"networkInfoList": []})),
    };
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("contextMap".into(), json!({"logid": "5f3e9a10"}));
        fields.insert("wait".into(), json!(0));
        fields.insert("bypassHostMaintenance".into(), json!(false));
    }
    Ok(vec![Element::new(&format!("com.cloud.agent.api.{class}"), &fields)?])
}

/// Sends one and checks that it was answered well; gives the time.
async fn ask(loaded: &Loaded, n: usize) -> Result<Duration, Failure> {
    let sent = loaded.server.send(loaded.host_id, trivial(n)?, Flags::STOP_ON_ERROR);
    let answers = tokio::time::timeout(LIMIT, sent).await??;
    if answers.result(0) == Some(true) {
        return Ok(answers.latency);
    }
    Err(format!("A trivial command failed: {}", answers.details(0).unwrap_or_default()).into())
}

/// One command after the other.
pub async fn round_trips(place: &Place) -> Figures {
    let loaded = registered(place).await?;
    for n in 0..WARM_UP {
        ask(&loaded, n).await?;
    }
    let mut times = Vec::with_capacity(COMMANDS);
    for n in 0..COMMANDS {
        times.push(ask(&loaded, n).await?.as_secs_f64() * 1e3);
    }
    let times = Samples::new(times);
    let (p50, p99) = (times.median(), times.quantile(0.99));
    let name = |q| format!("round trip of a trivial command, {q} of 10 000");
    Ok(vec![
        Figure::new(name("p50"), format!("{p50:.2} ms"))
            .target("0.3 ms", Verdict::of(p50 <= 0.3))
            .java("45-65 ms"),
        Figure::new(name("p99"), format!("{p99:.2} ms")).target("2 ms", Verdict::of(p99 <= 2.0)),
    ])
}

/// Several commands at a time, then a look at the process.
pub async fn memory(place: &Place) -> Figures {
    // On a host libvirtd maps the same libraries, so their pages are not the agent's alone. This
    // process stands in for it.
    let libraries = Hypervisor::spawn(TEST_DRIVER);
    libraries.connected().await;
    let loaded = Arc::new(registered(place).await?);
    let mut under_way = JoinSet::new();
    for n in 0..COMMANDS {
        if under_way.len() >= WINDOW
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
        let loaded = loaded.clone();
        under_way.spawn(async move { ask(&loaded, n).await });
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    tokio::time::sleep(SETTLE).await;
    let pid = loaded.agent.pid();
    let memory = Memory::of(pid)?;
    let threads = machine::threads(pid)?;
    let mb = |kib: u64| kib as f64 / 1024.0;
    let (rss, private) = (mb(memory.rss), mb(memory.private));
    Ok(vec![
        Figure::new("RSS after 10 000 commands", format!("{rss:.1} MB"))
            .target("24 MB", Verdict::of(rss <= 24.0))
            .java("157-264 MB"),
        Figure::new("private memory (USS) after 10 000 commands", format!("{private:.1} MB"))
            .target("6 MB", Verdict::of(private <= 6.0))
            .java("226 MB"),
        Figure::new("of which written by the process (anonymous)", format!("{:.1} MB", mb(memory.anonymous))),
        Figure::new("threads", threads.to_string()).target("12", Verdict::of(threads <= 12)).java("52-56"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_repeats_three_commands() {
        let class = |n| trivial(n).unwrap()[0].class.clone();
        assert_eq!(class(0), class(3));
        assert!(class(0) != class(1) && class(1) != class(2));
    }
}
