//! NFS exports, mounted once each, for as long as somebody needs them.
//!
//! One task owns the counts. It never waits for a mount itself: `mount` and `umount` run as programs
//! with deadlines, one at a time for each directory, so that a dead server delays nobody else.
//!
//! ```text
//!          acquire             mounted                last release
//!  absent ────────▶ Mounting ─────────▶ Mounted(n) ─────────────────▶ Unmounting ──▶ absent
//!    ▲                 │ failed                                            │ acquired meanwhile
//!    └─────────────────┘                    Mounting ◀─────────────────────┘
//! ```
//!
//! What an earlier life of the agent, the Java agent, or libvirt has mounted at the same place is
//! adopted. A directory that is busy when it is to be unmounted (a guest has an ISO image open) stays
//! mounted until a later release finds it idle; only a server that does not answer is detached lazily.

mod error;
mod export;
mod program;
mod table;

#[cfg(test)]
mod tests;

pub use error::MountError;
pub use export::Export;
pub use program::{Programs, Timing};
pub use table::{Mounted, all_mounted, mounted_at};

use super::disk::Disks;
use program::Helper;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// How operations fare when the server is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Guests' disks: wait forever, since an error would be a broken file system in a guest.
    Hard,
    /// Templates, snapshots, ISO images: an error after five minutes, which whoever reads or writes gets
    /// to know, so that nothing is stuck for good.
    Soft,
}

/// What to mount where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub export: Export,
    pub target: PathBuf,
    pub patience: Patience,
}

type Reply = oneshot::Sender<Result<MountPoint, MountError>>;
type Sender = mpsc::UnboundedSender<Request>;

enum Request {
    Acquire { wanted: Wanted, reply: Reply, sender: Sender },
    Release { target: PathBuf, how: Release },
}

enum Release {
    /// Nobody waits for the outcome.
    Unmount,
    UnmountAndTell(oneshot::Sender<Result<(), MountError>>),
    /// Give up the count, but not the mount.
    Leave,
}

/// Handle to the task.
#[derive(Debug, Clone)]
pub struct Mounts {
    /// Unbounded, because guards give back without waiting; bounded by the commands that run.
    sender: Sender,
}

/// A mounted directory. It is unmounted some time after the last of its guards is dropped.
#[derive(Debug)]
pub struct MountPoint {
    path: PathBuf,
    /// `None` once given back.
    sender: Option<Sender>,
}

impl MountPoint {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory back and waits until it is unmounted, if nobody else has it.
    pub async fn release(mut self) -> Result<(), MountError> {
        let (tell, told) = oneshot::channel();
        self.give_back(Release::UnmountAndTell(tell));
        told.await.unwrap_or(Err(MountError::Stopped))
    }

    /// Gives the directory back and leaves it mounted: something else uses it from now on, such as a
    /// guest with an ISO image from there.
    pub fn leave_mounted(mut self) {
        self.give_back(Release::Leave);
    }

    fn give_back(&mut self, how: Release) {
        if let Some(sender) = self.sender.take() {
            // Without the task there is nothing to count.
            let _ = sender.send(Request::Release { target: self.path.clone(), how });
        }
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        self.give_back(Release::Unmount);
    }
}

impl Mounts {
    /// Must be called within a tokio runtime. The task ends with the last handle and guard.
    pub fn spawn(programs: Programs, timing: Timing, disks: Disks) -> Mounts {
        let (sender, requests) = mpsc::unbounded_channel();
        let owner = Owner {
            helper: Helper { programs, timing, disks },
            places: HashMap::new(),
            jobs: JoinSet::new(),
        };
        tokio::spawn(owner.run(requests));
        Mounts { sender }
    }

    /// Mounts `wanted` unless it is mounted, and holds it.
    pub async fn acquire(&self, wanted: Wanted) -> Result<MountPoint, MountError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Acquire { wanted, reply, sender: self.sender.clone() };
        self.sender.send(request).map_err(|_| MountError::Stopped)?;
        answer.await.unwrap_or(Err(MountError::Stopped))
    }
}

struct Waiter {
    wanted: Wanted,
    reply: Reply,
    sender: Sender,
}

enum Place {
    /// `users` have it from before it vanished behind our back.
    Mounting {
        waiters: Vec<Waiter>,
        users: usize,
    },
    Mounted {
        export: Export,
        users: usize,
    },
    Unmounting {
        tell: Vec<oneshot::Sender<Result<(), MountError>>>,
        waiters: Vec<Waiter>,
    },
}

enum Done {
    Mounted(Result<(), MountError>),
    Unmounted(Result<(), MountError>),
}

