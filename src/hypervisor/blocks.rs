//! Disks of running guests: their size, and jobs that merge layers of their images.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::{HypervisorError, Object, Result};
use super::libvirt::blocks::{self, Pivoted};
use super::{Hypervisor, Passwords, QUERY_DEADLINE, checked, plain};

/// How often a job is looked at.
pub(super) const JOB_POLL: Duration = Duration::from_millis(250);

/// Sizes in bytes (`virDomainGetBlockInfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockFacts {
    /// What the guest sees.
    pub capacity: u64,
    pub allocation: u64,
    pub physical: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockJobKind {
    Pull,
    Copy,
    Commit,
    ActiveCommit,
    Backup,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockJob {
    pub kind: BlockJobKind,
    pub done: u64,
    pub total: u64,
}

impl BlockJob {
    /// Whether a job that follows the guest's writes has caught up, so that it can be pivoted.
    pub fn is_ready(&self) -> bool {
        self.done == self.total
    }
}

/// How a job is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEnd {
    /// The guest writes to the job's target from now on.
    Pivot,
    /// All stays as it was.
    Cancel,
}

/// Which layers of a disk are merged, into what, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockCommit {
    /// Target device such as "vda", or the path of its source.
    pub disk: String,
    /// The layer that takes the others in.
    pub base: String,
    /// The uppermost layer to merge; `None` for the one that the guest writes to.
    pub top: Option<String>,
    /// Whether libvirt deletes the merged files.
    pub delete: bool,
}

impl Hypervisor {
    /// Tells the guest a new size of a disk, which its image must have room for.
    pub async fn block_resize(&self, name: &str, disk: &str, bytes: u64) -> Result<()> {
        let (name, disk) = (checked(Object::Guest, name)?, plain("The name of a disk", disk)?);
        self.change("resizing a disk", move |link| blocks::resize(link, &name, &disk, bytes)).await
    }

    pub async fn block_info(&self, name: &str, disk: &str) -> Result<BlockFacts> {
        let (name, disk) = (checked(Object::Guest, name)?, plain("The name of a disk", disk)?);
        let read = move |link: &_| blocks::info(link, &name, &disk);
        self.call("reading the size of a disk", QUERY_DEADLINE, read).await
    }

    /// Starts merging layers and returns at once.
    pub async fn block_commit(&self, name: &str, commit: BlockCommit) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        for path in [&commit.disk, &commit.base].into_iter().chain(&commit.top) {
            plain("The path of a disk", path)?;
        }
        self.change("merging layers of a disk", move |link| blocks::commit(link, &name, &commit)).await
    }

    /// `None` if no job runs on the disk.
    pub async fn block_job(&self, name: &str, disk: &str) -> Result<Option<BlockJob>> {
        let (name, disk) = (checked(Object::Guest, name)?, plain("The name of a disk", disk)?);
        let read = move |link: &_| blocks::job(link, &name, &disk);
        self.call("reading the job of a disk", QUERY_DEADLINE, read).await
    }

    /// Returns when the job has ended. A pivot of a job that has not caught up is `Invalid` or
    /// another refusal.
    pub async fn end_block_job(&self, name: &str, disk: &str, how: JobEnd) -> Result<()> {
        let error = || HypervisorError::NotMerged {
            guest: name.to_owned(),
            disk: disk.to_owned(),
            why: "has not caught up with the guest's writes".to_owned(),
            source: None,
        };
        match self.end_job(name, disk, how).await? {
            Pivoted::Done => Ok(()),
            Pivoted::NotReady => Err(error()),
        }
    }

    pub(super) async fn end_job(&self, name: &str, disk: &str, how: JobEnd) -> Result<Pivoted> {
        let (name, disk) = (checked(Object::Guest, name)?, plain("The name of a disk", disk)?);
        self.change("ending the job of a disk", move |link| blocks::end_job(link, &name, &disk, how)).await
    }

    /// Merges what the guest writes to into `base`, and lets it go on there; `disk` is a target
    /// device. Takes over a merge that is under way, and has nothing to do if the disk is on `base`
    /// already. When the deadline passes the merge is given up, and the guest stays on its overlay.
    pub async fn commit_and_pivot(
        &self,
        name: &str,
        disk: &str,
        base: &str,
        delete: bool,
        deadline: Duration,
    ) -> Result<()> {
        let merge = Merge { hypervisor: self, name, disk, end: Instant::now() + deadline };
        if self.block_job(name, disk).await?.is_none() {
            if merge.is_on(base).await? {
                return Ok(());
            }
            let commit = BlockCommit { disk: disk.to_owned(), base: base.to_owned(), top: None, delete };
            let started = self.block_commit(name, commit).await;
            started.map_err(|error| merge.failed("was refused", Some(error)))?;
        }
        merge.pivot().await?;
        if merge.is_on(base).await? { Ok(()) } else { Err(merge.failed("ended without success", None)) }
    }

    /// Merges layers below the one that the guest writes to, and waits for it.
    pub async fn commit_and_wait(&self, name: &str, commit: BlockCommit, deadline: Duration) -> Result<()> {
        let (disk, top) = (commit.disk.clone(), commit.top.clone());
        let merge = Merge { hypervisor: self, name, disk: &disk, end: Instant::now() + deadline };
        if self.block_job(name, &disk).await?.is_none() {
            let started = self.block_commit(name, commit).await;
            started.map_err(|error| merge.failed("was refused", Some(error)))?;
        }
        merge.is_over().await?;
        let guest = self.describe(name, Passwords::LeftOut).await?;
        let chained = guest.iter().flat_map(|guest| &guest.description.disks).any(|described| {
            described.target == disk && described.backing.iter().any(|layer| Some(layer) == top.as_ref())
        });
        if chained { Err(merge.failed("ended without success", None)) } else { Ok(()) }
    }
}

