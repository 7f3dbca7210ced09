//! What `agent --status` shows: the snapshot type, the board that owners publish to, the local
//! socket and file that carry it, the checks, and the text.
//!
//! Nothing here calls libvirt, starts a process or waits for one of the owners: a hung hypervisor
//! or a silent server must never keep an operator from seeing why.
//!
//! ```text
//!   owners --publish--> Board --snapshot--> socket  --> agent --status (live)
//!   (session, dispatch,        \----------> file    --> agent --status (snapshot)
//!    libvirt, ...)      static checks ----------------> agent --status (static)
//! ```

pub mod board;
pub mod checks;
pub mod fetch;
pub mod file;
pub mod health;
pub mod human;
mod nfs;
pub mod probes;
pub mod render;
mod sections;
pub mod snapshot;
pub mod socket;
pub mod timestamp;
pub mod unit;

#[cfg(test)]
pub(crate) mod fixtures;

pub use board::Board;
pub use checks::{Check, CheckResult};
pub use snapshot::{Source, Status, Verdict};
pub use timestamp::Timestamp;

/// The name operators type; used in remedies.
pub const PROGRAM: &str = "cloudstack-agent";

/// The CloudStack version whose wire dialect this agent speaks (`StartupCommand.version`).
pub const WIRE_VERSION: &str = "4.19.1.0";

/// Socket in the runtime directory that the live agent answers on.
pub const SOCKET_NAME: &str = "agent.sock";

/// Last snapshot in the runtime directory, for when the agent is dead.
pub const SNAPSHOT_NAME: &str = "status.json";

/// Locked by the running agent for as long as it lives; holds its pid.
pub const LOCK_NAME: &str = "agent.lock";