struct Owner {
    helper: Helper,
    places: HashMap<PathBuf, Place>,
    jobs: JoinSet<(PathBuf, Done)>,
}

impl Owner {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::Acquire { wanted, reply, sender }) => {
                        self.acquire(Waiter { wanted, reply, sender });
                    }
                    Some(Request::Release { target, how }) => self.release(target, how),
                    None => return,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok((target, Done::Mounted(outcome))) => self.mounted(target, outcome),
                    Ok((target, Done::Unmounted(outcome))) => self.unmounted(target, outcome),
                    Err(error) => tracing::error!(%error, "A mount ended by a bug"),
                },
            }
        }
    }

    fn acquire(&mut self, waiter: Waiter) {
        let target = waiter.wanted.target.clone();
        match self.places.get_mut(&target) {
            Some(Place::Mounting { waiters, .. } | Place::Unmounting { waiters, .. }) => waiters.push(waiter),
            // Somebody may have unmounted it by hand; the table of the kernel is in memory.
            Some(Place::Mounted { export, users })
                if mounted_at(&target).is_ok_and(|found| found.is_some()) =>
            {
                if export.source() == waiter.wanted.export.source() {
                    *users += 1;
                    hand_out(waiter);
                } else {
                    let error = MountError::Occupied { target, by: export.source() };
                    let _ = waiter.reply.send(Err(error));
                }
            }
            Some(Place::Mounted { users, .. }) => {
                let users = *users;
                self.begin(target, vec![waiter], users);
            }
            None => self.begin(target, vec![waiter], 0),
        }
    }

    /// Mounts for `waiters`, of which the first decides what.
    fn begin(&mut self, target: PathBuf, waiters: Vec<Waiter>, users: usize) {
        let Some(first) = waiters.first() else { return };
        let (helper, wanted) = (self.helper.clone(), first.wanted.clone());
        self.places.insert(target.clone(), Place::Mounting { waiters, users });
        self.jobs.spawn(async move { (target, Done::Mounted(helper.mount(&wanted).await)) });
    }

    fn mounted(&mut self, target: PathBuf, outcome: Result<(), MountError>) {
        let Some(Place::Mounting { waiters, users }) = self.places.remove(&target) else { return };
        if let Err(error) = outcome {
            for waiter in waiters {
                let _ = waiter.reply.send(Err(error.clone()));
            }
            return;
        }
        let Some(export) = waiters.first().map(|first| first.wanted.export.clone()) else { return };
        let (same, others): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|waiter| waiter.wanted.export.source() == export.source());
        for waiter in others {
            let by = export.source();
            let _ = waiter.reply.send(Err(MountError::Occupied { target: target.clone(), by }));
        }
        self.places.insert(target, Place::Mounted { export, users: users + same.len() });
        same.into_iter().for_each(hand_out);
    }

    fn release(&mut self, target: PathBuf, how: Release) {
        let last = match self.places.get_mut(&target) {
            Some(Place::Mounted { users, .. }) => {
                *users = users.saturating_sub(1);
                *users == 0
            }
            Some(Place::Mounting { users, .. }) => {
                *users = users.saturating_sub(1);
                false
            }
            Some(Place::Unmounting { .. }) | None => false,
        };
        match how {
            Release::Leave if last => {
                self.places.remove(&target);
            }
            Release::Leave => {}
            Release::Unmount if last => self.end(target, Vec::new()),
            Release::Unmount => {}
            Release::UnmountAndTell(tell) if last => self.end(target, vec![tell]),
            Release::UnmountAndTell(tell) => {
                let _ = tell.send(Ok(()));
            }
        }
    }

    fn end(&mut self, target: PathBuf, tell: Vec<oneshot::Sender<Result<(), MountError>>>) {
        let helper = self.helper.clone();
        self.places.insert(target.clone(), Place::Unmounting { tell, waiters: Vec::new() });
        self.jobs.spawn(async move {
            let outcome = helper.unmount(&target).await;
            (target, Done::Unmounted(outcome))
        });
    }

    fn unmounted(&mut self, target: PathBuf, outcome: Result<(), MountError>) {
        let Some(Place::Unmounting { tell, waiters }) = self.places.remove(&target) else { return };
        if let (Err(error), true) = (&outcome, tell.is_empty()) {
            tracing::warn!("{}", crate::errors::chain(error));
        }
        for teller in tell {
            let _ = teller.send(outcome.clone());
        }
        self.begin(target, waiters, 0);
    }
}

/// A guard that nobody takes any more gives itself back.
fn hand_out(waiter: Waiter) {
    let Waiter { wanted, reply, sender } = waiter;
    let _ = reply.send(Ok(MountPoint { path: wanted.target, sender: Some(sender) }));
}
