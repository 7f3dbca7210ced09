//! The root directory of the host that is set up: `/`, or a scratch directory in tests. All paths of
//! plans and records are the host's; only here do they become paths of this process.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::exec::{ExecError, Output, Program, is_executable};

/// Largest configuration file that is read.
const MAX_FILE: u64 = 4 << 20;
/// Where programs are, as in `host::exec`.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Why a file of the host cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("Cannot read {}: check its owner and mode", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no text file of at most 4 MiB: restore it", .0.display())]
    NotText(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Root {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// Where a path of the host is.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file; `None` if there is none.
    pub fn text(&self, path: impl AsRef<Path>) -> Result<Option<String>, ReadError> {
        let path = self.at(path);
        match read(&path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) if (text.len() as u64) < MAX_FILE => Ok(Some(text)),
                _ => Err(ReadError::NotText(path)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ReadError::Read { path, source }),
        }
    }

    /// The bytes of a file; `None` if there is none.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>, ReadError> {
        let path = self.at(path);
        match read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ReadError::Read { path, source }),
        }
    }

    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    /// The full path of a program of the host.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        PROGRAMS.iter().map(|directory| self.at(directory).join(name)).find(|path| is_executable(path))
    }

    /// Runs a program of the host; `None` if it is not installed.
    pub async fn run(
        &self,
        name: &str,
        arguments: &[&str],
        deadline: Duration,
    ) -> Option<Result<Output, ExecError>> {
        let program = self.program(name)?;
        Some(Program::new(program).args(arguments).deadline(deadline).run().await)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let root = Root::new("/scratch");
        assert_eq!(root.at("/etc/x"), PathBuf::from("/scratch/etc/x"));
        assert_eq!(Root::default().at("/etc/x"), PathBuf::from("/etc/x"));
    }

    #[test]
    fn missing_files_are_none_and_binary_ones_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let root = Root::new(scratch.path());
        assert!(root.text("/x").unwrap().is_none());
        std::fs::write(scratch.path().join("x"), [0xff, 0xfe]).unwrap();
        assert!(matches!(root.text("/x"), Err(ReadError::NotText(_))));
        assert_eq!(root.bytes("/x").unwrap().unwrap(), [0xff, 0xfe]);
        assert!(root.exists("/x") && !root.exists("/y"));
    }
}
