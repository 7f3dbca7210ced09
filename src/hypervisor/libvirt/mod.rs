//! libvirt through the `virt` crate. No other module may use that crate.
//!
//! Every libvirt call may block for as long as it likes, so none runs on a task: `pool` has the
//! threads, `conn` keeps a connection open, and `domain`, `storage` and `capabilities` are the
//! blocking operations that the threads run.

pub(super) mod capabilities;
pub(super) mod conn;
pub(super) mod domain;
pub(super) mod events;
pub(super) mod link;
pub(super) mod pool;
pub(super) mod storage;

use super::error::{HypervisorError, LibvirtFault};

pub(super) fn fault(error: &virt::error::Error) -> LibvirtFault {
    LibvirtFault {
        code: error.code().to_raw(),
        domain: error.domain().to_raw(),
        message: error.message().to_owned(),
    }
}

/// A libvirt error on a given object, for use with `map_err`.
pub(super) fn refused(
    operation: &'static str,
    subject: &str,
) -> impl FnOnce(virt::error::Error) -> HypervisorError {
    let subject = subject.to_owned();
    move |error| HypervisorError::Libvirt { operation, subject, source: fault(&error) }
}
