//! Proof of progress for the watchdog: a task beats only while it is really polled.
//!
//! The beat runs inside the watched task, so a task that blocks or loops stops beating. What the
//! task waits for (a dead server, a hung libvirt) does not: restarting the agent cures neither.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often a watched task beats.
const BEAT: Duration = Duration::from_secs(5);

/// Counts the beats of one task.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Runs `work` and beats beside it, in the same task.
    pub async fn watch<F: Future>(self, work: F) -> F::Output {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(BEAT) => { self.0.fetch_add(1, Ordering::Relaxed); }
            }
        }
    }
}

/// Feeds `alive` as long as every pulse has moved since the last time.
pub async fn feed(pulses: Vec<Pulse>, every: Duration, alive: impl Fn()) {
    let every = every.max(BEAT * 2);
    let mut last: Vec<Option<u64>> = vec![None; pulses.len()];
    loop {
        let now: Vec<Option<u64>> = pulses.iter().map(|pulse| Some(pulse.beats())).collect();
        if now.iter().zip(&last).all(|(now, last)| now != last) {
            alive();
        } else {
            tracing::error!("A task of the agent makes no progress; the watchdog is not fed");
        }
        last = now;
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_working_task_beats_and_a_finished_one_returns() {
        let pulse = Pulse::default();
        let work = pulse.clone().watch(tokio::time::sleep(Duration::from_secs(21)));
        work.await;
        assert_eq!(pulse.beats(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_starves_when_one_task_stands_still() {
        let (moving, still) = (Pulse::default(), Pulse::default());
        tokio::spawn(moving.clone().watch(std::future::pending::<()>()));
        let fed = Pulse::default();
        let count = fed.clone();
        tokio::spawn(feed(vec![moving, still], Duration::from_secs(10), move || {
            count.0.fetch_add(1, Ordering::Relaxed);
        }));
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(fed.beats(), 1, "only the first round, before anything was known");
    }
}
