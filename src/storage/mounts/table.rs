//! The kernel's table of mounts, which is in memory: reading it never waits for a server.

use super::error::MountError;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of this process, which shares the name space of the host.
const TABLE: &str = "/proc/self/mountinfo";

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub target: PathBuf,
    pub kind: String,
    /// Such as `10.0.0.1:/export`.
    pub source: String,
}

/// Everything that is mounted, in the order of mounting.
pub fn all_mounted() -> Result<Vec<Mounted>, MountError> {
    let table = std::fs::read(TABLE).map_err(|source| MountError::Table { source: Arc::new(source) })?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(line).collect())
}

/// What is mounted at exactly `target`, the topmost if there are several.
pub fn mounted_at(target: &Path) -> Result<Option<Mounted>, MountError> {
    let table = std::fs::read(TABLE).map_err(|source| MountError::Table { source: Arc::new(source) })?;
    Ok(find(&table, target))
}

fn find(table: &[u8], target: &Path) -> Option<Mounted> {
    table.split(|byte| *byte == b'\n').filter_map(line).rfind(|mounted| mounted.target == target)
}

/// `36 35 98:0 /root /target rw,noatime master:1 - ext3 /dev/root rw`
fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let target = fields.nth(4)?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mounted {
        target: PathBuf::from(OsString::from_vec(plain(target))),
        kind: String::from_utf8_lossy(rest.next()?).into_owned(),
        source: String::from_utf8_lossy(&plain(rest.next()?)).into_owned(),
    })
}

/// Blanks, tabs, line ends and backslashes are in octal, such as `\040`.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|code| std::str::from_utf8(code).ok()?.parse::<String>().ok());
        match code.and_then(|code| u8::from_str_radix(&code, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:20 / /proc rw - proc proc rw\n\
        40 22 0:39 / /mnt/a\\040b rw,relatime shared:5 - nfs4 10.0.0.1:/exp\\040ort rw,vers=4.2\n\
        41 22 0:40 / /mnt/x rw - tmpfs first rw\n\
        42 41 0:41 / /mnt/x rw master:1 propagate_from:2 - nfs second:/y rw\nbroken\n";

    #[test]
    fn escapes_are_undone_and_the_topmost_counts() {
        let found = find(TABLE, Path::new("/mnt/a b")).unwrap();
        assert_eq!((found.kind.as_str(), found.source.as_str()), ("nfs4", "10.0.0.1:/exp ort"));
        assert_eq!(find(TABLE, Path::new("/mnt/x")).unwrap().source, "second:/y");
        assert_eq!(find(TABLE, Path::new("/mnt")), None);
        assert_eq!(mounted_at(Path::new("/proc")).unwrap().unwrap().kind, "proc");
    }
}
