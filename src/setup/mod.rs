//! Setting up a host: what `cloudstack-setup-agent`, `keystore-setup`, `keystore-cert-import` and the
//! other programs do that a management server or an operator calls by name.
//!
//! ```text
//!   gather: Root -> Facts          looks, changes nothing
//!        |
//!   planning::plan(Task, Facts)    pure: what has to change, and what stands in the way
//!        |
//!   apply: Plan -> Record          one edit after the other, each recorded before it is done
//!        |
//!   undo: Record -> the host as it was
//! ```
//!
//! Does in the plan's place what `cloudutils/serviceConfig.py` does, but edits only what differs, matches
//! keys exactly, never touches a network configuration, and takes back what it did when a step fails.
//! Never logs keys or passphrases.

pub mod apply;
pub mod gather;
pub mod guest;
pub mod keystore;
pub mod planning;
pub mod record;
pub mod root;
pub mod undo;

#[cfg(test)]
mod testing;

pub use root::Root;

/// The directory of `agent.properties` and the certificates.
pub const AGENT_DIR: &str = "/etc/cloudstack/agent";
pub const PROPERTIES: &str = "/etc/cloudstack/agent/agent.properties";
