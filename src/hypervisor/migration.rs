//! Moving a running guest to another host.

use std::time::Duration;

use tokio::sync::oneshot;

use super::error::{HypervisorError, Object, Result};
use super::libvirt::migration;
use super::{Hypervisor, QUERY_DEADLINE, checked, plain};

/// How long the destination's libvirt may take to accept the connection.
pub const DESTINATION_DEADLINE: Duration = Duration::from_secs(30);

/// What a migration copies besides memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DiskCopy {
    /// Disks are on storage that both hosts have.
    #[default]
    Shared,
    /// Whole disks.
    Full,
    /// What disks have on top of base images that the destination has already.
    Incremental,
}

#[derive(Clone, Default)]
pub struct Migration {
    /// Such as `qemu+tls://10.1.1.21/system`.
    pub destination: String,
    /// The guest as it is to run there; as it runs here without.
    pub xml: Option<String>,
    /// Where its memory is sent, such as `tcp:10.1.1.21`.
    pub uri: Option<String>,
    /// Where its disks are sent, if not to ports of that host which libvirt chooses.
    pub disks_uri: Option<String>,
    /// MiB/s; 0 for unlimited.
    pub bandwidth: u64,
    /// Target devices of the disks to copy.
    pub disks: Vec<String>,
    pub copy: DiskCopy,
    pub compressed: bool,
    /// Slows the guest down if it writes faster than memory can be sent.
    pub auto_converge: bool,
    /// Defines the guest persistently there.
    pub persist: bool,
}

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The XML may have passwords.
        f.debug_struct("Migration").field("destination", &self.destination).finish_non_exhaustive()
    }
}

/// Progress of what libvirt does to a guest as a whole; sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobProgress {
    pub running: bool,
    pub elapsed_ms: u64,
    pub total: u64,
    pub processed: u64,
    pub remaining: u64,
}

impl Hypervisor {
    /// Moves a guest, and returns when it runs there. Watch it meanwhile with
    /// [`Hypervisor::job_progress`]; end it early with [`Hypervisor::abort_job`], which makes this
    /// `Aborted`. Past the deadline, or when nobody waits any more, the migration goes on.
    pub async fn migrate(&self, name: &str, migration: Migration, deadline: Duration) -> Result<()> {
        self.migrate_connecting(name, migration, DESTINATION_DEADLINE, deadline).await
    }

    pub(super) async fn migrate_connecting(
        &self,
        name: &str,
        migration: Migration,
        connect_deadline: Duration,
        deadline: Duration,
    ) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        let destination = plain("The address of the destination", &migration.destination)?;
        let (opened, mut has_opened) = oneshot::channel();
        let run = move |link: &_| migration::migrate(link, &name, &migration, opened);
        let call = self.call_on(&self.inner.calls.migrations, "migrating a guest", deadline, run);
        let mut call = std::pin::pin!(call);
        let opening = tokio::time::timeout(connect_deadline, &mut has_opened);
        tokio::select! {
            biased;
            result = &mut call => return result,
            opened = opening => if opened.is_err() {
                has_opened.close();
                // The connection may have come together with the deadline. If not, it never leads to
                // a migration, since the other end finds the channel closed.
                if has_opened.try_recv().is_err() {
                    return Err(HypervisorError::DestinationSilent {
                        uri: destination,
                        after: connect_deadline,
                    });
                }
            },
        }
        call.await
    }

    /// `None` if there is no such guest.
    pub async fn job_progress(&self, name: &str) -> Result<Option<JobProgress>> {
        let name = checked(Object::Guest, name)?;
        self.call("reading the progress of a job", QUERY_DEADLINE, move |link| {
            migration::progress(link, &name)
        })
        .await
    }

    /// Ends the migration, or whatever else libvirt does to the guest as a whole.
    pub async fn abort_job(&self, name: &str) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        self.change("aborting a job", move |link| migration::abort(link, &name)).await
    }

    /// How long the guest may stand still at the end of its migration.
    pub async fn set_max_downtime(&self, name: &str, downtime: Duration) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        let set = move |link: &_| migration::set_max_downtime(link, &name, downtime);
        self.change("setting the downtime of a migration", set).await
    }
}
