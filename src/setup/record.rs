//! What set-ups have done, so that it can be taken back: one directory per run below the agent's state
//! directory.
//!
//! ```text
//!   /var/lib/cloudstack-agent/setup/
//!     lock                     one set-up at a time
//!     run-0001/record.json     the steps, each written down before it is done
//!     run-0001/before/etc/...  files as they were
//!     run-0001/after/etc/...   files as they were left
//! ```
//!
//! Readable by root only: agent.properties has a passphrase.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::planning::{Topic, Undo};
use super::root::Root;
use crate::files::{AtomicError, Permissions, write_atomically};

pub const DIRECTORY: &str = "/var/lib/cloudstack-agent/setup";
/// Runs before it are never undone.
const MOST_RUNS: u32 = 9_999;

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("Cannot make {}: check the rights on its parent", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("Another set-up is at work here: wait for its end")]
    Busy,
    #[error("Cannot lock {}: check its file system", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("Cannot read {}: check its owner and mode", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("Cannot understand {}: restore it, or take the files beside it by hand", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("Cannot write down what is done in {}: check free space", path.display())]
    Write { path: PathBuf, source: AtomicError },
    #[error("There are {MOST_RUNS} records in {}: remove old ones", .0.display())]
    Full(PathBuf),
}

/// One step as it was done, with what it takes to go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// A file; what it was and became is beside the record. `existed`: else it is removed.
    Wrote {
        path: PathBuf,
        existed: bool,
    },
    /// Keys of a properties file with their values before.
    Properties {
        path: PathBuf,
        values: Vec<Value>,
        existed: bool,
    },
    /// A link; `before` is where one pointed, `existed` that a file is beside the record.
    Linked {
        path: PathBuf,
        target: PathBuf,
        before: Option<PathBuf>,
        existed: bool,
    },
    Ran {
        program: String,
        arguments: Vec<String>,
        undo: Undo,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    pub key: String,
    pub before: Option<String>,
    pub after: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub topic: Topic,
    pub what: String,
    pub done: Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Record {
    undone: bool,
    entries: Vec<Entry>,
}

/// The directory of records, locked for this process.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    _lock: File,
}

impl Records {
    pub fn open(root: &Root) -> Result<Records, RecordError> {
        let directory = root.at(DIRECTORY);
        make(&directory)?;
        let path = directory.join("lock");
        let lock = File::create(&path).map_err(|source| RecordError::Lock { path: path.clone(), source })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Records { directory, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(RecordError::Busy),
            Err(error) => Err(RecordError::Lock { path, source: error.into() }),
        }
    }

    /// A new run. It leaves a directory only once something is recorded.
    pub fn begin(&self) -> Result<Run, RecordError> {
        let number = self.numbers().last().map_or(1, |last| last + 1);
        if number > MOST_RUNS {
            return Err(RecordError::Full(self.directory.clone()));
        }
        Ok(Run { directory: self.run_directory(number), record: Record::default() })
    }

    /// The last run that was not taken back.
    pub fn last(&self) -> Result<Option<Run>, RecordError> {
        for number in self.numbers().into_iter().rev() {
            let directory = self.run_directory(number);
            let path = directory.join("record.json");
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(RecordError::Read { path, source }),
            };
            let record: Record =
                serde_json::from_slice(&text).map_err(|source| RecordError::Parse { path, source })?;
            if !record.undone {
                return Ok(Some(Run { directory, record }));
            }
        }
        Ok(None)
    }

    fn run_directory(&self, number: u32) -> PathBuf {
        self.directory.join(format!("run-{number:04}"))
    }

    fn numbers(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let number = |name: String| name.strip_prefix("run-")?.parse().ok();
        let mut numbers: Vec<u32> =
            entries.filter_map(|entry| entry.file_name().into_string().ok().and_then(number)).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// One run of a set-up.
#[derive(Debug)]
pub struct Run {
    directory: PathBuf,
    record: Record,
}

impl Run {
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn entries(&self) -> &[Entry] {
        &self.record.entries
    }

    /// Writes a step down, on disk when this returns.
    pub fn note(&mut self, entry: Entry) -> Result<(), RecordError> {
        self.record.entries.push(entry);
        self.save()
    }

    pub fn mark_undone(&mut self) -> Result<(), RecordError> {
        self.record.undone = true;
        self.save()
    }

    /// Keeps a file's content as it was, unless an earlier step of this run has.
    pub fn keep_before(&self, path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
        let copy = self.before(path);
        if copy.exists() { Ok(()) } else { store(&copy, bytes) }
    }

    pub fn keep_after(&self, path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
        store(&self.after(path), bytes)
    }

    pub fn before(&self, path: &Path) -> PathBuf {
        self.directory.join("before").join(path.strip_prefix("/").unwrap_or(path))
    }

    pub fn after(&self, path: &Path) -> PathBuf {
        self.directory.join("after").join(path.strip_prefix("/").unwrap_or(path))
    }

    fn save(&self) -> Result<(), RecordError> {
        let path = self.directory.join("record.json");
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|source| RecordError::Parse { path: path.clone(), source })?;
        store(&path, &text)
    }
}

fn store(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    if let Some(parent) = path.parent() {
        make(parent)?;
    }
    write_atomically(path, bytes, Permissions::Exactly(0o600))
        .map_err(|source| RecordError::Write { path: path.to_owned(), source })
}

fn make(directory: &Path) -> Result<(), RecordError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| RecordError::Make { path: directory.to_owned(), source })
}
