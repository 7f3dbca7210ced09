//! Work in several steps that a crash, an error or a deadline may interrupt anywhere.
//!
//! Before a step changes the host, what undoes it is written down. Whatever happens, the host then
//! ends in the old state or in the new one:
//!
//! ```text
//!             before(action)                     settle(Ok)
//!   begin ──▶ Doing ◀──┐ step after step ──────────────────▶ Committed ──▶ finish, in order ──▶ gone
//!               │ └────┘                                         │
//!               │ settle(Err), dropped,                          │ killed: finished at the next start
//!               │ killed: at the next start                      ▼
//!               ▼                                            (the same)
//!             undo, last step first ──────────────────────────────────────────────────────────▶ gone
//!               │ an action fails, here or in finish                                            ▲
//!               ▼                                                                               │
//!             Left ── tried again: after a reconnect, before work on the subject, at the start ──┤
//!               └──── later work on the subject is committed ───────────────────────────────────┘
//! ```
//!
//! A record is one file, replaced by renaming. It is not synced: it is there for the end of this
//! process, not for the end of the machine, after which no guest runs and `agent orphans` lists what
//! is left.
//!
//! What is left is of the past as soon as later work on its subject succeeds: to end a guest because
//! its first start failed would hit the guest that the second start has made. Merging an overlay is
//! different, since it holds what the guest has written; it stays until a guest was started without it.
//!
//! Work on a subject waits until what was undone of it in the background has been undone.

pub mod action;
pub mod faults;
mod left;
mod record;

#[cfg(test)]
mod tests;

pub use action::Action;
pub use record::Record;

use faults::Faults;
use left::Active;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("Cannot write down the next step in {path}: check that the disk is not full")]
    Write { path: PathBuf, source: std::io::Error },
    /// Only tests ask for it.
    #[error("Step {step} fails on request")]
    Injected { step: u64 },
}

/// Carries out actions; the one implementation knows the hypervisor, the bridges and the mounts.
pub trait Execute: Send + Sync + 'static {
    /// Idempotent: what is undone already is a success. The error is one line for the log.
    fn execute<'a>(
        &'a self,
        action: &'a Action,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;
}

/// Handle to the journal.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    directory: PathBuf,
    executor: Box<dyn Execute>,
    next: AtomicU64,
    faults: Faults,
    /// Subjects that are being undone, with how many records each.
    settling: Mutex<BTreeMap<String, usize>>,
    /// Records of which an action has failed, with their subjects.
    left: Mutex<BTreeMap<u64, String>>,
    /// Subjects of work that has begun, with how many.
    active: Mutex<BTreeMap<String, usize>>,
    /// Changes whenever `settling` does; its value is the number of records left over.
    unfinished: watch::Sender<usize>,
}

/// Nobody else begins work on the subject until this is dropped.
struct Turn<'a> {
    inner: &'a Inner,
    subject: &'a str,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.inner.release(self.subject);
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("directory", &self.inner.directory).finish_non_exhaustive()
    }
}

impl Inner {
    fn settling(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing of the subject is being undone.
    async fn turn<'a>(&'a self, subject: &'a str) -> Turn<'a> {
        let mut changes = self.unfinished.subscribe();
        loop {
            if let Entry::Vacant(free) = self.settling().entry(subject.to_owned()) {
                free.insert(1);
                return Turn { inner: self, subject };
            }
            // Its sender lives as long as this journal.
            let _ = changes.changed().await;
        }
    }

    fn hold(&self, subject: &str) {
        *self.settling().entry(subject.to_owned()).or_default() += 1;
    }

    fn release(&self, subject: &str) {
        let mut settling = self.settling();
        if let Some(count) = settling.get_mut(subject) {
            *count -= 1;
            if *count == 0 {
                settling.remove(subject);
            }
        }
        drop(settling);
        self.unfinished.send_modify(|_| {});
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:08}.json"))
    }
}

impl Journal {
    /// Opens the journal in `directory`, which is made if need be. Subjects of records that an earlier
    /// process left behind are held until [`Journal::recover`] has dealt with them.
    pub fn open(directory: &Path, executor: Box<dyn Execute>) -> Journal {
        Journal::with_faults(directory, executor, Faults::from_environment())
    }

