//! What is left on this host and nobody will ask for again.
//!
//! A server that loses a guest in the middle of a destroy sends no more commands for it: its volume,
//! its config drive, its bridge stay. This module finds such things and, when asked by name, removes
//! them. Nothing is ever removed by itself.
//!
//! ```text
//!   gather: what is there, who uses it ──▶ Facts ──▶ scan (pure) ──▶ Found ──▶ list, status
//!                                                                    └──▶ remove: again from the start
//! ```
//!
//! A host cannot know what the server knows: the volume of a stopped guest looks like one that was
//! forgotten. So only the operator decides, and each finding says why it is listed.

mod facts;
mod files;
mod gather;
mod logs;
pub mod names;
mod remove;
mod scan;
pub mod touched;

#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use gather::{GatherError, Places, Tools};
pub use remove::{Outcome, Refused};
pub use scan::scan;

use serde::Serialize;

/// What a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Defined, and does not run.
    Domain,
    /// A file in a pool: disk, template or ISO.
    Volume,
    Snapshot,
    ConfigDrive,
    /// UEFI variables of a guest.
    Nvram,
    Bridge,
    Mount,
    Secret,
    /// A download or a copy that an earlier life of the agent did not finish.
    Unfinished,
}

impl Kind {
    /// As in the JSON and in ids.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Domain => "domain",
            Kind::Volume => "volume",
            Kind::Snapshot => "snapshot",
            Kind::ConfigDrive => "config-drive",
            Kind::Nvram => "nvram",
            Kind::Bridge => "bridge",
            Kind::Mount => "mount",
            Kind::Secret => "secret",
            Kind::Unfinished => "unfinished",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// `kind:name`, or `kind:path` if two have the same name.
    pub id: String,
    pub kind: Kind,
    /// Path of a file or mount, name of anything else.
    pub name: String,
    /// Whose it probably was.
    pub owner: Option<String>,
    /// What it takes on its storage.
    pub bytes: u64,
    /// Since its last change.
    pub age_seconds: Option<u64>,
    pub why: String,
    /// Ids of findings that are based on it, and must go first.
    pub needed_by: Vec<String>,
}

/// All findings, and what was not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    pub orphans: Vec<Orphan>,
    /// One sentence each.
    pub left_out: Vec<String>,
}

impl Found {
    pub fn bytes(&self) -> u64 {
        self.orphans.iter().fold(0, |sum, orphan| sum.saturating_add(orphan.bytes))
    }
}
