//! How long to wait between sessions. The only user of the `backoff` crate.
//!
//! The crate is unmaintained (RUSTSEC-2025-0012); this file is all that a replacement touches.
//! Its two traps: an elapsed-time limit that silently ends the retries (switched off here) and a
//! wide default jitter (set here).

use super::end::EndClass;
use ::backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};
use std::time::Duration;

/// Share by which each delay varies to both sides: a thousand agents that lose one server at the
/// same moment must not come back at the same moment.
const JITTER: f64 = 0.25;

/// Middle of the longest delay; with the jitter on top it stays below 30 s.
const LONGEST: Duration = Duration::from_secs(24);

/// After a spoken rejection it makes little sense to ask often.
const LONGEST_REJECTED: Duration = Duration::from_secs(240);

/// A server needs this long to handle the old disconnect before the same host comes back.
pub const AFTER_READY: std::ops::Range<Duration> = Duration::from_secs(5)..Duration::from_secs(10);

/// How often a deleted host looks whether it was given a place again.
pub const PARKED: Duration = Duration::from_secs(300);

/// Delays of consecutive failures. A fresh value starts at the beginning; forgetting is dropping.
#[derive(Debug)]
pub struct Delays {
    unreachable: ExponentialBackoff,
    turned_away: ExponentialBackoff,
    rejected: ExponentialBackoff,
    /// 1 in the agent.
    scale: f64,
}

impl Default for Delays {
    fn default() -> Delays {
        Delays::scaled(1.0)
    }
}

fn policy(first: Duration, factor: f64, longest: Duration) -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(first)
        .with_multiplier(factor)
        .with_max_interval(longest)
        .with_randomization_factor(JITTER)
        .with_max_elapsed_time(None)
        .build()
}

impl Delays {
    /// Every delay times `scale`: for tests and the benchmark, which cannot wait hours for a
    /// thousand reconnects.
    pub fn scaled(scale: f64) -> Delays {
        Delays {
            unreachable: policy(Duration::from_secs(1), 2.0, LONGEST),
            turned_away: policy(Duration::from_secs(5), 1.7, LONGEST),
            rejected: policy(Duration::from_secs(5), 1.7, LONGEST_REJECTED),
            scale: scale.clamp(0.0, 1.0),
        }
    }

    /// Starts all series anew.
    pub fn reset(&mut self) {
        *self = Delays::scaled(self.scale);
    }

    /// The wait before the next session, after one that ended like this.
    pub fn after(&mut self, class: EndClass) -> Duration {
        let next = match class {
            EndClass::Unreachable => self.unreachable.next_backoff(),
            EndClass::TurnedAway => self.turned_away.next_backoff(),
            EndClass::Rejected => self.rejected.next_backoff(),
            EndClass::AfterReady => Some(between(AFTER_READY)),
            EndClass::Deleted => Some(PARKED),
            EndClass::Final => Some(Duration::ZERO),
        };
        next.unwrap_or(LONGEST).mul_f64(self.scale)
    }
}

fn between(range: std::ops::Range<Duration>) -> Duration {
    range.start + (range.end - range.start).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(class: EndClass, n: usize) -> Vec<f64> {
        let mut delays = Delays::default();
        (0..n).map(|_| delays.after(class).as_secs_f64()).collect()
    }

    #[test]
    fn unreachable_doubles_from_one_second_to_below_thirty() {
        for _ in 0..200 {
            let delays = series(EndClass::Unreachable, 12);
            for (delay, middle) in delays.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0]) {
                assert!((middle * 0.75..=middle * 1.25).contains(delay), "{delays:?}");
            }
            assert!(delays[5..].iter().all(|d| (18.0..=30.0).contains(d)), "{delays:?}");
        }
    }

    #[test]
    fn being_turned_away_starts_at_five_seconds() {
        for _ in 0..200 {
            let delays = series(EndClass::TurnedAway, 8);
            assert!((3.75..=6.25).contains(&delays[0]), "{delays:?}");
            assert!((6.3..=10.7).contains(&delays[1]), "{delays:?}");
            assert!(delays.iter().all(|d| *d <= 30.0), "{delays:?}");
        }
    }

    #[test]
    fn a_rejection_is_capped_at_five_minutes_and_never_gives_up() {
        let delays = series(EndClass::Rejected, 500);
        assert!(delays.iter().all(|d| *d <= 300.0));
        assert!(delays[499] >= 180.0);
    }

    #[test]
    fn after_a_ready_session_the_first_try_is_spread_over_five_to_ten_seconds() {
        let delays = series(EndClass::AfterReady, 500);
        assert!(delays.iter().all(|d| (5.0..10.0).contains(d)));
        let (low, high) =
            (delays.iter().cloned().fold(f64::MAX, f64::min), delays.iter().cloned().fold(0.0, f64::max));
        assert!(high - low > 3.0, "not spread: {low} to {high}");
    }

    #[test]
    fn a_scale_shortens_every_delay_and_survives_a_reset() {
        let mut delays = Delays::scaled(0.001);
        for class in [EndClass::Unreachable, EndClass::TurnedAway, EndClass::AfterReady, EndClass::Deleted] {
            assert!(delays.after(class) <= Duration::from_millis(300));
            delays.reset();
            assert!(delays.after(class) <= Duration::from_millis(300));
        }
        assert!(Delays::scaled(9.0).after(EndClass::AfterReady) <= Duration::from_secs(10), "never longer");
    }

    #[test]
    fn jitter_is_at_least_a_fifth() {
        let first: Vec<f64> = (0..500).map(|_| series(EndClass::Unreachable, 1)[0]).collect();
        assert!(first.iter().any(|d| *d < 0.82) && first.iter().any(|d| *d > 1.18));
    }
}
