//! Behaviour tests: everything that runs against the simulated management server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod architecture;
mod captured_guests;
mod certificates;
mod concurrency;
mod domain_xml;
mod duties;
mod faults;
mod golden;
mod harness;
mod libvirt_faults;
mod metrics;
mod mini_agent;
mod packaging;
mod readme;
mod real;
mod real_devices;
mod real_domain_xml;
mod real_guest_commands;
mod real_hypervisor;
mod real_libvirt;
mod real_migration;
mod real_nics;
mod real_orphans;
mod real_scaling;
mod real_snapshots;
mod real_unmanaged;
mod real_volumes;
mod registration;
mod reload;
mod server_list;
mod setup_contract;
mod sim_faults;
mod sim_selftest;
mod simulated;
mod starting;
