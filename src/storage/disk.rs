//! File operations that may hang: each on a thread of its own, with a deadline.
//!
//! A system call on a dead NFS server does not return and cannot be cancelled. So the runtime's few
//! threads never make one on storage; the call gets a thread, and after the deadline the caller goes on
//! without it. A place (the directory of a pool) may keep only a few threads busy, so that one dead
//! server costs a bounded number, and the other pools go on working.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};

/// Operations at once on one place.
const THREADS_PER_PLACE: usize = 4;
/// For what takes milliseconds on healthy storage: looking, renaming, deleting.
pub const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum DiskError {
    #[error("{} did not answer within {} s while the agent was {operation}: check the storage server and the network", place.display(), after.as_secs())]
    Deadline { operation: &'static str, place: PathBuf, after: Duration },
    #[error("Failed {operation} {}: no space is left on that storage, free some or extend it", path.display())]
    NoSpace { operation: &'static str, path: PathBuf },
    #[error("Failed {operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("No thread can be started for storage: check the limits on processes and memory")]
    Thread { source: io::Error },
}

impl DiskError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, DiskError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Handle; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Disks {
    places: Arc<Mutex<HashMap<PathBuf, Arc<Semaphore>>>>,
}

impl Disks {
    /// Runs `work` on `path`. `operation` completes the sentence "failed ...", as in "deleting".
    pub async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: &Path,
        deadline: Duration,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DiskError> {
        let place = path.parent().unwrap_or(path).to_owned();
        let slots = self.slots(&place);
        let late = || DiskError::Deadline { operation, place: place.clone(), after: deadline };
        let finished = tokio::time::timeout(deadline, async {
            // The semaphore is never closed.
            let permit = slots.acquire_owned().await.ok();
            let (sender, receiver) = oneshot::channel();
            let path = path.to_owned();
            std::thread::Builder::new()
                .name("storage".into())
                .spawn(move || {
                    // Nobody may be waiting any more.
                    let _ = sender.send(work(&path));
                    drop(permit);
                })
                .map_err(|source| DiskError::Thread { source })?;
            receiver.await.map_err(|_| DiskError::Thread { source: io::Error::other("it panicked") })
        });
        match finished.await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(source))) => Err(failure(operation, path, source)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late()),
        }
    }

    fn slots(&self, place: &Path) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Places come and go with mounts: what nobody uses is forgotten.
        places
            .retain(|_, slots| Arc::strong_count(slots) > 1 || slots.available_permits() < THREADS_PER_PLACE);
        places.entry(place.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(THREADS_PER_PLACE))).clone()
    }

    /// Whether there is something at `path`, a dangling link included.
    pub async fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        let found = self.run("looking at", path, DEADLINE, |path| path.symlink_metadata().map(drop)).await;
        match found {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a file. One that is not there is as good as deleted.
    pub async fn delete(&self, path: &Path) -> Result<(), DiskError> {
        let deleted = self.run("deleting", path, DEADLINE, |path| std::fs::remove_file(path)).await;
        deleted.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
    }

    /// Bytes that are free at `directory` for the agent's user.
    pub async fn free(&self, directory: &Path) -> Result<u64, DiskError> {
        let probe = directory.join(".");
        self.run("measuring the free space of", &probe, DEADLINE, |path| {
            let facts = rustix::fs::statvfs(path)?;
            Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
        })
        .await
    }
}

fn failure(operation: &'static str, path: &Path, source: io::Error) -> DiskError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace { operation, path },
        _ => DiskError::Io { operation, path, source },
    }
}

/// Deletes a file when dropped, unless told that it is complete. The deletion has a thread of its own:
/// dropping must not block.
#[derive(Debug)]
pub struct DeleteUnlessComplete {
    path: Option<PathBuf>,
}

impl DeleteUnlessComplete {
    pub fn new(path: PathBuf) -> DeleteUnlessComplete {
        DeleteUnlessComplete { path: Some(path) }
    }

    pub fn complete(mut self) {
        self.path = None;
    }
}

impl Drop for DeleteUnlessComplete {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let shown = path.display().to_string();
        let delete = move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "An unfinished file cannot be deleted");
            }
            _ => {}
        };
        if let Err(error) = std::thread::Builder::new().name("storage".into()).spawn(delete) {
            tracing::warn!(path = shown, %error, "An unfinished file is left: no thread to delete it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_place_that_hangs_costs_a_few_threads_and_no_other_place() {
        let disks = Disks::default();
        let (open, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        let deadline = Duration::from_millis(50);
        for _ in 0..THREADS_PER_PLACE + 3 {
            let hang = hang.clone();
            // Blocks like a dead server: until the sender is dropped.
            let work = move |_: &Path| {
                let _ = hang.lock().unwrap().recv();
                Ok(())
            };
            let error = disks.run("looking at", Path::new("/dead/x"), deadline, work).await.unwrap_err();
            assert!(matches!(error, DiskError::Deadline { .. }), "{error}");
        }
        assert_eq!(disks.slots(Path::new("/dead")).available_permits(), 0);
        let other = disks.run("looking at", Path::new("/alive/x"), DEADLINE, |_| Ok(7)).await.unwrap();
        assert_eq!(other, 7);
        drop(open);
        // The place works again as soon as it answers.
        disks.run("looking at", Path::new("/dead/x"), DEADLINE, |_| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn errors_name_the_operation_and_the_path() {
        let disks = Disks::default();
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("absent");
        let error = disks.run("reading", &absent, DEADLINE, |path| std::fs::read(path)).await.unwrap_err();
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), format!("Failed reading {}", absent.display()));
        disks.delete(&absent).await.unwrap();
        assert!(!disks.exists(&absent).await.unwrap());
        assert!(disks.exists(directory.path()).await.unwrap());
        assert!(disks.free(directory.path()).await.unwrap() > 0);
        let full = disks.run("writing", &absent, DEADLINE, |_| {
            Err::<(), _>(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()))
        });
        assert!(matches!(full.await.unwrap_err(), DiskError::NoSpace { .. }));
    }
}
