//! Which guest had a volume last: libvirt keeps the command line of each QEMU in a log per guest.

use super::names;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Of the end of each log: a command line has some ten thousand.
const TAIL: u64 = 64 * 1024;
/// The newest ones.
const MOST_LOGS: usize = 500;

/// Ids of volumes and guests, and the guest in whose log they are. The newest log wins.
pub fn last_users(directory: &Path) -> BTreeMap<String, String> {
    let mut logs: Vec<(SystemTime, PathBuf, String)> = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let guest = name.strip_suffix(".log").filter(|guest| names::is_guest(guest));
        if let (Some(guest), Ok(facts)) = (guest, entry.metadata()) {
            logs.push((facts.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path(), guest.to_owned()));
        }
    }
    logs.sort();
    let old = logs.len().saturating_sub(MOST_LOGS);
    let mut users = BTreeMap::new();
    for (_, path, guest) in logs.into_iter().skip(old) {
        let text = tail(&path).unwrap_or_default();
        users.extend(ids(&text).map(|id| (id.to_owned(), guest.clone())));
    }
    users
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn ids(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(|word| names::is_uuid(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_log_that_names_a_volume_tells_its_guest() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, base) = ("0b3d1f5e-8a35-4c11-9d6b-3f0d8a1f2c11", "5d1e8b8a-95a5-4f4d-8e5c-0c1d2e3f4a5b");
        let line =
            |name: &str| format!("-blockdev '{{\"driver\":\"file\",\"filename\":\"/pool/{name}\"}}' \\\n");
        let write = |guest: &str, text: String, seconds: u64| {
            let path = directory.path().join(format!("{guest}.log"));
            fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        write("r-9-VM", line(disk), 100);
        write("r-4-VM", line(disk) + &line(base), 200);
        write("web", line(base), 300);
        let users = last_users(directory.path());
        assert_eq!(users.get(disk).map(String::as_str), Some("r-4-VM"));
        assert_eq!(users.get(base).map(String::as_str), Some("r-4-VM"));
        assert_eq!(users.len(), 2);
    }
}
