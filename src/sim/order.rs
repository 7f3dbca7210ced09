//! What is asked of a connection from outside, and what comes back.

use super::event::ConnectionNumber;
use crate::wire::{Element, Flags, Header};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Way to the task of one connection.
pub(super) type OrderSender = mpsc::UnboundedSender<Order>;

/// A request to the task of one connection.
#[derive(Debug)]
pub(super) enum Order {
    /// Send these commands; `flags` may hold `STOP_ON_ERROR` and `IN_SEQUENCE`.
    Send { elements: Vec<Element>, flags: Flags, reply: oneshot::Sender<Result<Answers, SendError>> },
    /// Close the link: the host registered over connection `by`.
    Displace { by: ConnectionNumber },
}

/// The response to a command batch.
#[derive(Debug, Clone)]
pub struct Answers {
    pub header: Header,
    pub elements: Vec<Element>,
    /// From the moment the request was queued on the link.
    pub latency: Duration,
}

impl Answers {
    /// `result` of the answer at `index`.
    pub fn result(&self, index: usize) -> Option<bool> {
        self.field(index, "result")?.as_bool()
    }

    /// `details` of the answer at `index`.
    pub fn details(&self, index: usize) -> Option<String> {
        Some(self.field(index, "details")?.as_str()?.to_owned())
    }

    /// A field of the answer at `index`.
    pub fn field(&self, index: usize, name: &str) -> Option<serde_json::Value> {
        let fields: serde_json::Value = self.elements.get(index)?.read().ok()?;
        fields.get(name).cloned()
    }
}

/// Why a command batch got no answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("Host {0} is not registered: wait for its Ready event before sending")]
    NotRegistered(i64),
    #[error("Connection of the host ended before it answered")]
    Closed,
}
