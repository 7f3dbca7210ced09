//! Child processes that end with their handle.

use crate::Failure;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A running process; dropping it kills and reaps it.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    log: PathBuf,
}

impl Child {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The end of its log, for messages about what went wrong.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts `program`, with its output in `log`.
// host/exec.rs runs programs to their end with bounded output; these run until they are killed.
#[allow(clippy::disallowed_methods)]
pub fn spawn(program: &Path, arguments: &[&OsStr], log: &Path) -> Result<Child, Failure> {
    let output = File::create(log)?;
    let process = std::process::Command::new(program)
        .args(arguments)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .map_err(|error| format!("{} does not start: {error}", program.display()))?;
    Ok(Child { process, log: log.to_owned() })
}
