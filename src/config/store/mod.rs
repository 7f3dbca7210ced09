//! The one owner of `agent.properties`: reads it, watches it, and stores what the agent has to remember.
//!
//! ```text
//!  ConfigStore (handles) --Persist, Reload--> task --owns--> FileOwner <--> agent.properties
//!        ^                                     |  every 2 s: has anyone else changed it?
//!        +------- watch: FileState <-----------+
//! ```
//!
//! Mirrors `com.cloud.agent.dao.impl.PropertiesStorage`. Never creates the file, never writes over one that
//! it cannot make sense of, never writes without a real change, and never from memory: every write starts
//! with a fresh read, because setup scripts edit the same file.

mod file;
#[cfg(test)]
mod tests;

use super::error::ConfigError;
use super::typed::Config;
use file::FileOwner;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

/// Time between looks at the file.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Requests that wait for the file's owner.
const QUEUE: usize = 16;

/// What is known about the file.
#[derive(Debug, Clone)]
pub enum FileState {
    Missing {
        path: PathBuf,
    },
    /// Unreadable, or with values that cannot be used.
    Invalid {
        error: Arc<ConfigError>,
    },
    Loaded(Arc<Config>),
}

/// A new value for one key; `None` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: &'static str,
    pub value: Option<String>,
}

/// Outcome of [`ConfigStore::persist`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persisted {
    /// The file says so already.
    Unchanged,
    Written,
}

/// Outcome of [`ConfigStore::reload`].
#[derive(Debug, Clone, Default)]
pub struct Reload {
    /// Keys that others have changed since the start or the last reload, whether in force or not.
    pub changed: Vec<String>,
    /// Keys whose value in the file differs from the one in force until the agent is restarted.
    pub restart_needed: Vec<String>,
    /// Why the file cannot be used; the last good configuration stays in force then.
    pub error: Option<Arc<ConfigError>>,
}

enum Request {
    Persist { changes: Vec<Change>, reply: oneshot::Sender<Result<Persisted, ConfigError>> },
    Reload { reply: oneshot::Sender<Reload> },
}

/// Handle to the owner of the file. The owner ends with its last handle.
#[derive(Debug, Clone)]
pub struct ConfigStore {
    path: Arc<Path>,
    requests: mpsc::Sender<Request>,
    states: watch::Receiver<Arc<FileState>>,
    last_good: watch::Receiver<Option<Arc<Config>>>,
}

impl ConfigStore {
    /// Reads the file (blocking, once) and starts its owner. Needs a tokio runtime with time.
    pub fn spawn(path: PathBuf) -> ConfigStore {
        let (owner, states, last_good) = FileOwner::open(path.clone());
        let (requests, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(serve(owner, receiver));
        ConfigStore { path: path.into(), requests, states, last_good }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The present state of the file.
    pub fn current(&self) -> Arc<FileState> {
        self.states.borrow().clone()
    }

    /// The configuration in force: the last usable one, even if the file is damaged or gone by now.
    pub fn last_good(&self) -> Option<Arc<Config>> {
        self.last_good.borrow().clone()
    }

    /// Every further state of the file.
    pub fn subscribe(&self) -> watch::Receiver<Arc<FileState>> {
        let mut states = self.states.clone();
        states.mark_unchanged();
        states
    }

    /// Stores values. All changes go into one write; the new state is published before this returns.
    ///
    /// # Errors
    /// [`ConfigError`], with the file as it was, if the file is gone, unreadable, invalid or without its
    /// guid, if a new value would make it so, or if it cannot be written.
    pub async fn persist(&self, changes: Vec<Change>) -> Result<Persisted, ConfigError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || ConfigError::Stopped { path: self.path.to_path_buf() };
        self.requests.send(Request::Persist { changes, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Reads the file again now, and tells what has changed.
    pub async fn reload(&self) -> Reload {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Reload { reply }).await.is_ok()
            && let Ok(outcome) = answer.await
        {
            return outcome;
        }
        let error = ConfigError::Stopped { path: self.path.to_path_buf() };
        Reload { error: Some(Arc::new(error)), ..Reload::default() }
    }
}

async fn serve(mut owner: FileOwner, mut requests: mpsc::Receiver<Request>) {
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let request = tokio::select! {
            request = requests.recv() => match request {
                Some(request) => Some(request),
                None => return,
            },
            _ = ticks.tick() => None,
        };
        // One look at the inode costs microseconds; reading and syncing may take long and leave the runtime.
        if request.is_none() && !owner.has_settled_change() {
            continue;
        }
        let done = tokio::task::spawn_blocking(move || {
            match request {
                // A caller that has given up does not need the reply.
                Some(Request::Persist { changes, reply }) => drop(reply.send(owner.persist(&changes))),
                Some(Request::Reload { reply }) => drop(reply.send(owner.reload())),
                None => owner.refresh(),
            }
            owner
        });
        match done.await {
            Ok(back) => owner = back,
            // The process is ending.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                tracing::error!(%error, "The owner of agent.properties has stopped, values are not stored any more: restart the agent");
                return;
            }
        }
    }
}
