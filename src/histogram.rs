//! Durations in fixed buckets: what is measured of commands and of libvirt calls.
//!
//! Upper bounds are the preferred numbers of the series R10, ten to a decade, from 1 µs to 800 s: so 1,
//! 2.5 and 5 of every decade are exact, which is where Prometheus looks. What takes longer is in the
//! last bucket.

use std::time::Duration;

/// Bounds of one decade, in hundredths. Neighbours differ by at most 28 %.
const STEPS: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
const BUCKETS: usize = 90;
/// Bound of the last bucket, in nanoseconds.
const LONGEST: u64 = 800_000_000_000;

/// How long something took, and how often.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
    sum: Duration,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: Box::new([0; BUCKETS]), total: 0, sum: Duration::ZERO }
    }
}

/// Upper bound of a bucket.
fn bound(bucket: usize) -> Duration {
    let hundredths = STEPS.get(bucket % STEPS.len()).copied().unwrap_or_default();
    let decade = u32::try_from(bucket / STEPS.len()).unwrap_or_default();
    Duration::from_nanos(hundredths * 10u64.pow(decade + 1))
}

/// The bucket with the lowest bound that is not below `took`.
fn bucket(took: Duration) -> usize {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(LONGEST).clamp(1_000, LONGEST);
    let power = nanos.ilog10();
    let unit = 10u64.pow(power - 2);
    let step = STEPS.iter().position(|step| nanos <= step * unit).unwrap_or(STEPS.len());
    (power as usize - 3) * STEPS.len() + step
}

impl Histogram {
    pub fn add(&mut self, took: Duration) {
        if let Some(count) = self.counts.get_mut(bucket(took)) {
            *count = count.saturating_add(1);
        }
        self.total += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// Number of durations.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// All durations together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Upper bound of the bucket that holds the given share (0.5, 0.99); `None` without samples.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let wanted = (self.total as f64 * share).ceil();
        let mut seen = 0.0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += f64::from(*count);
            if seen >= wanted {
                return Some(bound(bucket));
            }
        }
        None
    }

    /// How many durations are within each of `limits`, which rise, and above the one before it.
    pub fn split(&self, limits: &[Duration]) -> Vec<u64> {
        let mut parts = vec![0; limits.len()];
        for (bucket, count) in self.counts.iter().enumerate() {
            // What the last bucket holds has no upper bound.
            let known = bucket + 1 < BUCKETS;
            let part = limits.iter().position(|limit| known && bound(bucket) <= *limit);
            if let Some(part) = part.and_then(|part| parts.get_mut(part)) {
                *part += u64::from(*count);
            }
        }
        parts
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine = mine.saturating_add(*theirs);
        }
        self.total += other.total;
        self.sum = self.sum.saturating_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_quarter_and_a_bit() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0)] {
            let got = histogram.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((exact..=exact * 1.28).contains(&got), "{share}: {got}");
        }
        histogram.add(Duration::from_secs(86_400));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_secs(800)));
        assert_eq!((histogram.total(), histogram.sum().as_secs()), (1001, 86_400));
    }

    #[test]
    fn every_bound_is_the_last_of_its_bucket() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(bound(at)), at);
            let next = if at + 1 < BUCKETS { at + 1 } else { at };
            assert_eq!(bucket(bound(at) + Duration::from_nanos(1)), next, "{at}");
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bound(BUCKETS - 1), Duration::from_nanos(LONGEST));
    }

    #[test]
    fn parts_are_exact_at_round_limits() {
        let mut histogram = Histogram::default();
        let millis = |millis| Duration::from_millis(millis);
        for took in [millis(1), millis(5), millis(5) + Duration::from_nanos(1), millis(900_000)] {
            histogram.add(took);
        }
        assert_eq!(histogram.split(&[millis(1), millis(5), millis(10), millis(1_000_000)]), [1, 1, 1, 0]);
    }

    #[test]
    fn two_together_are_their_sum() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        one.add(Duration::from_secs(1));
        other.add(Duration::from_secs(2));
        one.merge(&other);
        assert_eq!((one.total(), one.sum()), (2, Duration::from_secs(3)));
        assert_eq!(one.split(&[Duration::from_secs(1), Duration::from_secs(2)]), [1, 1]);
    }
}
