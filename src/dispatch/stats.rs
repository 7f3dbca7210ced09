//! Counters of commands by class, with latencies in fixed buckets.
//!
//! Owned by one task; batches send one small message per finished command.

use crate::histogram::Histogram;
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
