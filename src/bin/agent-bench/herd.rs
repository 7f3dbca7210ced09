//! A thousand agents lose one server at the same moment: how hard do they come back?

use crate::child::{Child, spawn};
use crate::figures::{Figure, Verdict};
use crate::machine::Memory;
use crate::outage::all_ready;
use crate::place::{self, Place, TEST_DRIVER};
use crate::{Failure, Figures};
use cloudstack_agent::sim::{EventStream, SimEvent, SimServer};
use std::ffi::OsStr;
use std::time::Duration;

/// Short: all first attempts find the server. Long: most have failed a few times by then.
const OUTAGES: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(30)];
const LIMIT: Duration = Duration::from_secs(180);

pub async fn run(place: &Place, agents: usize) -> Figures {
    let server = SimServer::start(place::server(Duration::from_secs(60))).await?;
    let child = start_fleet(place, &server, agents, 1.0)?;
    let mut events = server.events();
    all_ready(&mut events, agents, LIMIT).await.map_err(|e| format!("{e}: {}", child.last_words()))?;
    let each = Memory::of(child.pid())?.anonymous as f64 / agents as f64;
    let mut figures = Vec::new();
    for down in OUTAGES {
        let back = comeback(&server, &mut events, agents, down).await?;
        let seconds = down.as_secs();
        figures.push(
            Figure::new(
                format!("{agents} agents, server away for {seconds} s: most connections in one second"),
                format!("{} /s", back.peak),
            )
            .target("a third of them", Verdict::of(back.peak <= agents.div_ceil(3))),
        );
        figures.push(Figure::new(
            format!("{agents} agents, server away for {seconds} s: until all are Ready"),
            format!("{:.1} s", back.all_ready.as_secs_f64()),
        ));
    }
    figures.push(Figure::new("memory of one more agent in a process", format!("{each:.0} KiB")));
    Ok(figures)
}

/// How the fleet came back.
struct Comeback {
    peak: usize,
    /// From the return of the server.
    all_ready: Duration,
}

async fn comeback(
    server: &SimServer,
    events: &mut EventStream,
    agents: usize,
    down: Duration,
) -> Result<Comeback, Failure> {
    let mut dials = server.events();
    server.restart_after(down).await;
    let up = events.until(LIMIT, |r| matches!(r.event, SimEvent::Listening { .. })).await;
    let up = up.ok_or("The simulated server did not come back")?.at;
    let ready = all_ready(events, agents, LIMIT).await?;
    let last = ready.values().max().copied().unwrap_or(up);
    let mut moments = Vec::new();
    dials
        .until(LIMIT, |recorded| {
            if recorded.at >= up && matches!(recorded.event, SimEvent::Connected { .. }) {
                moments.push(recorded.at);
            }
            recorded.at >= last
        })
        .await;
    Ok(Comeback { peak: most_within(&moments, Duration::from_secs(1)), all_ready: last.saturating_sub(up) })
}

/// The most of the ascending `moments` within any `window`.
fn most_within(moments: &[Duration], window: Duration) -> usize {
    let within = |(n, from): (usize, &Duration)| {
        moments.iter().skip(n).take_while(|at| at.saturating_sub(*from) < window).count()
    };
    moments.iter().enumerate().map(within).max().unwrap_or(0)
}

/// A child that runs `agents` agents against `server`, with their delays times `scale`.
pub fn start_fleet(place: &Place, server: &SimServer, agents: usize, scale: f64) -> Result<Child, Failure> {
    let dir = place.fresh("fleet")?;
    place.provision(&dir, server.pki())?;
    for n in 0..agents {
        place.configure(&dir.join(format!("{n}.properties")), server.address(), TEST_DRIVER)?;
    }
    let scale = scale.to_string();
    let arguments: [&OsStr; 4] = ["--fleet".as_ref(), dir.as_ref(), "--scale".as_ref(), scale.as_ref()];
    spawn(&std::env::current_exe()?, &arguments, &dir.join("fleet.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_the_fullest_second_wherever_it_begins() {
        let moments = [0, 900, 1_100, 1_200, 1_950, 4_000].map(Duration::from_millis);
        assert_eq!(most_within(&moments, Duration::from_secs(1)), 3);
        assert_eq!(most_within(&[], Duration::from_secs(1)), 0);
    }
}
