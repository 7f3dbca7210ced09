//! What the agent costs while it does nothing: processor time of an idle minute, size on disk.

use crate::Figures;
use crate::figures::{Figure, Samples, Verdict};
use crate::load;
use crate::machine;
use crate::place::Place;
use std::time::Duration;

/// Agents measured side by side.
const AGENTS: usize = 3;
const SETTLE: Duration = Duration::from_secs(5);
/// One ping interval: each agent pings once.
const MINUTE: Duration = Duration::from_secs(60);

pub async fn idle(place: &Place) -> Figures {
    let mut agents = Vec::new();
    for _ in 0..AGENTS {
        agents.push(load::registered(place).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let look =
        || agents.iter().map(|one| machine::thread_times(one.agent.pid())).collect::<Result<Vec<_>, _>>();
    let before = look()?;
    tokio::time::sleep(MINUTE).await;
    let after = look()?;
    let spent =
        before.iter().zip(&after).map(|(before, after)| machine::spent(before, after).as_secs_f64() * 1e3);
    let spent = Samples::new(spent.collect());
    Ok(vec![
        Figure::new("processor time of an idle minute", spent.spread(1, "ms"))
            .target("200 ms", Verdict::of(spent.median() <= 200.0))
            .java("200 ms"),
    ])
}

pub fn size(place: &Place) -> Figures {
    let megabytes = std::fs::metadata(&place.agent)?.len() as f64 / 1e6;
    Ok(vec![
        Figure::new("binary, stripped", format!("{megabytes:.1} MB"))
            .target("8 MB", Verdict::of(megabytes <= 8.0))
            .java("107 MB of jars + JRE"),
    ])
}
