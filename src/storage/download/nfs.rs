//! Templates on NFS servers: the share is mounted read-only beside the unfinished files, for as long as
//! one download takes.

use super::checksum::{Checksum, Sum};
use super::error::DownloadError;
use super::transfer::Target;
use super::workplace::{Interest, remove_mount_point};
use crate::host::exec::{Program, find_program};
use rustix::fs::{Mode, OFlags};
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

const MOUNT_DEADLINE: Duration = Duration::from_secs(60);
/// Soft, so that a dead server is an error and not a process that nobody can end.
const OPTIONS: &str = "ro,soft,timeo=100,retrans=3,nosuid,nodev,noexec";
const BUFFER: usize = 256 * 1024;

/// Mount points in use; whoever holds it releases them, whatever the end was.
#[derive(Debug, Default)]
pub(super) struct Mounts(Mutex<Vec<PathBuf>>);

impl Mounts {
    fn add(&self, point: PathBuf) {
        if let Ok(mut points) = self.0.lock() {
            points.push(point);
        }
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for point in self.0.get_mut().map(std::mem::take).unwrap_or_default() {
            if let Err(error) = remove_mount_point(&point) {
                tracing::warn!(path = %point.display(), %error, "Mount point of a download stays behind");
            }
        }
    }
}

/// `nfs://HOST/DIRECTORY/FILE`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// `HOST:/DIRECTORY`
    source: String,
    file: String,
}

impl Share {
    pub fn parse(url: &str) -> Option<Share> {
        let (host, path) = url.strip_prefix("nfs://")?.split_once('/')?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        let host_is_good = !host.is_empty() && !host.starts_with('-') && host.chars().all(legal);
        let path_is_good = path.split('/').all(|part| part != "..") && !path.chars().any(char::is_control);
        let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
        // A port is not part of what mount takes.
        let host = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) && !name.contains(':') => name,
            _ => host,
        };
        let good = host_is_good && path_is_good && !file.is_empty() && file != ".";
        good.then(|| Share { source: format!("{host}:/{directory}"), file: file.to_owned() })
    }

    /// Mounts it and opens the file. Each of the two blocks for the time that [`OPTIONS`] allow.
    pub async fn open(&self, point: PathBuf, mounts: &Mounts) -> Result<File, DownloadError> {
        DirBuilder::new().mode(0o700).create(&point).map_err(DownloadError::file("create", &point))?;
        mounts.add(point.clone());
        let refused = |reason: String| DownloadError::MountRefused { share: self.source.clone(), reason };
        let program = find_program("mount").ok_or_else(|| refused("mount is not installed".into()))?;
        let arguments = ["-t", "nfs", "-o", OPTIONS, "--", &self.source];
        let mount = Program::new(program).args(arguments).arg(&point).deadline(MOUNT_DEADLINE);
        let output = mount.run().await.map_err(DownloadError::Mount)?;
        if !output.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect();
            return Err(refused(said));
        }
        open_regular(&point, &self.file)
    }
}

/// A regular file right there: no link that leads elsewhere, no device, no pipe.
fn open_regular(directory: &Path, name: &str) -> Result<File, DownloadError> {
    let path = directory.join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::empty()).map(File::from).map_err(std::io::Error::from);
    let file = file.map_err(DownloadError::file("open", &path))?;
    let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let not_regular = || std::io::Error::other("it is not a regular file");
    regular.then_some(file).ok_or_else(|| DownloadError::file("open", &path)(not_regular()))
}

/// Whether the copy has the checksum that is wanted.
pub(super) fn copy(
    mut file: File,
    checksum: Option<&Checksum>,
    mut target: Target<'_>,
    interest: &Interest,
) -> Result<bool, DownloadError> {
    let failed = |error| DownloadError::File {
        action: "read",
        path: "the file on the NFS server".into(),
        source: error,
    };
    target.require(file.metadata().map_err(failed)?.len())?;
    let mut sum = checksum.map(Checksum::start);
    let mut buffer = vec![0; BUFFER];
    let mut copied = 0;
    loop {
        interest.check()?;
        let count = file.read(&mut buffer).map_err(failed)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(sum.is_none_or(Sum::fits));
        }
        target.write(bytes, copied)?;
        if let Some(sum) = &mut sum {
            sum.add(bytes);
        }
        copied += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_shares() {
        let share = |url: &str| Share::parse(url).map(|share| (share.source, share.file));
        let pair = |source: &str, file: &str| Some((source.to_owned(), file.to_owned()));
        assert_eq!(share("nfs://10.0.0.1/export/sub/t.qcow2"), pair("10.0.0.1:/export/sub", "t.qcow2"));
        assert_eq!(share("nfs://h:2049/t"), pair("h:/", "t"));
        assert_eq!(share("nfs://[fd00::1]/e/t"), pair("[fd00::1]:/e", "t"));
        for bad in [
            "nfs://h/a/../../etc/shadow",
            "nfs://-o/x",
            "nfs://h/",
            "nfs://h",
            "nfs:///x",
            "nfs://h,x/y",
            "http://h/x",
            "nfs://h/a\nb",
        ] {
            assert_eq!(share(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("t"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
        std::fs::create_dir(directory.path().join("directory")).unwrap();
        assert!(open_regular(directory.path(), "t").is_ok());
        for name in ["link", "directory", "absent"] {
            assert!(open_regular(directory.path(), name).is_err(), "{name}");
        }
    }
}
