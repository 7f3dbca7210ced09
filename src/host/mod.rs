//! This node: inventory, statistics, processes.
//!
//! Everything here reads; only `exec` acts, and only on behalf of a caller. Files are read below a
//! root directory that tests replace.

pub mod capabilities;
pub mod cpu;
pub mod exec;
pub mod health;
pub mod identity;
pub mod inventory;
pub mod memory;
mod netlink;
pub mod nic;
pub mod os;
pub mod samples;
pub mod secured;
pub mod stats;
