//! Blocking operations on the disks of running guests; each runs on a pool thread.

use virt::error::ErrorNumber;
use virt::sys;

use super::guests::found;
use super::link::{Lease, is_not_found};
use super::{ffi, refused};
use crate::hypervisor::blocks::{BlockCommit, BlockFacts, BlockJob, BlockJobKind, JobEnd};
use crate::hypervisor::error::Result;

/// What became of the end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pivoted {
    Done,
    /// The job has not caught up yet.
    NotReady,
}

pub fn resize(link: &Lease, name: &str, disk: &str, bytes: u64) -> Result<()> {
    let result = found(link, name)?.block_resize(disk, bytes, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES);
    result.map_err(refused("resizing the disk", &on(disk, name)))
}

pub fn info(link: &Lease, name: &str, disk: &str) -> Result<BlockFacts> {
    let info = found(link, name)?.block_info(disk, 0);
    let info = info.map_err(refused("reading the size of the disk", &on(disk, name)))?;
    Ok(BlockFacts { capacity: info.capacity, allocation: info.allocation, physical: info.physical })
}

pub fn commit(link: &Lease, name: &str, commit: &BlockCommit) -> Result<()> {
    let domain = found(link, name)?;
    let mut flags = 0;
    if commit.top.is_none() {
        flags |= sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE;
    }
    if commit.delete {
        flags |= sys::VIR_DOMAIN_BLOCK_COMMIT_DELETE;
    }
    ffi::block_commit(&domain, &commit.disk, Some(&commit.base), commit.top.as_deref(), flags)
        .map_err(refused("merging layers of the disk", &on(&commit.disk, name)))
}

/// Onto an image that exists; `target` is its `<disk>` document.
pub fn copy(link: &Lease, name: &str, disk: &str, target: &str) -> Result<()> {
    let flags = sys::VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
    ffi::block_copy(&found(link, name)?, disk, target, flags)
        .map_err(refused("copying the disk", &on(disk, name)))
}

pub fn job(link: &Lease, name: &str, disk: &str) -> Result<Option<BlockJob>> {
    let info = ffi::block_job(&found(link, name)?, disk);
    let info = info.map_err(refused("reading the job of the disk", &on(disk, name)))?;
    let kind = |raw: i32| match u32::try_from(raw) {
        Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_PULL) => BlockJobKind::Pull,
        Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COPY) => BlockJobKind::Copy,
        Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT) => BlockJobKind::Commit,
        Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT) => BlockJobKind::ActiveCommit,
        Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP) => BlockJobKind::Backup,
        _ => BlockJobKind::Unknown,
    };
    Ok(info.map(|info| BlockJob { kind: kind(info.kind), done: info.done, total: info.total }))
}

pub fn end_job(link: &Lease, name: &str, disk: &str, how: JobEnd) -> Result<Pivoted> {
    let flags = match how {
        JobEnd::Pivot => sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT,
        JobEnd::Cancel => 0,
    };
    match ffi::abort_block_job(&found(link, name)?, disk, flags) {
        Ok(()) => Ok(Pivoted::Done),
        Err(error) if is_not_found(&error, ErrorNumber::BlockCopyActive) => Ok(Pivoted::NotReady),
        Err(error) => Err(refused("ending the job of the disk", &on(disk, name))(error)),
    }
}

fn on(disk: &str, name: &str) -> String {
    format!("{disk} of {name}")
}
