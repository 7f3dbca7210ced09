//! Which batch may run now: pure admission, no I/O, no clock.
//!
//! ```text
//!            submit                     finish
//!   (new) ──────────▶ Waiting ──┐    ┌──────────▶ (gone; successors are started)
//!     │                         ▼    │
//!     └────────────────────▶ Running ┘      refused: the waiting line is full
//! ```
//!
//! 1. Batches whose claims conflict (same guest, same volume ...) run in order of arrival, one at a time.
//! 2. At most `capacity` batches of the pool lane run at once; an inline batch never waits for them.
//! 3. A batch waits only for earlier batches that it conflicts with, and for capacity.
//! 4. The waiting line is bounded. What does not fit is refused at once, never dropped silently.
//!
//! The server serialises its in-sequence requests itself: it sends the next one only after the
//! answer to the previous one, so that flag needs no rule here beyond being echoed.

use crate::commands::{Claims, Lane};
use std::collections::{BTreeMap, VecDeque};

/// Identifies a batch within the process.
pub type BatchId = u64;

/// What happens to a submitted batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Run it now.
    Start,
    /// It will be started by a later [`Admission::finish`].
    Wait,
    /// The waiting line is full.
    Refuse,
}

#[derive(Debug)]
struct Batch {
    id: BatchId,
    lane: Lane,
    claims: Claims,
}

/// The admission state of all batches of the process.
#[derive(Debug)]
pub struct Admission {
    capacity: usize,
    longest_line: usize,
    running: BTreeMap<BatchId, (Lane, Claims)>,
    waiting: VecDeque<Batch>,
}

impl Admission {
    pub fn new(capacity: usize, longest_line: usize) -> Admission {
        Admission { capacity, longest_line, running: BTreeMap::new(), waiting: VecDeque::new() }
    }

    pub fn submit(&mut self, id: BatchId, lane: Lane, claims: Claims) -> Verdict {
        let batch = Batch { id, lane, claims };
        if self.admissible(&batch, self.waiting.len()) {
            self.running.insert(batch.id, (batch.lane, batch.claims));
            return Verdict::Start;
        }
        if self.waiting.len() >= self.longest_line {
            return Verdict::Refuse;
        }
        self.waiting.push_back(batch);
        Verdict::Wait
    }

    /// Removes a finished batch; gives the batches to start now, in order of arrival.
    pub fn finish(&mut self, id: BatchId) -> Vec<BatchId> {
        self.running.remove(&id);
        let mut started = Vec::new();
        let mut at = 0;
        while let Some(batch) = self.waiting.get(at) {
            if self.admissible(batch, at) {
                if let Some(batch) = self.waiting.remove(at) {
                    started.push(batch.id);
                    self.running.insert(batch.id, (batch.lane, batch.claims));
                }
            } else {
                at += 1;
            }
        }
        started
    }