    pub fn with_faults(directory: &Path, executor: Box<dyn Execute>, faults: Faults) -> Journal {
        if let Err(error) = std::fs::create_dir_all(directory) {
            tracing::error!(%error, directory = %directory.display(), "The journal's directory cannot be made: commands in several steps will fail");
        }
        let left = record::read_all(directory);
        let next = left.last().map_or(1, |(number, _)| number + 1);
        let inner = Inner {
            directory: directory.to_owned(),
            executor,
            next: AtomicU64::new(next),
            faults,
            settling: Mutex::default(),
            left: Mutex::default(),
            active: Mutex::default(),
            unfinished: watch::channel(left.len()).0,
        };
        for (_, record) in &left {
            inner.hold(&record.subject);
        }
        Journal { inner: Arc::new(inner) }
    }

    /// Deals with what an earlier process left behind: committed work is finished, other work undone.
    /// Call once, when the hypervisor answers.
    pub async fn recover(&self) {
        for (number, record) in record::read_all(&self.inner.directory) {
            // Younger records are work of this process.
            if number >= self.inner.next.load(Ordering::Relaxed) {
                break;
            }
            let subject = record.subject.clone();
            tracing::warn!(
                operation = record.operation,
                subject,
                logid = record.logid,
                committed = record.committed,
                "Found unfinished work of an earlier run"
            );
            self.carry_out(number, record).await;
            self.inner.release(&subject);
        }
    }

    /// Records that could not be dealt with yet.
    pub fn unfinished(&self) -> watch::Receiver<usize> {
        self.inner.unfinished.subscribe()
    }

    /// Starts work named `operation` on `subject` (a guest's name, a volume's path). What failed of
    /// earlier work on it is tried again before.
    pub async fn begin(&self, operation: &str, subject: &str, logid: &str) -> Work {
        let turn = self.inner.turn(subject).await;
        let left = self.inner.left().clone();
        for (number, _) in left.into_iter().filter(|(_, of)| of == subject) {
            if let Ok(record) = record::read(&self.inner.path(number)) {
                self.carry_out(number, record).await;
            }
        }
        let active = Active::new(&self.inner, subject);
        drop(turn);
        Work {
            active,
            journal: self.clone(),
            number: self.inner.next.fetch_add(1, Ordering::Relaxed),
            record: Record::new(operation, subject, logid),
            settled: false,
        }
    }

    /// Does what is left to do of a record; keeps of it what fails.
    async fn carry_out(&self, number: u64, mut record: Record) {
        let path = self.inner.path(number);
        let mut failed = Vec::new();
        let (list, order): (&mut Vec<Action>, &str) =
            if record.committed { (&mut record.finish, "finish") } else { (&mut record.undo, "undo") };
        let actions = std::mem::take(list);
        let in_order: Vec<Action> =
            if record.committed { actions } else { actions.into_iter().rev().collect() };
        let mut in_use = false;
        for action in in_order {
            if in_use {
                failed.push(action);
                continue;
            }
            if let Err(reason) = self.inner.executor.execute(&action).await {
                tracing::error!(
                    operation = record.operation, subject = record.subject, logid = record.logid,
                    %reason, "Cannot {order}: {action}; it is tried again with the next work on this and at the next start"
                );
                in_use = !record.committed && action.frees();
                failed.push(action);
            }
        }
        if failed.is_empty() {
            record::remove(&path).await;
            self.inner.left().remove(&number);
        } else {
            self.inner.left().insert(number, record.subject.clone());
            if record.committed {
                record.finish = failed;
            } else {
                failed.reverse();
                record.undo = failed;
            }
            if let Err(error) = record.write(&path).await {
                tracing::error!("{}", crate::errors::chain(&error));
            }
        }
        self.recount();
    }

