//! What can go wrong with `qemu-img`, with its own last words.

use crate::host::exec::{ExecError, Output};
use crate::storage::disk::DiskError;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Of the program's last words.
const LONGEST_REASON: usize = 300;

#[derive(Debug, Error)]
pub enum QemuImgError {
    #[error("qemu-img is not installed on this host: install qemu-utils (Debian) or qemu-img (RHEL)")]
    Missing,
    #[error("{} cannot be an image: the path has to be absolute and valid UTF-8", path.display())]
    Path { path: PathBuf },
    #[error("Cannot copy to {} with another passphrase than the source has: use the same", path.display())]
    TwoSecrets { path: PathBuf },
    #[error("Cannot {operation} {}: no space is left on that storage, free some or extend it", path.display())]
    NoSpace { operation: &'static str, path: PathBuf },
    #[error("{} is in use by another process, a running guest perhaps: stop it first", path.display())]
    Locked { path: PathBuf },
    #[error("Cannot create the image {}: {reason}", path.display())]
    Create { path: PathBuf, reason: String },
    #[error("Cannot copy into the image {}: {reason}", path.display())]
    Convert { path: PathBuf, reason: String },
    #[error("Cannot read the image {}: {reason}", path.display())]
    Info { path: PathBuf, reason: String },
    #[error("Cannot tell how much space a copy of {} needs: {reason}", path.display())]
    Measure { path: PathBuf, reason: String },
    #[error("Cannot change the size of {}: {reason}", path.display())]
    Resize { path: PathBuf, reason: String },
    #[error("Cannot change the backing file of {}: {reason}", path.display())]
    Rebase { path: PathBuf, reason: String },
    #[error("Cannot merge {} into its base: {reason}", path.display())]
    Commit { path: PathBuf, reason: String },
    #[error("Cannot check the image {}: {reason}", path.display())]
    Check { path: PathBuf, reason: String },
    #[error("Cannot change the snapshots inside {}: {reason}", path.display())]
    Snapshot { path: PathBuf, reason: String },
    #[error("Cannot change the bitmaps of {}: {reason}", path.display())]
    Bitmap { path: PathBuf, reason: String },
    #[error("qemu-img could not {operation} {}", path.display())]
    Run { operation: &'static str, path: PathBuf, source: ExecError },
    #[error("qemu-img says of {} what this agent does not understand: please report it with its version", path.display())]
    Output { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl QemuImgError {
    /// QEMU measures how fast it can derive a key from a passphrase before it writes anything, and gives
    /// up when the host is too busy to measure: the next attempt may succeed.
    pub(super) fn is_passing(&self) -> bool {
        let (Self::Create { reason, .. } | Self::Convert { reason, .. }) = self else { return false };
        reason.contains("CPU usage")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Convert,
    Info,
    Measure,
    Resize,
    Rebase,
    Commit,
    Check,
    Snapshot,
    Bitmap,
}

impl Operation {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Operation::Create => "create",
            Operation::Convert => "copy into",
            Operation::Info => "read",
            Operation::Measure => "measure",
            Operation::Resize => "resize",
            Operation::Rebase => "rebase",
            Operation::Commit => "merge",
            Operation::Check => "check",
            Operation::Snapshot => "change the snapshots of",
            Operation::Bitmap => "change the bitmaps of",
        }
    }
}

pub(super) fn failed(operation: Operation, path: &Path, reason: String) -> QemuImgError {
    let path = path.to_owned();
    if reason.contains("No space left on device") || reason.contains("Disk quota exceeded") {
        return QemuImgError::NoSpace { operation: operation.verb(), path };
    }
    // "Failed to get shared "write" lock" and "Failed to get "write" lock".
    if reason.contains("Failed to get") && reason.contains("lock") {
        return QemuImgError::Locked { path };
    }
    match operation {
        Operation::Create => QemuImgError::Create { path, reason },
        Operation::Convert => QemuImgError::Convert { path, reason },
        Operation::Info => QemuImgError::Info { path, reason },
        Operation::Measure => QemuImgError::Measure { path, reason },
        Operation::Resize => QemuImgError::Resize { path, reason },
        Operation::Rebase => QemuImgError::Rebase { path, reason },
        Operation::Commit => QemuImgError::Commit { path, reason },
        Operation::Check => QemuImgError::Check { path, reason },
        Operation::Snapshot => QemuImgError::Snapshot { path, reason },
        Operation::Bitmap => QemuImgError::Bitmap { path, reason },
    }
}

/// The last line that the program wrote as an error, else how it ended.
pub(super) fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    // Hints and warnings follow the error proper.
    let own = lines().rfind(|line| line.starts_with("qemu-img: ") && !line.contains("warning:"));
    // "Is another process using the image?" follows the failed lock.
    let locked = lines().find(|line| line.contains("Failed to get") && line.contains("lock"));
    match locked.or(own).or_else(|| lines().next_back()) {
        Some(line) => {
            let line = line.trim_start_matches("qemu-img: ");
            line.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect()
        }
        None => match (output.code, output.signal) {
            (Some(code), _) => format!("it ended with code {code}"),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "it ended without a code".to_owned(),
        },
    }
}
