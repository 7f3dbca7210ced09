//! What the tests of storage have in common: the real programs if they are there, small file systems.

use super::disk::Disks;
use super::mounts::{Mounts, Programs, Timing};
use super::qemu_img::QemuImg;
use crate::commands::testing::script;
use crate::host::exec::{Program, find_program};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Not captured by the test runner, so that it is seen.
pub fn skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: a test of storage: {reason}");
}

/// The real program.
pub fn qemu_img() -> Option<QemuImg> {
    if find_program("qemu-img").is_none() {
        skipped("qemu-img is not installed");
        return None;
    }
    Some(QemuImg::find(Disks::default()))
}

/// Files are deleted by threads of their own.
pub async fn until_gone(path: &Path) {
    let gone = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the file is still there");
}

pub async fn run(words: &[&str]) -> Result<(), String> {
    let program = find_program(words[0]).ok_or("not installed")?;
    let output = Program::new(program).args(&words[1..]).run().await.map_err(|error| error.to_string())?;
    if output.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// A file system of a few MiB, unmounted in the end.
#[derive(Debug)]
pub struct Small {
    pub directory: tempfile::TempDir,
}

impl Small {
    pub async fn of(size: &str) -> Option<Small> {
        let directory = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let target = directory.path().to_str().unwrap();
        if let Err(error) = run(&["mount", "-t", "tmpfs", "-o", &option, "small", target]).await {
            skipped(&format!("no small file system, which takes root: {error}"));
            return None;
        }
        Some(Small { directory })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.directory.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// An NFS client without NFS: `mount` puts a tmpfs with the export's name where the export would be,
/// as real mounts in the kernel's table. Each run leaves a line in the file `log`.
#[derive(Debug)]
pub struct Nfs {
    pub directory: tempfile::TempDir,
    pub mounts: Mounts,
}

impl Nfs {
    pub async fn new() -> Option<Nfs> {
        Nfs::with("exec /bin/mount -t tmpfs -o size=8m \"$5\" \"$6\"", "exec /bin/umount \"$@\"").await
    }

    /// With other programs; the arguments of `mount` are `-t nfs -o OPTIONS SOURCE TARGET`.
    pub async fn with(mount: &str, umount: &str) -> Option<Nfs> {
        let small = Small::of("64k").await?;
        drop(small);
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let logged = |name: &str, body: &str| format!("echo {name} \"$@\" >> '{}'\n{body}", log.display());
        let programs = Programs {
            mount: Some(script(directory.path(), "mount", &logged("mount", mount)).await),
            umount: Some(script(directory.path(), "umount", &logged("umount", umount)).await),
        };
        let timing = Timing {
            mount: Duration::from_secs(2),
            unmount: Duration::from_secs(2),
            pause: Duration::from_millis(10),
            attempts: 4,
            ..Timing::default()
        };
        let mounts = Mounts::spawn(programs, timing, Disks::default());
        Some(Nfs { directory, mounts })
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    pub fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}
