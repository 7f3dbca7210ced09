//! The process as a service: logging, signals, systemd.
//!
//! Nothing here knows what the agent does; it only connects the process to its surroundings.

pub mod exit;
mod journald;
pub mod logging;
pub mod memory;
pub mod notify;
pub mod pulse;
pub mod repeat;
pub mod signals;
