//! Sequences and pending requests of one connection (mirrors `AgentAttache`).
//!
//! Per host only one in-sequence request is on its way; the next leaves when the answer to the
//! former came back with `IN_SEQUENCE` echoed.

use super::order::{Answers, SendError};
use super::profile::Command;
use crate::wire::{Element, Flags, Header, Message, header};
use std::collections::{BTreeMap, HashMap, VecDeque};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Id of the simulated management server in every header.
pub const MANAGEMENT_ID: i64 = 0x0000_5a1e_c0ff_ee01;

/// For whom an answer is.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A step of the scenario.
    Step(Command),
    /// A caller of the library.
    Caller(oneshot::Sender<Result<Answers, SendError>>),
    /// The investigation after missing pings.
    Health,
    /// One of many.
    Storm,
}

/// A request that waits for its response.
#[derive(Debug)]
pub(super) struct Pending {
    pub header: Header,
    pub classes: Vec<String>,
    pub sent: Instant,
    pub purpose: Purpose,
}

/// Why a response fits no pending request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmatched {
    /// Nothing with this sequence was sent here.
    Unknown,
    /// It was answered before.
    Repeated,
    /// It was answered before, and its class answers each time it runs.
    Recurring,
}

#[derive(Debug)]
pub(super) struct Outbox {
    host_id: i64,
    next: i64,
    pending: BTreeMap<i64, Pending>,
    answered: HashMap<i64, Unmatched>,
    queue: VecDeque<Message>,
    in_sequence: Option<i64>,
}

impl Outbox {
    /// The first sequence is random in its upper 16 bits, as on the real server.
    pub fn new(host_id: i64, rng: &mut fastrand::Rng) -> Outbox {
        Outbox {
            host_id,
            next: (rng.i64(0..32_766) << 48) + 1,
            pending: BTreeMap::new(),
            answered: HashMap::new(),
            queue: VecDeque::new(),
            in_sequence: None,
        }
    }

    /// Takes a batch; gives its sequence, and the message if it may leave now.
    pub fn submit(
        &mut self,
        elements: Vec<Element>,
        flags: Flags,
        purpose: Purpose,
    ) -> (i64, Option<Message>) {
        let sequence = self.next;
        self.next += 1;
        let header = Header {
            version: header::VERSION_1,
            reserved: 0,
            flags: flags.with(Flags::REQUEST).with(Flags::FROM_SERVER),
            sequence,
            size: 0,
            mgmt_id: MANAGEMENT_ID,
            agent_id: self.host_id,
            via: self.host_id,
        };
        let classes = elements.iter().map(|e| e.class.clone()).collect();
        self.pending.insert(sequence, Pending { header, classes, sent: Instant::now(), purpose });
        let message = Message { header, elements };
        if !flags.contains(Flags::IN_SEQUENCE) {
            return (sequence, Some(message));
        }
        if self.in_sequence.is_some() {
            self.queue.push_back(message);
            return (sequence, None);
        }
        self.in_sequence = Some(sequence);
        (sequence, Some(message))
    }

    /// Takes the pending request that `response` answers.
    pub fn answered(&mut self, response: &Header) -> Result<Pending, Unmatched> {
        let sequence = response.sequence;
        let Some(pending) = self.pending.remove(&sequence) else {
            return Err(self.answered.get(&sequence).copied().unwrap_or(Unmatched::Unknown));
        };
        let recurring = pending.classes.iter().any(|c| c.ends_with(".CleanupNetworkRulesCmd"));
        let later = if recurring { Unmatched::Recurring } else { Unmatched::Repeated };
        self.answered.insert(sequence, later);
        Ok(pending)
    }

    /// The in-sequence message that may leave after `response`, if any.
    pub fn release(&mut self, response: &Header) -> Option<Message> {
        if !response.flags.contains(Flags::IN_SEQUENCE) || self.in_sequence != Some(response.sequence) {
            return None;
        }
        let message = self.queue.pop_front();
        self.in_sequence = message.as_ref().map(|m| m.header.sequence);
        if let Some(pending) = self.in_sequence.and_then(|sequence| self.pending.get_mut(&sequence)) {
            pending.sent = Instant::now();
        }
        message
    }

    /// Tells every waiting caller that the link is gone.
    pub fn abandon(self) {
        for pending in self.pending.into_values() {
            if let Purpose::Caller(reply) = pending.purpose {
                // The caller may have stopped waiting.
                let _ = reply.send(Err(SendError::Closed));
            }
        }
    }
}