/// A merge that is under way.
struct Merge<'a> {
    hypervisor: &'a Hypervisor,
    name: &'a str,
    disk: &'a str,
    end: Instant,
}

impl Merge<'_> {
    fn failed(&self, why: &str, source: Option<HypervisorError>) -> HypervisorError {
        HypervisorError::NotMerged {
            guest: self.name.to_owned(),
            disk: self.disk.to_owned(),
            why: why.to_owned(),
            source: source.map(Box::new),
        }
    }

    /// Whether the guest writes to that file.
    async fn is_on(&self, base: &str) -> Result<bool> {
        let guest = self.hypervisor.describe(self.name, Passwords::LeftOut).await?;
        let guest = guest
            .ok_or_else(|| HypervisorError::NotFound { what: Object::Guest, name: self.name.to_owned() })?;
        let mut disks = guest.description.disks.iter();
        Ok(disks.any(|disk| disk.target == self.disk && disk.source.as_deref() == Some(base)))
    }

    /// Returns when the job was pivoted, or is gone.
    async fn pivot(&self) -> Result<()> {
        loop {
            let last = match self.hypervisor.block_job(self.name, self.disk).await {
                Ok(None) => return Ok(()),
                Ok(Some(job)) if job.is_ready() => {
                    match self.hypervisor.end_job(self.name, self.disk, JobEnd::Pivot).await {
                        Ok(Pivoted::Done) => return Ok(()),
                        Ok(Pivoted::NotReady) => None,
                        Err(error) => Some(error),
                    }
                }
                Ok(Some(_)) => None,
                Err(error) => Some(error),
            };
            self.pause(last).await?;
        }
    }

    /// Returns when the job is gone.
    async fn is_over(&self) -> Result<()> {
        loop {
            let last = match self.hypervisor.block_job(self.name, self.disk).await {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => None,
                Err(error) => Some(error),
            };
            self.pause(last).await?;
        }
    }

    /// Waits for the next look; past the deadline gives the job up. A guest that is gone or does not
    /// run ends the wait, other errors may pass.
    async fn pause(&self, last: Option<HypervisorError>) -> Result<()> {
        match last {
            Some(error @ (HypervisorError::NotFound { .. } | HypervisorError::Invalid { .. })) => {
                Err(self.failed("was interrupted", Some(error)))
            }
            last if Instant::now() >= self.end => {
                let cancelled = self.hypervisor.end_job(self.name, self.disk, JobEnd::Cancel).await;
                Err(self.failed("took too long", last.or(cancelled.err())))
            }
            _ => {
                sleep(JOB_POLL).await;
                Ok(())
            }
        }
    }
}
