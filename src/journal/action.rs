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
    /// A snapshot inside the images of a guest.
    DeleteGuestSnapshot {
        guest: String,
        snapshot: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::RemoveFile { path } => write!(f, "remove {}", path.display()),
            Action::RemoveDirectory { path } => write!(f, "remove the directory {}", path.display()),
            Action::MoveBack { from, to } => write!(f, "move {} back to {}", from.display(), to.display()),
            Action::DestroyGuest { guest } => write!(f, "end guest {guest}"),
            Action::MergeOverlay { guest, device, base, .. } => {
                write!(f, "merge the overlay of {device} of guest {guest} into {}", base.display())
            }
            Action::ResumeGuest { guest } => write!(f, "resume guest {guest}"),
            Action::Unplug { bridge, .. } => write!(f, "take down bridge {bridge}"),
            Action::UndefineSecret { uuid } => write!(f, "undefine secret {uuid}"),
            Action::DeleteGuestSnapshot { guest, snapshot } => {
                write!(f, "delete snapshot {snapshot} of guest {guest}")
            }
        }
    }
}
