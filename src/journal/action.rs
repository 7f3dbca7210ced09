//! What undoes or finishes a step. Each is safe to do twice, and when nothing is there to do.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    RemoveFile {
        path: PathBuf,
    },
    /// Only if it is empty.
    RemoveDirectory {
        path: PathBuf,
    },
    /// A file of secondary storage, with what a dead agent left unfinished beside it, or an empty
    /// directory. It is mounted for that: after a restart it is not any more.
    RemoveStored {
        url: String,
        /// Below the URL.
        path: String,
        directory: bool,
    },
    /// Gives a file its place back, if it is still aside.
    MoveBack {
        from: PathBuf,
        to: PathBuf,
    },
    /// Ends a guest that this work has started.
    DestroyGuest {
        guest: String,
    },
    /// Makes a guest write to `base` again instead of to an overlay over it; if it does not run any
    /// more, what the overlay has is moved into `base` all the same.
    MergeOverlay {
        guest: String,
        device: String,
        base: PathBuf,
        overlay: PathBuf,
    },
    /// Gives up moving the disk of a running guest onto `target`, which goes. If the guest is on it
    /// already, all stays; the same if that cannot be told and the guest `may_be_moved`.
    EndCopy {
        guest: String,
        device: String,
        target: PathBuf,
        may_be_moved: bool,
    },
    /// Gives up a merge of layers of a guest that runs. If it has come to its end already, `overlay` goes:
    /// it is older than `base` by then.
    CancelMerge {
        guest: String,
        device: String,
        base: PathBuf,
        overlay: PathBuf,
    },
    ResumeGuest {
        guest: String,
    },
    /// Takes a bridge down that no guest is plugged into any more.
    Unplug {
        bridge: String,
        delete: bool,
    },
    UndefineSecret {
        uuid: String,
    },
    /// Asks a guest for the disk with that source.
    DetachDisk {
        guest: String,
        source: String,
    },
    /// Asks a guest for its network card.
    DetachInterface {
        guest: String,
        mac: String,
    },
    /// Puts a network card of a guest back onto a bridge.
    MoveInterface {
        guest: String,
        mac: String,
        bridge: String,
    },
    /// A snapshot inside the images of a guest.
    DeleteGuestSnapshot {
        guest: String,
        snapshot: String,
    },
}

impl Action {
    /// Whether a guest uses what earlier steps have made until this is done: bridges, passphrases.
    pub(super) fn frees(&self) -> bool {
        matches!(
            self,
            Action::DestroyGuest { .. } | Action::DetachDisk { .. } | Action::DetachInterface { .. }
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::RemoveFile { path } => write!(f, "remove {}", path.display()),
            Action::RemoveDirectory { path } => write!(f, "remove the directory {}", path.display()),
            Action::RemoveStored { url, path, .. } => write!(f, "remove {path} from {url}"),
            Action::MoveBack { from, to } => write!(f, "move {} back to {}", from.display(), to.display()),
            Action::DestroyGuest { guest } => write!(f, "end guest {guest}"),
            Action::MergeOverlay { guest, device, base, .. } => {
                write!(f, "merge the overlay of {device} of guest {guest} into {}", base.display())
            }
            Action::EndCopy { guest, device, target, .. } => {
                write!(f, "give up moving disk {device} of guest {guest} to {}", target.display())
            }
            Action::CancelMerge { guest, device, overlay, .. } => {
                write!(f, "give up merging {} on {device} of guest {guest}", overlay.display())
            }
            Action::ResumeGuest { guest } => write!(f, "resume guest {guest}"),
            Action::Unplug { bridge, .. } => write!(f, "take down bridge {bridge}"),
            Action::DetachDisk { guest, source } => write!(f, "take {source} from guest {guest}"),
            Action::DetachInterface { guest, mac } => write!(f, "take network card {mac} from guest {guest}"),
            Action::MoveInterface { guest, mac, bridge } => {
                write!(f, "move network card {mac} of guest {guest} back to {bridge}")
            }
            Action::UndefineSecret { uuid } => write!(f, "undefine secret {uuid}"),
            Action::DeleteGuestSnapshot { guest, snapshot } => {
                write!(f, "delete snapshot {snapshot} of guest {guest}")
            }
        }
    }
}
