//! libvirt through the `virt` crate. No other module may use that crate.
//!
//! Every libvirt call may block for as long as it likes, so none runs on a task: `pool` has the
//! threads, `conn` keeps a connection open; the others are the blocking operations that the threads
//! run. What the crate does not wrap is in `events` and `ffi`.

pub(super) mod blocks;
pub(super) mod capabilities;
pub(super) mod conn;
pub(super) mod domain;
pub(super) mod events;
mod ffi;
pub(super) mod guests;
pub(super) mod link;
pub(super) mod migration;
pub(super) mod pool;
pub(super) mod secrets;
pub(super) mod snapshots;
pub(super) mod storage;
pub(super) mod tuning;

use virt::error::ErrorNumber;

use super::error::{HypervisorError, LibvirtFault, Object};

pub(super) fn fault(error: &virt::error::Error) -> LibvirtFault {
    LibvirtFault {
        code: error.code().to_raw(),
        domain: error.domain().to_raw(),
        message: error.message().to_owned(),
    }
}

/// A libvirt error on a given object, for use with `map_err`. Errors that callers tell apart become
/// variants of their own.
pub(super) fn refused(
    operation: &'static str,
    subject: &str,
) -> impl FnOnce(virt::error::Error) -> HypervisorError {
    let subject = subject.to_owned();
    move |error| {
        let (code, source) = (error.code(), fault(&error));
        let is = |known: &[ErrorNumber]| known.iter().any(|number| code.is(*number));
        let missing = MISSING.iter().find(|(number, _)| code.is(*number));
        if let Some((_, what)) = missing {
            HypervisorError::NotFound { what: *what, name: subject }
        } else if is(&AGENT) || (is(&UNSUPPORTED) && source.message.contains("guest agent")) {
            HypervisorError::AgentUnresponsive { guest: subject, source }
        } else if is(&[ErrorNumber::OperationInvalid]) {
            HypervisorError::Invalid { operation, subject, source }
        } else if is(&UNSUPPORTED) {
            HypervisorError::Unsupported { operation, subject, source }
        } else if is(&[ErrorNumber::OperationAborted]) {
            HypervisorError::Aborted { operation, subject, source }
        } else {
            HypervisorError::Libvirt { operation, subject, source }
        }
    }
}

/// libvirt's ways to say that there is no such object.
const MISSING: [(ErrorNumber, Object); 5] = [
    (ErrorNumber::NoDomain, Object::Guest),
    (ErrorNumber::NoStoragePool, Object::StoragePool),
    (ErrorNumber::NoStorageVolume, Object::Volume),
    (ErrorNumber::NoDomainSnapshot, Object::Snapshot),
    (ErrorNumber::NoSecret, Object::Secret),
];

/// The same for a guest agent that is absent, hangs, or is out of step.
const AGENT: [ErrorNumber; 3] =
    [ErrorNumber::AgentUnresponsive, ErrorNumber::AgentUnsynced, ErrorNumber::AgentCommandTimeout];

const UNSUPPORTED: [ErrorNumber; 4] = [
    ErrorNumber::NoSupport,
    ErrorNumber::OperationUnsupported,
    ErrorNumber::ConfigUnsupported,
    ErrorNumber::ArgumentUnsupported,
];
