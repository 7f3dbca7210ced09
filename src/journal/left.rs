//! What failed to be undone or finished is tried again when there is hope, such as after a reconnect to
//! libvirt. Never while other work on the same subject runs: it would be hit.

use super::{Inner, Journal, record};
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

/// Work on a subject runs until this is dropped.
pub(super) struct Active {
    inner: Arc<Inner>,
    subject: String,
}

impl Active {
    pub(super) fn new(inner: &Arc<Inner>, subject: &str) -> Active {
        *active(inner).entry(subject.to_owned()).or_default() += 1;
        Active { inner: inner.clone(), subject: subject.to_owned() }
    }
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Active").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut active = active(&self.inner);
        if let Some(count) = active.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                active.remove(&self.subject);
            }
        }
    }
}

fn active(inner: &Inner) -> MutexGuard<'_, BTreeMap<String, usize>> {
    inner.active.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Tries again what has failed, except on subjects that are worked on: that work has tried it, and
    /// its success makes it void.
    pub async fn retry(&self) {
        let left = self.inner.left().clone();
        for (number, subject) in left {
            // New work on the subject waits for this.
            let turn = self.inner.turn(&subject).await;
            let is_left = self.inner.left().contains_key(&number);
            if is_left
                && !active(&self.inner).contains_key(&subject)
                && let Ok(record) = record::read(&self.inner.path(number))
            {
                tracing::info!(
                    operation = record.operation,
                    subject,
                    "Tries again what is left of failed work"
                );
                self.carry_out(number, record).await;
            }
            drop(turn);
        }
    }
}
