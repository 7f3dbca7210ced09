//! Files that are not finished: their names, their space, and that none of them stays.
//!
//! The name of an unfinished file carries this host and this life of the agent. So files that an
//! earlier life left behind are told apart from those of other hosts in a shared pool.

use super::error::DownloadError;
use rustix::mount::UnmountFlags;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

const SUFFIX: &str = ".part";
/// `template/DIGIT/ID` below the temporary location, as the Java agent has it.
const BELOW: &str = "template";
/// QEMU, libvirt and other tools read what is finished.
const MODE: u32 = 0o644;

/// Names of this host and this life of the agent.
#[derive(Debug)]
pub(super) struct Life {
    prefix: String,
    id: String,
    /// Directories that were looked through for files of earlier lives.
    cleaned: Mutex<BTreeSet<PathBuf>>,
}

impl Life {
    pub fn new() -> Life {
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let node: String = node.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let id = format!("{:016x}", fastrand::u64(..));
        Life { prefix: format!(".download-{node}."), id, cleaned: Mutex::default() }
    }

    pub fn part_name(&self) -> String {
        format!("{}{}.{}{SUFFIX}", self.prefix, self.id, Uuid::new_v4())
    }

    fn is_leftover(&self, name: &str) -> bool {
        let middle = name.strip_prefix(&self.prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
        let Some((life, uuid)) = middle.and_then(|middle| middle.split_once('.')) else { return false };
        life.len() == self.id.len() && life != self.id && uuid.parse::<Uuid>().is_ok()
    }

    /// Removes what earlier lives left in a pool, once.
    pub fn clean_pool(&self, pool: &Path) {
        if self.first_time(pool) {
            self.clean(pool);
        }
    }

    /// The same below a temporary location.
    pub fn clean_temporary(&self, location: &Path) {
        let below = location.join(BELOW);
        if !self.first_time(&below) {
            return;
        }
        self.clean(location);
        for digit in directories(&below) {
            for template in directories(&digit) {
                self.clean(&template);
                let _ = fs::remove_dir(&template);
            }
            let _ = fs::remove_dir(&digit);
        }
        let _ = fs::remove_dir(&below);
    }

    fn first_time(&self, directory: &Path) -> bool {
        self.cleaned.lock().is_ok_and(|mut cleaned| cleaned.insert(directory.to_owned()))
    }

    fn clean(&self, directory: &Path) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_some_and(|name| self.is_leftover(name)) {
                // A directory is a mount point.
                let removed = fs::remove_file(entry.path()).or_else(|_| remove_mount_point(&entry.path()));
                tracing::info!(path = %entry.path().display(), removed = removed.is_ok(), "Unfinished download of an earlier run");
            }
        }
    }

    /// The directory for one template, and with it a file for its download.
    pub fn temporary(&self, location: &Path, template: u64) -> Result<Part, DownloadError> {
        let digit: String = template.to_string().chars().take(1).collect();
        let directory = location.join(BELOW).join(digit).join(template.to_string());
        // Another download may just be removing the empty directories.
        let mut tries = 3;
        loop {
            tries -= 1;
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&directory)
                .map_err(DownloadError::file("create", &directory))?;
            match self.part(&directory) {
                Err(DownloadError::File { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && tries > 0 => {}
                other => {
                    return other.map(|mut part| {
                        part.parents = Some(location.join(BELOW));
                        part
                    });
                }
            }
        }
    }

    /// A new unfinished file in a directory.
    pub fn part(&self, directory: &Path) -> Result<Part, DownloadError> {
        let path = directory.join(self.part_name());
        let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = created.map_err(DownloadError::file("create", &path))?;
        Ok(Part { file, path, parents: None })
    }
}

/// An unfinished file; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Part {
    pub file: File,
    pub path: PathBuf,
    /// Its directories up to here go too, once they are empty.
    parents: Option<PathBuf>,
}

impl Part {
    /// Gives the file its final name in its own file system: complete on disk before it has it.
    /// Returns `false`, and changes nothing, if that is another file system.
    pub fn finish(&self, target: &Path) -> Result<bool, DownloadError> {
        self.file
            .set_permissions(fs::Permissions::from_mode(MODE))
            .and_then(|()| self.file.sync_all())
            .map_err(DownloadError::file("write", &self.path))?;
        match fs::rename(&self.path, target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(false),
            Err(source) => return Err(DownloadError::file("create", target)(source)),
        }
        if let Some(directory) = target.parent() {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(DownloadError::file("write", directory))?;
        }
        Ok(true)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After `finish` there is none of this name, and the name is never used twice.
        let _ = fs::remove_file(&self.path);
        if let Some(top) = &self.parents {
            for directory in self.path.ancestors().skip(1).take_while(|path| path.starts_with(top)) {
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// Detaches what is mounted there, however dead its server is, and removes the directory.
pub(super) fn remove_mount_point(path: &Path) -> io::Result<()> {
    // Nothing may be mounted there any more, or not yet.
    let _ = rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    fs::remove_dir(path)
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Bytes that may still be written to the file system of a directory.
pub(super) fn free_space(directory: &Path) -> Result<u64, DownloadError> {
    match rustix::fs::statvfs(directory) {
        Ok(stat) => Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
        Err(error) => Err(DownloadError::file("examine", directory)(error.into())),
    }
}

/// Tells long work whether somebody still waits for it: asked between two blocks.
#[derive(Debug, Clone)]
pub(super) struct Interest {
    /// The other end is dropped with the last one who waits.
    pub waiting: watch::Receiver<()>,
    pub until: tokio::time::Instant,
    pub deadline: std::time::Duration,
}

impl Interest {
    pub fn check(&self) -> Result<(), DownloadError> {
        if self.waiting.has_changed().is_err() {
            return Err(DownloadError::Abandoned);
        }
        if tokio::time::Instant::now() >= self.until {
            return Err(DownloadError::Deadline(self.deadline));
        }
        Ok(())
    }

    /// Resolves when nobody waits any more, or it is too late.
    pub async fn lost(&self) -> DownloadError {
        let mut waiting = self.waiting.clone();
        tokio::select! {
            () = async { while waiting.changed().await.is_ok() {} } => DownloadError::Abandoned,
            () = tokio::time::sleep_until(self.until) => DownloadError::Deadline(self.deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_earlier_lives_of_this_host_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (earlier, now) = (Life::new(), Life::new());
        let foreign =
            Life { prefix: ".download-other.".into(), id: "0".repeat(16), cleaned: Mutex::default() };
        let pool = directory.path();
        for life in [&earlier, &now, &foreign] {
            fs::write(pool.join(life.part_name()), "x").unwrap();
        }
        fs::write(pool.join("template"), "x").unwrap();
        now.clean_pool(pool);
        assert_eq!(fs::read_dir(pool).unwrap().count(), 3);
        earlier.clean_pool(pool);
        let kept = fs::read_dir(pool).unwrap().count();
        assert_eq!(kept, 2, "the life that is over for `earlier` is that of `now`");
    }

    #[test]
    fn a_temporary_file_goes_with_its_directories() {
        let directory = tempfile::tempdir().unwrap();
        let (earlier, now) = (Life::new(), Life::new());
        let part = now.temporary(directory.path(), 210).unwrap();
        assert!(part.path.starts_with(directory.path().join("template/2/210")));
        std::mem::forget(earlier.temporary(directory.path(), 211).unwrap());
        drop(part);
        assert!(directory.path().join("template").exists());
        now.clean_temporary(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
