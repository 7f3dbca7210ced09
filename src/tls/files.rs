//! Small files read with a bound and replaced atomically.
//!
//! Never leaves a half-written file under the final name: a crash shows the old or the new content.

use crate::files::{Permissions, write_atomically};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Reads at most `max` bytes; `None` when there is no such file. A longer file is an error, not a
/// truncated text.
pub(super) fn read_bounded(path: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {max} bytes")));
    }
    Ok(Some(bytes))
}

/// Replaces `path` by `bytes` with permission bits `mode`. An existing file's owner and group are
/// kept, because the management server's scripts hand `cloud.key` to QEMU's group for VNC over TLS.
pub(super) fn write_private(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_atomically(path, bytes, Permissions::Exactly(mode)).map_err(io::Error::other)
}

/// Removes a file that may already be gone.
pub(super) fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_refused_and_missing_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(read_bounded(&path, 4).unwrap().is_none());
        fs::write(&path, "1234").unwrap();
        assert_eq!(read_bounded(&path, 4).unwrap().unwrap(), b"1234");
        assert_eq!(read_bounded(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
