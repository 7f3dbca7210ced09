//! Figures for Prometheus: `GET /metrics` on a unix socket in the runtime directory, and on a TCP
//! address if `metrics.listen` names one.
//!
//! Counts nothing itself: whoever owns a figure keeps it, and is asked when a page is wanted. None of
//! the owners waits for libvirt or a server, so a page comes when either hangs. Changes nothing.

pub mod endpoint;
pub mod http;
pub mod page;

use crate::dispatch::Dispatcher;
use crate::host::exec;
use crate::hypervisor::Hypervisor;
use crate::journal::Journal;
use crate::status::board::Board;
use page::{Figures, Page};
use std::time::Duration;
use tokio::sync::watch;

/// Socket in the runtime directory that pages are served on.
pub const SOCKET_NAME: &str = "metrics.sock";

/// The counters are copied between two messages of their owner, so this is only for a bug.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who is asked besides the status board.
#[derive(Debug, Clone)]
pub struct Owners {
    pub dispatcher: Dispatcher,
    pub hypervisor: Hypervisor,
    pub journal: Journal,
}

/// Where pages come from; clones share it. Before the agent has a configuration there are no owners,
/// and a page says what the board knows.
#[derive(Debug, Clone)]
pub struct Source {
    pub board: Board,
    pub owners: watch::Receiver<Option<Owners>>,
}

impl Owners {
    async fn figures(&self) -> Option<Figures> {
        let commands = tokio::time::timeout(PATIENCE, self.dispatcher.stats().read()).await.ok()?;
        Some(Figures {
            requests_in_flight: *self.dispatcher.in_flight().borrow(),
            requests_waiting: self.dispatcher.waiting(),
            commands,
            calls: self.hypervisor.figures(),
            programs: exec::ran(),
            journal_leftovers: *self.journal.unfinished().borrow(),
        })
    }
}

impl Source {
    /// A page of now.
    pub async fn page(&self) -> Page {
        let owners = self.owners.borrow().clone();
        let figures = match owners {
            Some(owners) => owners.figures().await,
            None => None,
        };
        Page { status: self.board.snapshot(), figures }
    }
}
