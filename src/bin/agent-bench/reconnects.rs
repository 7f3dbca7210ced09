//! A thousand lost sessions: does anything of them stay in memory?
//!
//! The session code runs in a child with its delays shortened, else this would take two hours. The
//! server cuts each session as soon as it is Ready. As many reconnects again come first: caches fill
//! then, and the allocator finds its size.

use crate::figures::{Figure, Samples, Verdict};
use crate::herd::start_fleet;
use crate::machine::Memory;
use crate::place::{self, Place};
use crate::{Failure, Figures};
use cloudstack_agent::sim::{EventStream, SimConfig, SimEvent, SimServer};
use std::time::Duration;

/// Looks at the child in the second half.
const LOOKS: usize = 20;
/// 5 to 10 s become 10 to 20 ms.
const SCALE: f64 = 0.002;
const LIMIT: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_millis(100);
/// Some pages come and go with the allocator; a leak of one session's state would be ten times that.
const TOLERATED_KIB: f64 = 100.0;

pub async fn run(place: &Place, reconnects: usize) -> Figures {
    let every = (reconnects / LOOKS).max(1);
    let config = SimConfig { reconnect_gap: Duration::ZERO, ..place::server(Duration::from_secs(60)) };
    let server = SimServer::start(config).await?;
    let child = start_fleet(place, &server, 1, SCALE)?;
    let mut events = server.events();
    let mut looks = Vec::new();
    for n in 0..=2 * reconnects {
        ready(&mut events).await.ok_or_else(|| lost(n, &child.last_words()))?;
        if n >= reconnects && n % every == 0 {
            tokio::time::sleep(SETTLE).await;
            looks.push(Memory::of(child.pid())?.anonymous as f64);
        }
        if n < 2 * reconnects {
            server.restart_after(Duration::ZERO).await;
        }
    }
    let (early, late) = halves(&looks);
    let growth = late - early;
    crate::tell(&format!(
        "KiB written by the agent, every {every} reconnects after {reconnects}: {looks:.0?}"
    ));
    Ok(vec![
        Figure::new(format!("memory growth over {reconnects} reconnects"), format!("{growth:+.0} KiB"))
            .target("none (below 100 KiB)", Verdict::of(growth < TOLERATED_KIB)),
    ])
}

fn lost(n: usize, words: &str) -> Failure {
    format!("Reconnect {n} did not become Ready within {LIMIT:?}: {words}").into()
}

async fn ready(events: &mut EventStream) -> Option<()> {
    events.until(LIMIT, |recorded| matches!(recorded.event, SimEvent::Ready { .. })).await.map(drop)
}

/// Medians of the first and the last five looks: one look may meet a buffer in use.
fn halves(looks: &[f64]) -> (f64, f64) {
    let median = |looks: Vec<f64>| Samples::new(looks).median();
    (median(looks.iter().take(5).copied().collect()), median(looks.iter().rev().take(5).copied().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_look_is_not_growth() {
        assert_eq!(halves(&[1.0, 1.0, 9.0, 1.0, 1.0, 2.0, 2.0, 9.0, 2.0, 2.0]), (1.0, 2.0));
    }
}
