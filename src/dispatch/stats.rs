//! Counters of commands by class, with latencies in fixed buckets.
//!
//! Owned by one task; batches send one small message per finished command.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    Unsupported,
}

/// Buckets grow by a quarter each: 1 µs to about 7 minutes, relative error at most 25 %.
const BUCKETS: usize = 90;
const GROWTH: f64 = 1.25;

/// Latencies of one command class.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, took: Duration) {
        let micros = took.as_micros().max(1) as f64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a logarithm of at least 1
        let bucket = (micros.ln() / GROWTH.ln()).ceil() as usize;
        if let Some(count) = self.counts.get_mut(bucket.min(BUCKETS - 1)) {
            *count = count.saturating_add(1);
        }
        self.total += 1;
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
                return Some(Duration::from_secs_f64(GROWTH.powf(bucket as f64) / 1e6));
            }
        }
        None
    }

    fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine = mine.saturating_add(*theirs);
        }
        self.total += other.total;
    }
}

/// Counters of one command class.
#[derive(Debug, Clone, Default)]
pub struct ClassCounters {
    pub done: u64,
    pub failed: u64,
    pub latency: Histogram,
}

/// All counters since the start of the process.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    pub by_class: BTreeMap<&'static str, ClassCounters>,
    pub unsupported: u64,
    /// Answers whose connection was gone when they were ready.
    pub orphaned_answers: u64,
}

impl Counters {
    pub fn done(&self) -> u64 {
        self.by_class.values().map(|c| c.done).sum()
    }

    pub fn failed(&self) -> u64 {
        self.by_class.values().map(|c| c.failed).sum()
    }

    /// Latencies of all classes together.
    pub fn latency(&self) -> Histogram {
        let mut all = Histogram::default();
        self.by_class.values().for_each(|c| all.merge(&c.latency));
        all
    }

    fn count(&mut self, class: Option<&'static str>, outcome: Outcome, took: Duration) {
        let Some(class) = class else {
            self.unsupported += 1;
            return;
        };
        let counters = self.by_class.entry(class).or_default();
        match outcome {
            Outcome::Done => counters.done += 1,
            Outcome::Failed => counters.failed += 1,
            Outcome::Unsupported => self.unsupported += 1,
        }
        counters.latency.add(took);
    }
}

enum Message {
    Count(Option<&'static str>, Outcome, Duration),
    Orphaned(u64),
    Read(oneshot::Sender<Counters>),
}

/// Handle to the counters.
#[derive(Debug, Clone)]
pub struct Stats(mpsc::UnboundedSender<Message>);

impl Stats {
    /// Starts the owning task; needs a runtime.
    pub fn spawn() -> Stats {
        let (sender, mut messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut counters = Counters::default();
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Count(class, outcome, took) => counters.count(class, outcome, took),
                    Message::Orphaned(answers) => counters.orphaned_answers += answers,
                    Message::Read(reply) => drop(reply.send(counters.clone())),
                }
            }
        });
        Stats(sender)
    }

    pub(super) fn count(&self, class: Option<&'static str>, outcome: Outcome, took: Duration) {
        let _ = self.0.send(Message::Count(class, outcome, took));
    }

    pub(super) fn orphaned(&self, answers: usize) {
        let _ = self.0.send(Message::Orphaned(answers as u64));
    }

    pub async fn read(&self) -> Counters {
        let (reply, counters) = oneshot::channel();
        let _ = self.0.send(Message::Read(reply));
        counters.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_quarter() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0)] {
            let got = histogram.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((exact..=exact * 1.26).contains(&got), "{share}: {got}");
        }
        histogram.add(Duration::from_secs(86_400));
        assert!(histogram.quantile(1.0).is_some());
    }

    #[tokio::test]
    async fn counters_add_up() {
        let stats = Stats::spawn();
        stats.count(Some("a"), Outcome::Done, Duration::from_millis(1));
        stats.count(Some("a"), Outcome::Failed, Duration::from_millis(1));
        stats.count(None, Outcome::Unsupported, Duration::ZERO);
        let counters = stats.read().await;
        assert_eq!((counters.done(), counters.failed(), counters.unsupported), (1, 1, 1));
    }
}
