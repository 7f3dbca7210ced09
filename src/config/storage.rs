//! Local storage pools (`local.storage.path` and `local.storage.uuid`).

use super::reader::Reader;
use super::value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const PATHS: &str = "local.storage.path";
const UUIDS: &str = "local.storage.uuid";

/// A directory of this host that serves as primary storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalStorage {
    /// Absolute, without a slash at the end.
    pub path: PathBuf,
    /// `None` as long as the file has no UUIDs. One has to be made up **and stored** then: another UUID is
    /// another pool for the server, and the volumes of the first are stranded.
    pub uuid: Option<Uuid>,
}

/// Pairs paths with UUIDs by position. Empty if a value is invalid, which the reader remembers.
pub(super) fn read(reader: &mut Reader<'_>) -> Vec<LocalStorage> {
    let paths = reader.read(PATHS, |text| {
        let entries = value::list(text);
        let usable = |entry: &&str| !entry.is_empty() && !entry.contains('\0');
        entries.iter().all(usable).then(|| entries.iter().map(|entry| absolute(entry)).collect::<Vec<_>>())
    });
    let uuids =
        reader.read(UUIDS, |text| value::list(text).into_iter().map(value::uuid).collect::<Option<Vec<_>>>());
    let Some(paths) = paths else { return Vec::new() };
    warn_of_repeated(reader, PATHS, &paths);
    let Some(uuids) = uuids else {
        return paths.into_iter().map(|path| LocalStorage { path, uuid: None }).collect();
    };
    warn_of_repeated(reader, UUIDS, &uuids);
    if uuids.len() != paths.len() {
        let expected = format!("as many UUIDs as {PATHS} has directories ({})", paths.len());
        reader.invalid(UUIDS, expected);
        return Vec::new();
    }
    paths.into_iter().zip(uuids).map(|(path, uuid)| LocalStorage { path, uuid: Some(uuid) }).collect()
}

/// Services start in `/`, so that is what the Java agent resolves relative paths against.
fn absolute(text: &str) -> PathBuf {
    let trimmed = text.trim_end_matches('/');
    Path::new("/").join(trimmed)
}

fn warn_of_repeated<T: Ord>(reader: &mut Reader<'_>, key: &'static str, entries: &[T]) {
    if entries.iter().collect::<BTreeSet<_>>().len() != entries.len() {
        reader.warn(key, "names the same pool twice: remove the repetition");
    }
}
