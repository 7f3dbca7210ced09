//! `mount` and `umount`, with deadlines.

use super::error::MountError;
use super::table::mounted_at;
use super::{Patience, Wanted};
use crate::host::exec::{ExecError, Output, Program, find_program};
use crate::storage::disk::Disks;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An error after 30 + 60 + 90 + 120 s of silence.
const SOFT: &str = "soft,timeo=300,retrans=3";
/// Nothing on a storage server is to be run or opened as a device here; libvirt mounts like that too.
const SAFE: &str = "nodev,nosuid,noexec";
const LONGEST_REASON: usize = 300;

/// The programs by absolute path; `None` if not installed.
#[derive(Debug, Clone)]
pub struct Programs {
    pub mount: Option<PathBuf>,
    pub umount: Option<PathBuf>,
}

impl Programs {
    pub fn find() -> Programs {
        Programs { mount: find_program("mount"), umount: find_program("umount") }
    }
}

#[derive(Debug, Clone)]
pub struct Timing {
    /// For a server to answer. Below the time that commands have.
    pub mount: Duration,
    pub unmount: Duration,
    /// For a mounted server to show life.
    pub probe: Duration,
    /// Between attempts to unmount what is busy: who has just closed a file may not be gone yet.
    pub pause: Duration,
    pub attempts: u32,
}

impl Default for Timing {
    fn default() -> Timing {
        let seconds = Duration::from_secs;
        Timing {
            mount: seconds(60),
            unmount: seconds(20),
            probe: seconds(20),
            pause: seconds(1),
            attempts: 5,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Helper {
    pub programs: Programs,
    pub timing: Timing,
    pub disks: Disks,
}

impl Helper {
    pub async fn mount(&self, wanted: &Wanted) -> Result<(), MountError> {
        let (target, export) = (&wanted.target, wanted.export.source());
        if let Some(found) = mounted_at(target)? {
            if found.source != export {
                return Err(MountError::Occupied { target: target.clone(), by: found.source });
            }
            return self.probe(target, export).await;
        }
        let program = self.programs.mount.as_ref().ok_or(MountError::Missing { program: "mount" })?;
        let made = self
            .disks
            .run("making the directory", target, self.timing.probe, |path| std::fs::create_dir_all(path));
        let directory = |source| MountError::Directory { target: target.clone(), source: Arc::new(source) };
        made.await.map_err(directory)?;
        let mut options = SAFE.to_owned();
        if wanted.patience == Patience::Soft {
            options.push(',');
            options.push_str(SOFT);
        }
        // The pool's own options come last and win.
        for option in wanted.export.options() {
            options.push(',');
            options.push_str(option);
        }
        let program = Program::new(program).args(["-t", "nfs", "-o", &options]).arg(&export).arg(target);
        let output = match program.deadline(self.timing.mount).run().await {
            Ok(output) => output,
            Err(ExecError::Deadline { after, .. }) => {
                let server = wanted.export.host().to_owned();
                return Err(MountError::Silent { server, export, after });
            }
            Err(source) => return Err(MountError::Run { source: Arc::new(source) }),
        };
        let reason = if output.success() {
            match mounted_at(target)? {
                Some(_) => {
                    tracing::info!(export, directory = %target.display(), "Mounted");
                    return Ok(());
                }
                None => "the program succeeded, but nothing is mounted".to_owned(),
            }
        } else {
            last_words(&output)
        };
        Err(MountError::Refused { export, target: target.clone(), reason })
    }

    /// Whether the server of what is mounted already answers.
    async fn probe(&self, target: &Path, export: String) -> Result<(), MountError> {
        let look = self.disks.run("looking at", target, self.timing.probe, |path| {
            rustix::fs::statvfs(path)?;
            Ok(())
        });
        let dead = |source| MountError::Dead { export, target: target.to_owned(), source: Arc::new(source) };
        look.await.map_err(dead)
    }

    pub async fn unmount(&self, target: &Path) -> Result<(), MountError> {
        for attempt in 1..=self.timing.attempts {
            if mounted_at(target)?.is_none() {
                self.remove_directory(target).await;
                return Ok(());
            }
            match self.umount(target, &[]).await {
                Ok(output) if output.success() => {}
                Ok(output) => {
                    let reason = last_words(&output);
                    let busy = reason.contains("busy");
                    if !busy {
                        return Err(MountError::Unmount { target: target.to_owned(), reason });
                    }
                    if attempt == self.timing.attempts {
                        return Err(MountError::Busy { target: target.to_owned() });
                    }
                    tokio::time::sleep(self.timing.pause).await;
                }
                // The server does not answer any more: nothing can be lost that is not lost already.
                Err(MountError::Run { source }) if matches!(*source, ExecError::Deadline { .. }) => {
                    tracing::warn!(directory = %target.display(), "The server is silent: detaching its export");
                    let output = self.umount(target, &["-l"]).await?;
                    if !output.success() {
                        let reason = last_words(&output);
                        return Err(MountError::Unmount { target: target.to_owned(), reason });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        match mounted_at(target)? {
            None => {
                self.remove_directory(target).await;
                Ok(())
            }
            Some(_) => Err(MountError::Busy { target: target.to_owned() }),
        }
    }

    async fn umount(&self, target: &Path, arguments: &[&str]) -> Result<Output, MountError> {
        let program = self.programs.umount.as_ref().ok_or(MountError::Missing { program: "umount" })?;
        let program = Program::new(program).args(arguments).arg(target).deadline(self.timing.unmount);
        program.run().await.map_err(|source| MountError::Run { source: Arc::new(source) })
    }

    /// Of a mount that is gone; a directory with something in it stays.
    async fn remove_directory(&self, target: &Path) {
        tracing::info!(directory = %target.display(), "Unmounted");
        let _ = self
            .disks
            .run("removing the directory", target, self.timing.probe, |path| std::fs::remove_dir(path))
            .await;
    }
}

fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => line.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect(),
        None => format!("the program ended with code {}", output.code.unwrap_or(-1)),
    }
}
