//! What can go wrong with a mount.

use crate::host::exec::ExecError;
use crate::storage::disk::DiskError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Cloned for everybody who waits for the same mount.
#[derive(Debug, Clone, Error)]
pub enum MountError {
    #[error(
        "{program} is not installed on this host: install util-linux and nfs-common (Debian) or nfs-utils (RHEL)"
    )]
    Missing { program: &'static str },
    #[error("{text:?} is not an NFS export: a host name or address and an absolute path are needed")]
    Export { text: String },
    #[error("{option:?} is not a mount option: correct the pool's nfsmountopts")]
    Option { option: String },
    #[error("Cannot tell what is mounted on this host")]
    Table { source: Arc<io::Error> },
    #[error("Cannot prepare the directory {} for a mount", target.display())]
    Directory { target: PathBuf, source: Arc<DiskError> },
    #[error("{server} did not answer within {} s when {export} was mounted: check the server and the network", after.as_secs())]
    Silent { server: String, export: String, after: Duration },
    #[error("{export} is mounted at {} but its server does not answer: check the server and the network", target.display())]
    Dead { export: String, target: PathBuf, source: Arc<DiskError> },
    #[error("Cannot mount {export} at {}: {reason}", target.display())]
    Refused { export: String, target: PathBuf, reason: String },
    #[error("{} has {by} mounted already: unmount it by hand", target.display())]
    Occupied { target: PathBuf, by: String },
    #[error("{} is still in use by a guest or another program and stays mounted", target.display())]
    Busy { target: PathBuf },
    #[error("Cannot unmount {}: {reason}", target.display())]
    Unmount { target: PathBuf, reason: String },
    #[error("Cannot run the program that mounts")]
    Run { source: Arc<ExecError> },
    #[error("The agent is stopping: try again later")]
    Stopped,
}
