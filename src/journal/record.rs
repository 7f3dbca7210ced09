//! One piece of work as it is on disk.

use super::{Action, JournalError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A larger file is none of ours.
const LARGEST: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub operation: String,
    pub subject: String,
    pub logid: String,
    #[serde(default)]
    pub committed: bool,
    /// In the order of the steps.
    #[serde(default)]
    pub undo: Vec<Action>,
    #[serde(default)]
    pub finish: Vec<Action>,
}

impl Record {
    pub fn new(operation: &str, subject: &str, logid: &str) -> Record {
        Record {
            operation: operation.to_owned(),
            subject: subject.to_owned(),
            logid: logid.to_owned(),
            committed: false,
            undo: Vec::new(),
            finish: Vec::new(),
        }
    }

    /// Whether this work, once it has succeeded, makes an action that is left of earlier work wrong:
    /// what would be taken away is what it has made.
    pub fn replaces(&self, left: &Action, same_subject: bool) -> bool {
        let started = self.undo.iter().any(|action| matches!(action, Action::DestroyGuest { .. }));
        match left {
            Action::MergeOverlay { .. } => same_subject && started,
            other => same_subject || self.undo.contains(other),
        }
    }

    /// Replaces the file at `path`; a reader sees the old record or the new one.
    pub async fn write(&self, path: &Path) -> Result<(), JournalError> {
        let failed = |source| JournalError::Write { path: path.to_owned(), source };
        let bytes = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        let (path_, beside) = (path.to_owned(), path.with_extension("new"));
        let written = tokio::task::spawn_blocking(move || {
            std::fs::write(&beside, bytes)?;
            std::fs::rename(&beside, path_)
        });
        // The task ends early only with the runtime.
        written.await.map_err(|_| failed(std::io::ErrorKind::Interrupted.into()))?.map_err(failed)
    }
}

pub async fn remove(path: &Path) {
    match tokio::fs::remove_file(path).await {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "A record of finished work cannot be removed: remove it by hand");
        }
    }
}

/// All records, oldest first. What does not read (a machine that lost power in the middle) is put
/// aside under another name, for people.
pub fn read_all(directory: &Path) -> Vec<(u64, Record)> {
    let mut all: Vec<(u64, Record)> = numbered(directory)
        .filter_map(|(number, path)| match read(&path) {
            Ok(record) => Some((number, record)),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "A record of unfinished work does not read and is put aside: look for what it left with `agent orphans`");
                let _ = std::fs::rename(&path, path.with_extension("unreadable"));
                None
            }
        })
        .collect();
    all.sort_by_key(|(number, _)| *number);
    all
}

pub fn count(directory: &Path) -> usize {
    numbered(directory).count()
}

fn numbered(directory: &Path) -> impl Iterator<Item = (u64, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let path = entry.path();
        let number = path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()?;
        Some((number, path))
    })
}

pub fn read(path: &Path) -> std::io::Result<Record> {
    if std::fs::metadata(path)?.len() > LARGEST {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
