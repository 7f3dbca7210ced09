//! What [`super::scan`] judges: plain values, collected by [`super::gather`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The state of the host as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Seconds since 1970, as in the other times.
    pub now: u64,
    pub guests: Vec<GuestFact>,
    pub files: Vec<FileFact>,
    pub bridges: Vec<BridgeFact>,
    pub mounts: Vec<MountFact>,
    pub secrets: Vec<SecretFact>,
    /// Files that some process has open.
    pub open: BTreeSet<PathBuf>,
    /// Names that requests of this life of the agent were about.
    pub touched: BTreeSet<String>,
    /// Text of all records of unfinished work.
    pub journal: String,
    /// By file name: the guest whose QEMU last had it.
    pub last_users: BTreeMap<String, String>,
    /// Why files in pools cannot be judged; with any of these none is listed.
    pub blind: Vec<String>,
    /// What was not looked at.
    pub left_out: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestFact {
    pub name: String,
    pub running: bool,
    /// Everything that its documents name, and what these files are based on.
    pub uses: BTreeSet<String>,
}

/// Where a file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Pool,
    Snapshots,
    ConfigDrives,
    Nvram,
    /// Where downloads begin.
    Temporary,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    pub place: Place,
    /// Of the pool, or the directory that was searched.
    pub root: PathBuf,
    /// With links followed.
    pub path: PathBuf,
    pub bytes: u64,
    pub changed: u64,
    /// With links followed.
    pub backing: Option<PathBuf>,
}

impl FileFact {
    pub fn name(&self) -> &str {
        file_name(&self.path)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeFact {
    pub name: String,
    pub ports: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFact {
    pub target: PathBuf,
    pub source: String,
    /// What needs it, such as a pool of libvirt.
    pub user: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFact {
    pub uuid: String,
    /// The volume that it is for.
    pub volume: String,
}

pub fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
