//! What can go wrong with a pool.

use crate::hypervisor::HypervisorError;
use crate::storage::disk::DiskError;
use crate::storage::mounts::MountError;
use std::path::PathBuf;
use thiserror::Error;
use uuid::Uuid;

#[derive(Debug, Error)]
pub enum PoolError {
    #[error(
        "Storage pools of type {kind} are not supported by this agent: use Filesystem, SharedMountPoint or NetworkFilesystem"
    )]
    Unsupported { kind: String },
    #[error("{text:?} is not the UUID of a storage pool")]
    Uuid { text: String },
    /// Servers look for the words "not found".
    #[error(
        "Storage pool {uuid} was not found: libvirt does not have it, and the command does not say what it is made of. Add it again with the server"
    )]
    Unknown { uuid: Uuid },
    #[error("Storage pool {uuid} cannot be at {path:?}: an absolute path without \"..\" is needed")]
    Path { uuid: Uuid, path: String },
    #[error("Storage pool {uuid} is to be at {}, where nothing is mounted: mount it, or add the pool again with the server", path.display())]
    NotMounted { uuid: Uuid, path: PathBuf },
    #[error("Storage pool {uuid} is to be at {}, which does not exist: mount its file system again", path.display())]
    Gone { uuid: Uuid, path: PathBuf },
    #[error("Could not fetch storage pool {uuid} from libvirt")]
    Libvirt { uuid: Uuid, source: HypervisorError },
    #[error("{url:?} cannot be mounted: secondary storage has to be nfs://host/directory")]
    Url { url: String },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}
