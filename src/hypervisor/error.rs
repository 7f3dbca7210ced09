//! Errors of the hypervisor, each with what to do about it.

use std::time::Duration;

use thiserror::Error;
use uuid::Uuid;

use crate::xml::XmlError;

pub type Result<T, E = HypervisorError> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum HypervisorError {
    #[error("No connection to libvirt at {uri}{}: check that libvirtd (or virtqemud) runs and that `virsh -c {uri} version` works",
        .last_error.as_deref().map(|e| format!(" ({e})")).unwrap_or_default())]
    NotConnected { uri: String, last_error: Option<String> },

    #[error("libvirt did not finish {operation} within {} s and was left to it: look for a hung guest or storage in the libvirtd log", .after.as_secs_f32())]
    Deadline { operation: &'static str, after: Duration },

    #[error(
        "Too many libvirt calls are waiting ({waiting}) to take {operation}: libvirt is slow, try again later"
    )]
    Overloaded { operation: &'static str, waiting: usize },

    #[error(
        "All {stuck} libvirt call slots are stuck, {operation} was not tried: restart libvirtd, guests keep running"
    )]
    AllStuck { operation: &'static str, stuck: usize },

    #[error("Internal failure in {operation}: please report it with the log")]
    Panicked { operation: &'static str },

    #[error("libvirt refused {operation} for {subject}: see the libvirtd log for details")]
    Libvirt { operation: &'static str, subject: String, source: LibvirtFault },

    #[error("No {what} named {name} in libvirt")]
    NotFound { what: &'static str, name: String },

    #[error("The name of a {what} must be 1 to 255 characters without control characters or '/': {name:?}")]
    InvalidName { what: &'static str, name: String },

    #[error("Cannot read the {what} XML from libvirt: please report it with the libvirt version")]
    Xml { what: &'static str, source: XmlError },

    #[error(
        "Storage directory {path} does not exist: create it, or correct local.storage.path in agent.properties"
    )]
    MissingDirectory { path: String },

    #[error(
        "The path {path:?} of a storage pool is not absolute: correct local.storage.path in agent.properties"
    )]
    RelativePath { path: String },

    #[error(
        "Storage pool {uuid} is at {actual}, not at {wanted}: give the new path its own id in local.storage.uuid, or `virsh pool-destroy {uuid}`"
    )]
    PoolElsewhere { uuid: Uuid, wanted: String, actual: String },
}

/// An error as libvirt reported it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message} (libvirt error {code}, domain {domain})")]
pub struct LibvirtFault {
    /// `virErrorNumber`.
    pub code: u32,
    /// `virErrorDomain`.
    pub domain: u32,
    pub message: String,
}
