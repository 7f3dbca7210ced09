//! Behaviour tests: everything that runs against the simulated management server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod golden;
mod mini_agent;
mod sim_faults;
mod sim_selftest;
