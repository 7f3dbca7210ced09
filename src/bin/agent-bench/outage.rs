//! A long outage: how soon hosts are Ready again once the server is back.
//!
//! Several servers stay away for different times, long enough for every agent to be at its longest
//! delay; each agent is one sample. In real time, with the agent's real delays.

use crate::child::Child;
use crate::figures::{Figure, Samples, Verdict};
use crate::place::{self, Place, TEST_DRIVER};
use crate::{Failure, Figures};
use cloudstack_agent::sim::{EventStream, SimEvent, SimServer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;

const SERVERS: usize = 3;
const AGENTS_EACH: usize = 8;
/// The delays double from 1 s to 24 s; the one of 16 s is over after at most 52 s.
const AT_CAP: Duration = Duration::from_secs(52);
/// Added at random, so that the return meets any moment of a delay.
const SPREAD: f64 = 18.0;
const REGISTER_LIMIT: Duration = Duration::from_secs(60);
const RETURN_LIMIT: Duration = Duration::from_secs(90);

pub async fn run(place: &Place) -> Figures {
    let mut groups = Vec::new();
    for _ in 0..SERVERS {
        groups.push(group(place).await?);
    }
    let mut returns = JoinSet::new();
    for (server, agents) in groups {
        returns.spawn(outage(server, agents));
    }
    let mut seconds = Vec::new();
    while let Some(done) = returns.join_next().await {
        seconds.extend(done??);
    }
    let samples = Samples::new(seconds);
    let (mean, most) = (samples.mean(), samples.max());
    Ok(vec![
        Figure::new(
            "server up again to Ready, longest",
            format!("{most:.1} s ({} samples)", SERVERS * AGENTS_EACH),
        )
        .target("35 s", Verdict::of(most < 35.0)),
        Figure::new("server up again to Ready, mean", format!("{mean:.1} s"))
            .target("20 s", Verdict::of(mean < 20.0)),
    ])
}

async fn group(place: &Place) -> Result<(SimServer, Vec<Child>), Failure> {
    // Held for two ping intervals, a session starts the series of delays anew.
    let server = SimServer::start(place::server(Duration::from_secs(1))).await?;
    let mut agents = Vec::new();
    for _ in 0..AGENTS_EACH {
        agents.push(place.start(&place.host(&server, TEST_DRIVER)?)?);
    }
    Ok((server, agents))
}

/// Seconds from the return of the server to Ready, of each agent.
async fn outage(server: SimServer, agents: Vec<Child>) -> Result<Vec<f64>, Failure> {
    let mut events = server.events();
    all_ready(&mut events, agents.len(), REGISTER_LIMIT).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.restart_after(AT_CAP + Duration::from_secs_f64(fastrand::f64() * SPREAD)).await;
    events.until(REGISTER_LIMIT, |r| matches!(r.event, SimEvent::Stopped { .. })).await;
    let up = events.until(RETURN_LIMIT, |r| matches!(r.event, SimEvent::Listening { .. })).await;
    let up = up.ok_or("The simulated server did not come back")?.at;
    let ready = all_ready(&mut events, agents.len(), RETURN_LIMIT).await?;
    Ok(ready.values().map(|at| at.saturating_sub(up).as_secs_f64()).collect())
}

/// Waits until `count` hosts are Ready; gives the moment of each host's first time.
pub async fn all_ready(
    events: &mut EventStream,
    count: usize,
    limit: Duration,
) -> Result<BTreeMap<i64, Duration>, Failure> {
    let mut ready = BTreeMap::new();
    let mut open = BTreeSet::new();
    let all = events.until(limit, |recorded| {
        match recorded.event {
            SimEvent::Connected { .. } => drop(open.insert(recorded.connection)),
            SimEvent::Ready { host_id } => drop(ready.entry(host_id).or_insert(recorded.at)),
            _ => {}
        }
        ready.len() == count
    });
    let complete = all.await.is_some();
    if complete {
        return Ok(ready);
    }
    let text = format!(
        "Only {} of {count} hosts were Ready within {limit:?}, after {} connections",
        ready.len(),
        open.len()
    );
    Err(text.into())
}
