//! The previous samples of everything that is reported as a difference: one task owns them, so
//! handlers that ask at the same time never see half an exchange.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::stats::CpuTimes;
use crate::hypervisor::DomainSample;

/// Keys kept; beyond it the one that was exchanged longest ago is forgotten.
pub const MAX_KEYS: usize = 10_000;
const REQUESTS: usize = 256;

/// A sample; only one of the same kind counts as its predecessor.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleKind {
    HostCpu(CpuTimes),
    Guest(DomainSample),
    Disk(DiskCounters),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCounters {
    pub read_requests: u64,
    pub read_bytes: u64,
    pub write_requests: u64,
    pub write_bytes: u64,
}

/// Handle to the task, which ends with the last handle.
#[derive(Debug, Clone)]
pub struct Samples {
    requests: mpsc::Sender<Exchange>,
}

#[derive(Debug)]
struct Exchange {
    key: String,
    value: SampleKind,
    previous: oneshot::Sender<Option<(SampleKind, Duration)>>,
}

impl Samples {
    pub fn spawn() -> Self {
        let (requests, mut received) = mpsc::channel::<Exchange>(REQUESTS);
        tokio::spawn(async move {
            let mut store = Store::new(MAX_KEYS);
            while let Some(Exchange { key, value, previous }) = received.recv().await {
                // The caller may have gone; the sample counts all the same.
                let _ = previous.send(store.exchange(key, value, Instant::now()));
            }
        });
        Self { requests }
    }

    /// Stores `value` under `key` and returns its predecessor with the time between the two.
    /// `None` the first time, or after a sample of another kind.
    pub async fn exchange(
        &self,
        key: impl Into<String>,
        value: SampleKind,
    ) -> Option<(SampleKind, Duration)> {
        let (previous, answer) = oneshot::channel();
        self.requests.send(Exchange { key: key.into(), value, previous }).await.ok()?;
        answer.await.ok()?
    }
}

#[derive(Debug)]
struct Store {
    entries: HashMap<String, Entry>,
    /// Keys by the turn of their last exchange, oldest first.
    by_turn: BTreeMap<u64, String>,
    turn: u64,
    max: usize,
}

#[derive(Debug)]
struct Entry {
    turn: u64,
    at: Instant,
    value: SampleKind,
}

impl Store {
    fn new(max: usize) -> Self {
        Self { entries: HashMap::new(), by_turn: BTreeMap::new(), turn: 0, max }
    }

    fn exchange(&mut self, key: String, value: SampleKind, now: Instant) -> Option<(SampleKind, Duration)> {
        self.turn += 1;
        self.by_turn.insert(self.turn, key.clone());
        let previous = self.entries.insert(key, Entry { turn: self.turn, at: now, value: value.clone() });
        if let Some(previous) = &previous {
            self.by_turn.remove(&previous.turn);
        }
        if self.entries.len() > self.max
            && let Some((_, oldest)) = self.by_turn.pop_first()
        {
            self.entries.remove(&oldest);
        }
        let previous = previous?;
        let same_kind = std::mem::discriminant(&previous.value) == std::mem::discriminant(&value);
        same_kind.then(|| (previous.value, now.duration_since(previous.at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(read_bytes: u64) -> SampleKind {
        SampleKind::Disk(DiskCounters { read_bytes, ..DiskCounters::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn the_previous_sample_comes_with_its_age() {
        let samples = Samples::spawn();
        assert_eq!(samples.exchange("vm-vol", disk(1)).await, None);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(samples.exchange("vm-vol", disk(5)).await, Some((disk(1), Duration::from_secs(60))));
        assert_eq!(samples.exchange("other", disk(9)).await, None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(samples.exchange("vm-vol", disk(6)).await, Some((disk(5), Duration::from_secs(1))));
    }

    #[tokio::test]
    async fn another_kind_is_no_predecessor() {
        let samples = Samples::spawn();
        samples.exchange("k", disk(1)).await;
        let cpu = SampleKind::HostCpu(CpuTimes { uptime: 1.0, idle: 1.0 });
        assert_eq!(samples.exchange("k", cpu.clone()).await, None);
        assert_eq!(samples.exchange("k", cpu.clone()).await.map(|(value, _)| value), Some(cpu));
    }

    #[tokio::test]
    async fn the_key_idle_longest_is_forgotten_first() {
        let mut store = Store::new(2);
        let now = Instant::now();
        store.exchange("a".to_owned(), disk(1), now);
        store.exchange("b".to_owned(), disk(2), now);
        store.exchange("a".to_owned(), disk(3), now);
        store.exchange("c".to_owned(), disk(4), now);
        assert_eq!((store.entries.len(), store.by_turn.len()), (2, 2));
        assert!(store.exchange("a".to_owned(), disk(5), now).is_some());
        assert!(store.exchange("c".to_owned(), disk(5), now).is_some());
        assert!(store.exchange("b".to_owned(), disk(5), now).is_none());
    }
}
