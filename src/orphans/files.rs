//! What is in directories, read on a thread for storage. Every search is bounded.

use super::facts::{BridgeFact, FileFact, Place};
use super::names;
use crate::storage::volumes::backing_file;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deeper than `snapshots/ACCOUNT/VOLUME/NAME`, and than where config drives and downloads are.
const DEEPEST: usize = 4;
/// Files of one directory tree.
const MOST_FILES: usize = 100_000;
const DEEPEST_CHAIN: usize = 64;

/// The files of a place; links are not followed. A directory that does not exist has none.
pub fn look(place: Place, root: &Path, directory: &Path) -> io::Result<Vec<FileFact>> {
    let start = match directory.canonicalize() {
        Ok(start) => start,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let (mut found, mut waiting) = (Vec::new(), vec![(start, 0)]);
    while let Some((directory, depth)) = waiting.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            // It may have been deleted meanwhile.
            let Ok(facts) = path.symlink_metadata() else { continue };
            // In a pool's own directory only its volumes are: below it, other places are.
            if facts.is_dir() && place != Place::Pool && place != Place::Nvram && depth < DEEPEST {
                waiting.push((path, depth + 1));
            } else if facts.is_file() {
                if found.len() >= MOST_FILES {
                    return Err(io::Error::other("it has more files than any pool"));
                }
                let backing = if place == Place::Nvram { None } else { below(&path)? };
                let root = root.clone();
                let bytes = facts.blocks().saturating_mul(512);
                let changed = u64::try_from(facts.mtime()).unwrap_or_default();
                found.push(FileFact { place, root, path, bytes, changed, backing });
            }
        }
    }
    Ok(found)
}

/// What an image is based on, if that is a file. An image that cannot be read is an error: what it is
/// based on would look unused.
fn below(path: &Path) -> io::Result<Option<PathBuf>> {
    let named = match backing_file(path) {
        Ok(named) => named,
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(error),
    };
    Ok(named.and_then(|named| {
        let named = match named.to_str()?.strip_prefix("json:") {
            Some(json) => PathBuf::from(file_in(&serde_json::from_str(json).ok()?)?),
            None => path.parent()?.join(&named),
        };
        Some(named.canonicalize().unwrap_or(named))
    }))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The file name somewhere in a description such as `{"driver":"qcow2","file":{"filename":"/x"}}`.
fn file_in(value: &serde_json::Value) -> Option<String> {
    let members = value.as_object()?;
    let named = ["filename", "file.filename"].iter().find_map(|key| members.get(*key)?.as_str());
    named.map(str::to_owned).or_else(|| members.values().find_map(file_in))
}

/// A path with links followed, and everything that the image there is based on. Nothing for what does
/// not exist or is no file.
pub fn chain(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut next = match path.canonicalize() {
        Ok(path) => Some(path),
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(error),
    };
    let mut chain = Vec::new();
    while let Some(path) = next.take() {
        if chain.len() >= DEEPEST_CHAIN || chain.contains(&path) {
            break;
        }
        if path.is_file() {
            next = below(&path)?;
        }
        chain.push(path);
    }
    Ok(chain)
}

/// Files below `roots` that some process has open.
pub fn open_files(roots: &[PathBuf]) -> BTreeSet<PathBuf> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    });
    let descriptors =
        processes.flat_map(|process| fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten());
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .filter(|target| roots.iter().any(|root| target.starts_with(root)))
        .collect()
}

/// The text of all records in a directory; of one that is too large, its beginning.
pub fn records(directory: &Path) -> String {
    use std::io::Read;
    let mut text = String::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let mut bytes = Vec::new();
        if let Ok(file) = fs::File::open(entry.path()) {
            // What cannot be read names nothing.
            let _ = file.take(1 << 20).read_to_end(&mut bytes);
        }
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    text
}

/// Bridges of network ids with their ports. One without ports whose name has no interface of this host
/// is the operator's.
pub fn bridges(net: &Path) -> Vec<BridgeFact> {
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let bridges = names(net).into_iter().filter_map(|name| {
        let uplink = names::uplink(&name).filter(|_| net.join(&name).join("bridge").is_dir())?;
        let ports = names(&net.join(&name).join("brif"));
        let ours = match uplink.rsplit_once('.') {
            Some((pif, _)) => net.join(pif).exists(),
            None => true,
        };
        (ours || !ports.is_empty()).then_some(BridgeFact { name, ports })
    });
    bridges.collect()
}
