//! What can go wrong with a volume.

use crate::host::exec::ExecError;
use crate::storage::disk::DiskError;
use crate::storage::qemu_img::QemuImgError;
use std::path::PathBuf;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum VolumeError {
    /// Servers look for the words "not found".
    #[error("Volume {} was not found", path.display())]
    Missing { path: PathBuf },
    #[error("{} exists already and is another volume: delete it first", path.display())]
    Exists { path: PathBuf },
    #[error("{} is still the backing file of {}: delete that first", path.display(), by.display())]
    InUse { path: PathBuf, by: PathBuf },
    #[error("{} is of the format {format}, which is neither qcow2 nor raw", path.display())]
    Format { path: PathBuf, format: String },
    #[error("{} refers to {reference:?}, which is outside its storage: it is not used", path.display())]
    Outside { path: PathBuf, reference: String },
    #[error("{} has more backing files than any real image", path.display())]
    Depth { path: PathBuf },
    #[error("{} needs {needed} bytes and {free} are free: free some space or extend the storage", path.display())]
    Space { path: PathBuf, needed: u64, free: u64 },
    #[error("{} has {now} bytes and cannot become {wanted}: the result would shrink the volume", path.display())]
    Shrink { path: PathBuf, now: u64, wanted: u64 },
    #[error("cp is not installed on this host: install coreutils")]
    NoCopyProgram,
    #[error("Cannot copy {} to {}: {reason}", from.display(), to.display())]
    Copy { from: PathBuf, to: PathBuf, reason: String },
    #[error("No space is left for {}: free some or extend the storage", path.display())]
    Full { path: PathBuf },
    #[error("The copy of {} did not finish", from.display())]
    RunCopy { from: PathBuf, source: ExecError },
    #[error(transparent)]
    Image(#[from] QemuImgError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}