    /// Gives up what is left of earlier work and would hit what `done` has made.
    async fn supersede(&self, done: &Record) {
        let left = self.inner.left().clone();
        for (number, _) in left {
            let path = self.inner.path(number);
            let Ok(mut record) = record::read(&path) else { continue };
            let list = if record.committed { &mut record.finish } else { &mut record.undo };
            let own = record.subject == done.subject;
            let (given_up, kept): (Vec<Action>, Vec<Action>) =
                std::mem::take(list).into_iter().partition(|action| done.replaces(action, own));
            *list = kept;
            let empty = list.is_empty();
            for action in &given_up {
                tracing::warn!(
                    operation = record.operation,
                    subject = record.subject,
                    logid = record.logid,
                    by = done.operation,
                    "Given up, because later work has succeeded: {action}; see `agent orphans` for what it may have left"
                );
            }
            if empty {
                record::remove(&path).await;
                self.inner.left().remove(&number);
            } else if !given_up.is_empty()
                && let Err(error) = record.write(&path).await
            {
                tracing::error!("{}", crate::errors::chain(&error));
            }
        }
        self.recount();
    }

    fn recount(&self) {
        let left = record::count(&self.inner.directory);
        self.inner.unfinished.send_modify(|count| *count = left);
    }
}

/// Work that has begun. Ends with [`Work::settle`]; dropped without, it is undone in the background.
#[derive(Debug)]
#[must_use = "work that is dropped is undone"]
pub struct Work {
    #[expect(dead_code, reason = "its end is what counts")]
    active: Active,
    journal: Journal,
    number: u64,
    record: Record,
    settled: bool,
}

impl Work {
    /// Writes down what undoes the step that the caller is about to take.
    pub async fn before(&mut self, undo: Action) -> Result<(), JournalError> {
        self.record.undo.push(undo);
        self.save().await
    }

    /// Writes down what is left to do once the work is committed, such as removing the old version.
    pub async fn after_commit(&mut self, finish: Action) -> Result<(), JournalError> {
        self.record.finish.push(finish);
        self.save().await
    }

    /// Forgets the last undo: the step that it was for has been taken back, or has become part of
    /// another.
    pub async fn forget(&mut self, undo: &Action) -> Result<(), JournalError> {
        self.record.undo.retain(|action| action != undo);
        self.save().await
    }

    async fn save(&mut self) -> Result<(), JournalError> {
        self.record.write(&self.journal.inner.path(self.number)).await?;
        self.journal.inner.faults.hit().inspect_err(|_| self.settled |= self.journal.inner.faults.crashes())
    }

    /// Ends the work: after success what is left to do is done, after an error everything is undone.
    pub async fn settle<T, E: From<JournalError>>(mut self, result: Result<T, E>) -> Result<T, E> {
        let result = match result {
            Ok(value) => {
                // Before the commit: in between the process may end.
                if !self.journal.inner.left().is_empty() {
                    self.journal.supersede(&self.record).await;
                }
                self.commit().await.map(|()| value).map_err(E::from)
            }
            Err(error) => Err(error),
        };
        // A simulated crash leaves everything to the next start.
        if !std::mem::replace(&mut self.settled, true) {
            let record = std::mem::replace(&mut self.record, Record::new("", "", ""));
            self.journal.carry_out(self.number, record).await;
        }
        result
    }

    async fn commit(&mut self) -> Result<(), JournalError> {
        if self.record.finish.is_empty() {
            // Nothing to do any more: the record's end is the commit.
            self.journal
                .inner
                .faults
                .hit()
                .inspect_err(|_| self.settled |= self.journal.inner.faults.crashes())?;
            self.record.committed = true;
            return Ok(());
        }
        self.record.committed = true;
        let saved = self.save().await;
        if let Err(error) = &saved
            && self.record.undo.is_empty()
            && !self.settled
        {
            // There is no way back, and what is left to do is not lost while this process lives.
            tracing::warn!(
                operation = self.record.operation,
                subject = self.record.subject,
                "{}",
                crate::errors::chain(error)
            );
            return Ok(());
        }
        // Without the mark on disk the next start would undo; so this process does too.
        self.record.committed = saved.is_ok() || self.settled;
        saved
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.settled || (self.record.undo.is_empty() && self.record.finish.is_empty()) {
            return;
        }
        let (journal, number) = (self.journal.clone(), self.number);
        let record = std::mem::replace(&mut self.record, Record::new("", "", ""));
        let subject = record.subject.clone();
        tracing::warn!(
            operation = record.operation,
            subject,
            logid = record.logid,
            "Interrupted: undoing it"
        );
        self.journal.inner.hold(&subject);
        // Without a runtime the process is ending: the next start does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                journal.carry_out(number, record).await;
                journal.inner.release(&subject);
            });
        }
    }
}
