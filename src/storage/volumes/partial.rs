//! Files in work: under a hidden name beside their target, until they are complete.
//!
//! A crash leaves no half volume under a real name. The name of an unfinished file tells the host and
//! the life of the agent that writes it, because a pool may be shared: other hosts' files are in work,
//! those of this host's earlier lives are rubbish.

use crate::storage::disk::{DEADLINE, DeleteUnlessComplete, DiskError, Disks};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const MARK: &str = ".partial-";
/// libvirt gives images to QEMU's user when a guest starts; templates are read by all.
const MODE: u32 = 0o644;

/// Different for each start of the agent.
static LIFE: LazyLock<u32> = LazyLock::new(|| fastrand::u32(..));
static COUNT: AtomicU64 = AtomicU64::new(0);

/// The same for all lives of the agent on this host.
static HOST: LazyLock<u32> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    fs::read("/etc/machine-id").unwrap_or_default().hash(&mut hasher);
    // Cloned machines may share the first.
    fs::read("/proc/sys/kernel/hostname").unwrap_or_default().hash(&mut hasher);
    (hasher.finish() & u64::from(u32::MAX)) as u32
});

/// A new file that is not in place yet. Dropped without `commit`, it is deleted.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    target: PathBuf,
    mode: u32,
    unfinished: DeleteUnlessComplete,
}

impl Partial {
    /// For `target`, whose directory is made if it is missing.
    pub async fn beside(target: &Path, disks: &Disks) -> Result<Partial, DiskError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = target.with_file_name(format!(".{name}{MARK}{:08x}-{:08x}-{count}", *HOST, *LIFE));
        let make = disks.run("making the directory of", target, DEADLINE, |path| {
            path.parent().map_or(Ok(()), fs::create_dir_all)
        });
        make.await?;
        let unfinished = DeleteUnlessComplete::new(path.clone());
        Ok(Partial { path, target: target.to_owned(), mode: MODE, unfinished })
    }

    /// With other permissions than images have.
    #[must_use]
    pub fn with_mode(self, mode: u32) -> Partial {
        Partial { mode, ..self }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes everything to the disk and puts the file in place of whatever is there.
    pub async fn commit(self, disks: &Disks, deadline: Duration) -> Result<(), DiskError> {
        self.put_in_place(disks, deadline, |file| file.sync_all()).await
    }

    /// The same for what is made anew after the end of the machine: the system writes it when it likes.
    pub async fn commit_lazily(self, disks: &Disks, deadline: Duration) -> Result<(), DiskError> {
        self.put_in_place(disks, deadline, |_| Ok(())).await
    }

    async fn put_in_place(
        self,
        disks: &Disks,
        deadline: Duration,
        sync: impl Fn(&File) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), DiskError> {
        let (from, mode) = (self.path.clone(), self.mode);
        disks
            .run("putting in place", &self.target, deadline, move |target| {
                let file = File::open(&from)?;
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                sync(&file)?;
                fs::rename(&from, target)?;
                target.parent().map_or(Ok(()), |directory| sync(&File::open(directory)?))
            })
            .await?;
        self.unfinished.complete();
        Ok(())
    }
}

/// Whether a file is one that an earlier life on this host did not finish.
pub(super) fn is_leftover(name: &str) -> bool {
    let tag = name.strip_prefix('.').and_then(|name| name.rsplit_once(MARK)).map(|(_, tag)| tag);
    let mut parts = tag.unwrap_or_default().split('-');
    let mut number =
        || parts.next().filter(|part| part.len() == 8).and_then(|part| u32::from_str_radix(part, 16).ok());
    match (number(), number()) {
        (Some(host), Some(life)) => host == *HOST && life != *LIFE,
        _ => false,
    }
}

/// Names for tests.
#[cfg(test)]
pub mod testing {
    use super::{HOST, LIFE, MARK};

    /// What an earlier life of this agent has left of `name`.
    pub fn leftover(name: &str) -> String {
        format!(".{name}{MARK}{:08x}-{:08x}-0", *HOST, LIFE.wrapping_add(1))
    }

    /// What this one is working on.
    pub fn unfinished(name: &str) -> String {
        format!(".{name}{MARK}{:08x}-{:08x}-7", *HOST, *LIFE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unfinished_file_vanishes_and_a_finished_one_is_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let disks = Disks::default();
        let target = directory.path().join("snapshots/v");
        let partial = Partial::beside(&target, &disks).await.unwrap();
        let path = partial.path().to_owned();
        fs::write(&path, "half").unwrap();
        drop(partial);
        let gone = async {
            while path.exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
        let partial = Partial::beside(&target, &disks).await.unwrap();
        fs::write(partial.path(), "whole").unwrap();
        partial.commit(&disks, DEADLINE).await.unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "whole");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, MODE);
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn only_earlier_lives_of_this_host_left_rubbish() {
        let own = testing::unfinished("v");
        let other_host = format!(".v{MARK}{:08x}-{:08x}-7", HOST.wrapping_add(1), LIFE.wrapping_add(1));
        for name in [
            own.as_str(),
            &other_host,
            "v",
            ".v.partial-",
            ".v.partial-x-y",
            "v.partial-00000000-00000000-0",
            "",
        ] {
            assert!(!is_leftover(name), "{name}");
        }
        assert!(is_leftover(&testing::leftover("v")));
    }
}
