//! The disk of a running guest moved onto another image, while the guest goes on.
//!
//! ```text
//!   start_copy ──▶ the job copies, then repeats each write ──▶ finish_copy: the guest is on the target
//!                     │ deadline, error, end_copy(Cancel)
//!                     ▼
//!                  the guest is where it was
//! ```

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::blocks::{BlockJobKind, JOB_POLL, JobEnd};
use super::error::{HypervisorError, Object, Result};
use super::libvirt::blocks::{self, Pivoted};
use super::{Hypervisor, Passwords, checked, plain, xml};

/// An image that a disk is moved to; it exists and has the size of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTarget {
    pub path: String,
    /// Such as "qcow2".
    pub format: String,
}

impl Hypervisor {
    /// Copies a disk (a target device such as "vda") with everything below it, and returns when the copy
    /// has caught up: from then on it follows the guest's writes until it is finished or ended. When
    /// the deadline passes, or the caller goes away, the copy is given up.
    pub async fn copy_disk(
        &self,
        name: &str,
        disk: &str,
        target: &CopyTarget,
        deadline: Duration,
    ) -> Result<()> {
        let end = Instant::now() + deadline;
        let document = xml::copy_target(plain("The path of an image", &target.path)?, &target.format);
        let (guest, device) = (checked(Object::Guest, name)?, plain("The name of a disk", disk)?);
        self.change("copying a disk", move |link| blocks::copy(link, &guest, &device, &document)).await?;
        loop {
            match self.block_job(name, disk).await {
                // Without a length the job has not looked yet.
                Ok(Some(job)) if job.is_ready() && job.total > 0 => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => return Err(not_moved(name, disk, "ended without success", None)),
                Err(error @ (HypervisorError::NotFound { .. } | HypervisorError::Invalid { .. })) => {
                    return Err(not_moved(name, disk, "was interrupted", Some(error)));
                }
                // May pass.
                Err(_) => {}
            }
            if Instant::now() >= end {
                let cancelled = self.cancel_copy(name, disk).await;
                return Err(not_moved(name, disk, "took too long", cancelled.err()));
            }
            sleep(JOB_POLL).await;
        }
    }

    /// Lets the guest go on with the target of a copy that has caught up.
    pub async fn finish_copy(&self, name: &str, disk: &str, target: &CopyTarget) -> Result<()> {
        let error = match self.end_job(name, disk, JobEnd::Pivot).await {
            Ok(Pivoted::Done) => None,
            Ok(Pivoted::NotReady) => Some(not_moved(name, disk, "has not caught up", None)),
            Err(error) => Some(not_moved(name, disk, "could not be finished", Some(error))),
        };
        // What the guest really does decides: an answer may have come too late.
        match (self.is_disk_on(name, disk, &target.path).await, error) {
            (Ok(Some(true)), _) => Ok(()),
            (_, Some(error)) => Err(error),
            (Ok(_), None) => Err(not_moved(name, disk, "ended without success", None)),
            (Err(error), None) => Err(error),
        }
    }

    /// Ends a copy that is under way; the guest stays where it was. Without one there is nothing to do.
    pub async fn cancel_copy(&self, name: &str, disk: &str) -> Result<()> {
        match self.block_job(name, disk).await {
            Ok(Some(job)) if job.kind == BlockJobKind::Copy => {
                self.end_job(name, disk, JobEnd::Cancel).await.map(drop)
            }
            // What has no jobs has not started one either.
            Ok(Some(_) | None) | Err(HypervisorError::Unsupported { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the guest writes to that file; `None` if there is no such guest or it does not run.
    pub async fn is_disk_on(&self, name: &str, disk: &str, path: &str) -> Result<Option<bool>> {
        let Some(guest) = self.describe(name, Passwords::LeftOut).await? else { return Ok(None) };
        if guest.state.power() == super::PowerState::Off {
            return Ok(None);
        }
        let mut disks = guest.description.disks.iter();
        Ok(Some(disks.any(|described| described.target == disk && described.source.as_deref() == Some(path))))
    }
}

fn not_moved(guest: &str, disk: &str, why: &str, source: Option<HypervisorError>) -> HypervisorError {
    HypervisorError::NotMoved {
        guest: guest.to_owned(),
        disk: disk.to_owned(),
        why: why.to_owned(),
        source: source.map(Box::new),
    }
}
