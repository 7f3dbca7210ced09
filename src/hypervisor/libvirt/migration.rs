//! Blocking operations of a migration; `migrate` lasts as long as the migration does.

use std::time::Duration;

use tokio::sync::oneshot;
use virt::error::ErrorNumber;
use virt::sys;

use super::domain::lookup;
use super::ffi::{self, MigrationCall};
use super::guests::found;
use super::link::{Lease, is_not_found, open_one};
use super::{fault, refused};
use crate::hypervisor::error::{HypervisorError, Result};
use crate::hypervisor::migration::{DiskCopy, JobProgress, Migration};

/// Tells `opened` when the destination has answered; goes on only if somebody hears it.
pub fn migrate(link: &Lease, name: &str, migration: &Migration, opened: oneshot::Sender<()>) -> Result<()> {
    let domain = found(link, name)?;
    let uri = &migration.destination;
    let destination = open_one(uri).map_err(|error| HypervisorError::DestinationUnreachable {
        uri: uri.clone(),
        source: fault(&error),
    })?;
    if opened.send(()).is_err() {
        // Nobody reads this.
        return Err(HypervisorError::Panicked { operation: "a migration that was given up" });
    }
    let mut flags = sys::VIR_MIGRATE_LIVE;
    for (wanted, flag) in [
        (migration.compressed, sys::VIR_MIGRATE_COMPRESSED),
        (migration.auto_converge, sys::VIR_MIGRATE_AUTO_CONVERGE),
        (migration.persist, sys::VIR_MIGRATE_PERSIST_DEST),
        (migration.copy == DiskCopy::Full, sys::VIR_MIGRATE_NON_SHARED_DISK),
        (migration.copy == DiskCopy::Incremental, sys::VIR_MIGRATE_NON_SHARED_INC),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    let call = MigrationCall {
        name,
        xml: migration.xml.as_deref(),
        uri: migration.uri.as_deref(),
        disks_uri: migration.disks_uri.as_deref(),
        bandwidth: migration.bandwidth,
        disks: &migration.disks,
        flags,
    };
    let moved = ffi::migrate(&domain, &destination, &call).map_err(refused("migrating the guest", name));
    moved.map_err(|error| match error {
        // Either end may have said it, so it says nothing of this host's connection.
        HypervisorError::Libvirt { source, .. } => {
            HypervisorError::MigrationFailed { guest: name.to_owned(), uri: uri.clone(), source }
        }
        other => other,
    })
}

pub fn progress(link: &Lease, name: &str) -> Result<Option<JobProgress>> {
    let Some(domain) = lookup(link, name)? else { return Ok(None) };
    let info = match domain.job_info() {
        Ok(info) => info,
        Err(error) if is_not_found(&error, ErrorNumber::NoDomain) => return Ok(None),
        Err(error) => return Err(refused("reading the progress", name)(error)),
    };
    let running = [sys::VIR_DOMAIN_JOB_BOUNDED, sys::VIR_DOMAIN_JOB_UNBOUNDED]
        .iter()
        .any(|kind| u32::try_from(info.r#type) == Ok(*kind));
    Ok(Some(JobProgress {
        running,
        elapsed_ms: info.time_elapsed.unwrap_or(0),
        total: info.data_total.unwrap_or(0),
        processed: info.data_processed.unwrap_or(0),
        remaining: info.data_remaining.unwrap_or(0),
    }))
}

pub fn abort(link: &Lease, name: &str) -> Result<()> {
    ffi::abort_job(&found(link, name)?).map_err(refused("aborting the job", name))
}

pub fn set_max_downtime(link: &Lease, name: &str, downtime: Duration) -> Result<()> {
    let milliseconds = u64::try_from(downtime.as_millis()).unwrap_or(u64::MAX);
    let set = found(link, name)?.migrate_set_max_downtime(milliseconds, 0);
    set.map(drop).map_err(refused("setting the downtime", name))
}
