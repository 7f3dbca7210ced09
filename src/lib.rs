//! KVM node agent for Apache CloudStack.
//!
//! Modules in dependency order; `ARCHITECTURE.md` draws the picture.

pub mod errors;
pub mod files;
pub mod histogram;
pub mod journal;
pub mod wire;
pub mod xml;

pub mod config;
pub mod guest;
pub mod tls;

pub mod host;
pub mod hypervisor;
pub mod network;

pub mod orphans;
pub mod recovery;
pub mod setup;
pub mod storage;

pub mod commands;
pub mod dispatch;
pub mod session;

pub mod service;
pub mod status;

pub mod metrics;

pub mod app;
pub mod cli;

#[cfg(feature = "sim")]
pub mod sim;