    /// Batches running or waiting.
    pub fn in_flight(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// `earlier`: how many of the waiting batches arrived before this one.
    fn admissible(&self, batch: &Batch, earlier: usize) -> bool {
        let room = match batch.lane {
            Lane::Inline => true,
            Lane::Pool => {
                self.running.values().filter(|(lane, _)| *lane == Lane::Pool).count() < self.capacity
            }
        };
        room && self.running.values().all(|(_, claims)| claims.compatible(&batch.claims))
            && self.waiting.iter().take(earlier).all(|other| other.claims.compatible(&batch.claims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Key;
    use proptest::prelude::*;

    fn guests(names: &[&str]) -> Claims {
        names.iter().fold(Claims::none(), |claims, name| claims.exclusive(Key::Guest((*name).into())))
    }

    #[test]
    fn clones_of_one_template_run_at_once_and_its_removal_waits() {
        let template = || Key::Volume { pool: "p".into(), name: "t".into() };
        let mut admission = Admission::new(8, 8);
        assert_eq!(admission.submit(1, Lane::Pool, Claims::none().shared(template())), Verdict::Start);
        assert_eq!(admission.submit(2, Lane::Pool, Claims::none().shared(template())), Verdict::Start);
        assert_eq!(admission.submit(3, Lane::Pool, template().into()), Verdict::Wait);
        // Came after the removal: must find the template gone, not slip in before.
        assert_eq!(admission.submit(4, Lane::Pool, Claims::none().shared(template())), Verdict::Wait);
        assert_eq!(admission.finish(1), [] as [BatchId; 0]);
        assert_eq!(admission.finish(2), [3]);
        assert_eq!(admission.finish(3), [4]);
    }

    #[test]
    fn one_guest_is_never_touched_twice_at_once() {
        let mut admission = Admission::new(8, 8);
        assert_eq!(admission.submit(1, Lane::Pool, guests(&["a"])), Verdict::Start);
        assert_eq!(admission.submit(2, Lane::Pool, guests(&["a", "b"])), Verdict::Wait);
        // b is free, but 2 came first and needs it: order per guest is kept.
        assert_eq!(admission.submit(3, Lane::Pool, guests(&["b"])), Verdict::Wait);
        assert_eq!(admission.submit(4, Lane::Pool, guests(&["c"])), Verdict::Start);
        assert_eq!(admission.finish(1), [2]);
        assert_eq!(admission.finish(2), [3]);
        assert_eq!(admission.finish(4), [] as [BatchId; 0]);
    }

    #[test]
    fn inline_commands_pass_a_full_pool() {
        let mut admission = Admission::new(1, 1);
        assert_eq!(admission.submit(1, Lane::Pool, guests(&[])), Verdict::Start);
        assert_eq!(admission.submit(2, Lane::Pool, guests(&[])), Verdict::Wait);
        assert_eq!(admission.submit(3, Lane::Pool, guests(&[])), Verdict::Refuse);
        assert_eq!(admission.submit(4, Lane::Inline, guests(&[])), Verdict::Start);
        assert_eq!(admission.finish(1), [2]);
        assert_eq!(admission.in_flight(), 2);
    }

    proptest! {
        /// Whatever arrives in whatever order: everything admitted runs, keys never overlap,
        /// capacity holds, equal keys keep their order.
        #[test]
        fn admission_is_fair_and_exclusive(
            arrivals in proptest::collection::vec((0u8..4, any::<bool>(), any::<u8>()), 1..60),
        ) {
            let mut admission = Admission::new(3, 1000);
            let mut batches: BTreeMap<BatchId, (Lane, Claims)> = BTreeMap::new();
            let mut running: Vec<BatchId> = Vec::new();
            let mut started: Vec<BatchId> = Vec::new();
            for (id, (guest, inline, pick)) in arrivals.iter().enumerate() {
                let id = id as BatchId;
                let lane = if *inline { Lane::Inline } else { Lane::Pool };
                let keys = if *guest == 0 { guests(&[]) } else { guests(&[["x", "y", "z"][*guest as usize - 1]]) };
                batches.insert(id, (lane, keys.clone()));
                if admission.submit(id, lane, keys) == Verdict::Start {
                    running.push(id);
                    started.push(id);
                }
                if pick % 2 == 0 && !running.is_empty() {
                    let done = running.remove(*pick as usize % running.len());
                    let next = admission.finish(done);
                    running.extend(&next);
                    started.extend(&next);
                }
                for (n, a) in running.iter().enumerate() {
                    for b in &running[n + 1..] {
                        prop_assert!(batches[a].1.compatible(&batches[b].1));
                    }
                }
                prop_assert!(running.iter().filter(|id| batches[id].0 == Lane::Pool).count() <= 3);
            }
            while let Some(done) = running.pop() {
                let next = admission.finish(done);
                running.extend(&next);
                started.extend(&next);
            }
            prop_assert_eq!(started.len(), arrivals.len());
            for name in ["x", "y", "z"] {
                let of_guest: Vec<_> = started.iter().filter(|id| batches[id].1 == guests(&[name])).collect();
                prop_assert!(of_guest.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
    }
}
