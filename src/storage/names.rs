//! What comes from the network and becomes a file: volume names and paths inside a pool.
//!
//! The types are the proof of the check: nothing else in this module is joined to a pool's directory.
//! Names follow `^[A-Za-z0-9._-]+$`, which every name that CloudStack makes up does. Names that begin
//! with a dot are refused: they are hidden, and unfinished files of this agent have such names.

use md5::{Digest, Md5};
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use uuid::{Builder, Uuid};

/// Leaves room for what an unfinished file adds to its name.
const LONGEST_NAME: usize = 200;
const LONGEST_COMPONENT: usize = 255;
const LONGEST_PATH: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    #[error(
        "{0:?} cannot name a volume: letters, digits, dots, dashes and underscores only, not a dot at first"
    )]
    Volume(String),
    #[error(
        "{0:?} is not a path inside a storage pool: it has to be relative, without \"..\" and control characters"
    )]
    Path(String),
    #[error("{path:?} is not inside {root:?}")]
    Outside { path: String, root: PathBuf },
}

/// The name of a file in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeName(String);

impl VolumeName {
    pub fn new(name: &str) -> Result<VolumeName, NameError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let sound = !name.is_empty()
            && name.len() <= LONGEST_NAME
            && !name.starts_with('.')
            && name.chars().all(legal);
        if sound { Ok(VolumeName(name.to_owned())) } else { Err(NameError::Volume(shortened(name))) }
    }

    /// The last component of a path: servers send `uuid`, `/mnt/pool/uuid` and `dir/uuid` for the same.
    pub fn last_of(path: &str) -> Result<VolumeName, NameError> {
        VolumeName::new(path.rsplit('/').next().unwrap_or_default())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path inside a pool or a mounted export, such as `template/tmpl/1/3/x.qcow2`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelativePath(String);

impl RelativePath {
    /// Superfluous slashes between and after components are dropped; one in front is an error.
    pub fn new(path: &str) -> Result<RelativePath, NameError> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let sound = |part: &&str| {
            !matches!(*part, "." | "..")
                && part.len() <= LONGEST_COMPONENT
                && !part.contains(char::is_control)
        };
        let whole = !parts.is_empty() && !path.starts_with('/') && path.len() <= LONGEST_PATH;
        if whole && parts.iter().all(sound) {
            Ok(RelativePath(parts.join("/")))
        } else {
            Err(NameError::Path(shortened(path)))
        }
    }

    /// From a path that may be absolute if it leads below `root`, as the paths of snapshots on primary
    /// storage do.
    pub fn below(root: &Path, path: &str) -> Result<RelativePath, NameError> {
        if !path.starts_with('/') {
            return RelativePath::new(path);
        }
        let outside = || NameError::Outside { path: shortened(path), root: root.to_owned() };
        let rest = Path::new(path).strip_prefix(root).map_err(|_| outside())?;
        RelativePath::new(rest.to_str().ok_or_else(outside)?)
    }

    /// The absolute path under `root`.
    pub fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }

    /// The directory part, if there is one.
    pub fn directory(&self) -> Option<RelativePath> {
        self.0.rsplit_once('/').map(|(directory, _)| RelativePath(directory.to_owned()))
    }

    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<VolumeName> for RelativePath {
    fn from(name: VolumeName) -> RelativePath {
        RelativePath(name.0)
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Java's `UUID.nameUUIDFromBytes`: MD5 of the text alone, without a name space. Mount points and
/// libvirt's secrets are named so on every host.
pub fn name_uuid(text: &str) -> Uuid {
    Builder::from_md5_bytes(Md5::digest(text.as_bytes()).into()).into_uuid()
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_of_names_are_those_of_java() {
        // UUID.nameUUIDFromBytes(new byte[0]): the MD5 digest with version and variant in it.
        let uuid = name_uuid("");
        assert_eq!(uuid.to_string(), "d41d8cd9-8f00-3204-a980-0998ecf8427e");
        assert_eq!(uuid.get_version_num(), 3);
        assert_ne!(name_uuid("10.0.0.1/export"), name_uuid("10.0.0.1/export/"));
    }

    #[test]
    fn names_that_cloudstack_makes_up_pass() {
        for name in ["9f5d7a5e-2b1c-4f57-b9b6-4f1f2b0f3e11", "x.qcow2", "ROOT_1-2.3", "a..b"] {
            assert_eq!(VolumeName::new(name).unwrap().as_str(), name);
        }
        assert_eq!(VolumeName::last_of("/mnt/p/v1").unwrap().as_str(), "v1");
        assert_eq!(VolumeName::last_of("v1").unwrap().as_str(), "v1");
    }

    #[test]
    fn names_that_lead_elsewhere_do_not() {
        let long = "x".repeat(201);
        for name in
            ["", ".", "..", "a/b", "/a", "a b", "a\n", "a\0", "$(id)", "a,b", ".v.partial", "é", &long]
        {
            assert!(VolumeName::new(name).is_err(), "{name:?}");
        }
        assert!(VolumeName::last_of("a/..").is_err());
        assert!(VolumeName::last_of("a/").is_err());
    }

    #[test]
    fn paths_stay_inside_their_pool() {
        let path = RelativePath::new("template//tmpl/1/2/x y.qcow2/").unwrap();
        assert_eq!(path.as_str(), "template/tmpl/1/2/x y.qcow2");
        assert_eq!(path.under(Path::new("/mnt/p")), Path::new("/mnt/p/template/tmpl/1/2/x y.qcow2"));
        assert_eq!(path.directory().unwrap().as_str(), "template/tmpl/1/2");
        assert_eq!(path.file_name(), "x y.qcow2");
        assert_eq!(RelativePath::new("x").unwrap().directory(), None);
        let long = "x/".repeat(600);
        for path in ["", "/", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a/\u{7}", "a\0b", &long] {
            assert!(RelativePath::new(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn absolute_paths_count_below_the_root_only() {
        let root = Path::new("/mnt/p");
        assert_eq!(RelativePath::below(root, "/mnt/p/snapshots/s").unwrap().as_str(), "snapshots/s");
        assert_eq!(RelativePath::below(root, "snapshots/s").unwrap().as_str(), "snapshots/s");
        for path in ["/mnt/p", "/mnt/p/../q", "/mnt/pq/x", "/etc/passwd", "../x"] {
            assert!(RelativePath::below(root, path).is_err(), "{path}");
        }
    }
}
