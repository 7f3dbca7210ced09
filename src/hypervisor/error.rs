//! Errors of the hypervisor, each with what to do about it.

use std::fmt;
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
    NotFound { what: Object, name: String },

    #[error("Guest {name} runs already: stop it first")]
    AlreadyRunning { name: String },

    #[error("Guest {name} does not run: start it first")]
    NotRunning { name: String },

    #[error("The state of {subject} does not allow {operation}: check with `virsh list --all` what it does")]
    Invalid { operation: &'static str, subject: String, source: LibvirtFault },

    #[error("libvirt or QEMU on this host cannot do {operation} for {subject}: a newer one may")]
    Unsupported { operation: &'static str, subject: String, source: LibvirtFault },

    #[error("{operation} for {subject} was aborted")]
    Aborted { operation: &'static str, subject: String, source: LibvirtFault },

    #[error("QEMU guest agent is not connected in {guest}: install and start qemu-guest-agent there")]
    AgentUnresponsive { guest: String, source: LibvirtFault },

    #[error("{peer} refused the command {command} for guest {guest}: {answer}")]
    CommandRefused { peer: &'static str, command: String, guest: String, answer: String },

    #[error(
        "Disk {disk} of guest {guest} still writes to its overlay, since merging it {why}: merge it by hand with `virsh blockcommit {guest} {disk} --active --pivot`"
    )]
    NotMerged { guest: String, disk: String, why: String, source: Option<Box<HypervisorError>> },

    #[error(
        "Disk {disk} of guest {guest} stays where it is, since moving it {why}: see the libvirtd log, then move it again"
    )]
    NotMoved { guest: String, disk: String, why: String, source: Option<Box<HypervisorError>> },

    #[error(
        "Cannot connect to libvirt at {uri}: check that it listens there, its certificates and firewalls"
    )]
    DestinationUnreachable { uri: String, source: LibvirtFault },

    #[error("Guest {guest} could not be migrated to {uri} and stays here: see both libvirtd logs")]
    MigrationFailed { guest: String, uri: String, source: LibvirtFault },

    #[error(
        "libvirt at {uri} does not answer within {} s: check that the destination's libvirtd listens and that no firewall is between", .after.as_secs()
    )]
    DestinationSilent { uri: String, after: Duration },

    #[error(
        "Storage pool {id} does not answer: an earlier call is stuck there. Check its server and network"
    )]
    PoolHung { id: String },

    #[error("The name of a {what} must be 1 to 255 characters without control characters or '/': {name:?}")]
    InvalidName { what: Object, name: String },

    #[error("{what} must not have control characters: {value:?}")]
    InvalidText { what: &'static str, value: String },

    #[error("Cannot read the {what} XML from libvirt: please report it with the libvirt version")]
    Xml { what: &'static str, source: XmlError },

    #[error(
        "Storage directory {path} does not exist: create it, or correct local.storage.path in agent.properties"
    )]
    MissingDirectory { path: String },

    #[error("Cannot create the mount point {path}: check its parent directory")]
    MountPoint { path: String, source: std::io::Error },

    #[error(
        "The path {path:?} of a storage pool is not absolute: correct local.storage.path in agent.properties"
    )]
    RelativePath { path: String },

    #[error(
        "Storage pool {uuid} is at {actual}, not at {wanted}: give the new path its own id in local.storage.uuid, or `virsh pool-destroy {uuid}`"
    )]
    PoolElsewhere { uuid: Uuid, wanted: String, actual: String },
}

impl HypervisorError {
    /// What libvirt said, if it said anything.
    pub fn fault(&self) -> Option<&LibvirtFault> {
        match self {
            Self::Libvirt { source, .. }
            | Self::Invalid { source, .. }
            | Self::Unsupported { source, .. }
            | Self::Aborted { source, .. }
            | Self::AgentUnresponsive { source, .. }
            | Self::DestinationUnreachable { source, .. }
            | Self::MigrationFailed { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether it may be another host's libvirt that said it.
    pub(super) fn is_of_another_host(&self) -> bool {
        matches!(self, Self::DestinationUnreachable { .. } | Self::MigrationFailed { .. })
    }

    pub fn is_not_found(&self, object: Object) -> bool {
        matches!(self, Self::NotFound { what, .. } if *what == object)
    }
}

/// What libvirt has by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    Guest,
    StoragePool,
    Volume,
    Snapshot,
    Secret,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guest => "guest",
            Self::StoragePool => "storage pool",
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
            Self::Secret => "secret",
        })
    }
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
