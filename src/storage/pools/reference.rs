//! How commands name pools and secondary storage, checked.

use super::error::PoolError;
use crate::storage::mounts::Export;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Of what an error quotes.
const LONGEST_QUOTE: usize = 200;

/// The types of pools whose volumes are files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    Filesystem,
    SharedMountPoint,
    NetworkFilesystem,
}

impl PoolKind {
    /// By CloudStack's name.
    pub fn named(name: &str) -> Result<PoolKind, PoolError> {
        match name {
            "Filesystem" => Ok(PoolKind::Filesystem),
            "SharedMountPoint" => Ok(PoolKind::SharedMountPoint),
            "NetworkFilesystem" => Ok(PoolKind::NetworkFilesystem),
            other => Err(PoolError::Unsupported { kind: quoted(other) }),
        }
    }

    /// CloudStack's name.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolKind::Filesystem => "Filesystem",
            PoolKind::SharedMountPoint => "SharedMountPoint",
            PoolKind::NetworkFilesystem => "NetworkFilesystem",
        }
    }
}

/// A pool as a command names it, unchecked. A blank text counts as none.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolRef<'a> {
    pub uuid: &'a str,
    /// CloudStack's name of the type.
    pub kind: Option<&'a str>,
    pub host: Option<&'a str>,
    /// Directory of a local pool, or directory exported by `host`.
    pub path: Option<&'a str>,
    /// The pool detail `nfsmountopts`.
    pub options: Option<&'a str>,
}

impl PoolRef<'_> {
    pub(super) fn checked_uuid(&self) -> Result<Uuid, PoolError> {
        Uuid::try_parse(self.uuid).map_err(|_| PoolError::Uuid { text: quoted(self.uuid) })
    }

    pub(super) fn checked_kind(&self) -> Result<Option<PoolKind>, PoolError> {
        given(self.kind).map(PoolKind::named).transpose()
    }

    /// What the pool is made of, if the command says so.
    pub(super) fn define(&self) -> Result<Definition, PoolError> {
        let uuid = self.checked_uuid()?;
        let unknown = || PoolError::Unknown { uuid };
        let kind = self.checked_kind()?.ok_or_else(unknown)?;
        let path = given(self.path).ok_or_else(unknown)?;
        if kind == PoolKind::NetworkFilesystem {
            let host = given(self.host).ok_or_else(unknown)?;
            let options = Export::split_options(self.options.unwrap_or_default());
            let export = Export::new(host, path, &options)?;
            return Ok(Definition::Nfs { uuid, export });
        }
        let sound = path.starts_with('/')
            && !path.split('/').any(|part| part == "..")
            && !path.contains(char::is_control);
        if !sound {
            return Err(PoolError::Path { uuid, path: quoted(path) });
        }
        let path = match path.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        };
        Ok(Definition::Directory { uuid, kind, path: path.into() })
    }
}

/// What a pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Definition {
    Directory { uuid: Uuid, kind: PoolKind, path: PathBuf },
    Nfs { uuid: Uuid, export: Export },
}

impl Definition {
    pub(super) fn local(uuid: Uuid, path: &Path) -> Definition {
        Definition::Directory { uuid, kind: PoolKind::Filesystem, path: path.to_owned() }
    }

    pub fn uuid(&self) -> Uuid {
        match self {
            Definition::Directory { uuid, .. } | Definition::Nfs { uuid, .. } => *uuid,
        }
    }

    pub fn kind(&self) -> PoolKind {
        match self {
            Definition::Directory { kind, .. } => *kind,
            Definition::Nfs { .. } => PoolKind::NetworkFilesystem,
        }
    }
}

/// Host and directory of a URL. Slashes that were put together wrongly count as one.
pub(super) fn secondary(url: &str) -> Result<(String, String), PoolError> {
    let error = || PoolError::Url { url: quoted(url) };
    let (scheme, rest) = url.split_once("://").ok_or_else(error)?;
    if !matches!(scheme.to_ascii_lowercase().as_str(), "nfs" | "networkfilesystem") {
        return Err(error());
    }
    let (authority, directory) = rest.split_at(rest.find('/').ok_or_else(error)?);
    // The port is of no use to `mount`, which asks the server.
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or_else(error)?.0,
        None => authority.split(':').next().unwrap_or_default(),
    };
    let mut directory = directory.to_owned();
    while directory.contains("//") {
        directory = directory.replace("//", "/");
    }
    Ok((host.to_owned(), directory))
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.trim().is_empty())
}

fn quoted(text: &str) -> String {
    text.chars().take(LONGEST_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6f1c8c5e-30d1-4b57-9a52-3a0d4c0f9e01";

    fn reference<'a>(kind: &'a str, host: &'a str, path: &'a str) -> PoolRef<'a> {
        PoolRef { uuid: UUID, kind: Some(kind), host: Some(host), path: Some(path), options: None }
    }

    #[test]
    fn pools_of_files_are_defined() {
        let local = reference("Filesystem", "localhost", "/var/lib/libvirt/images/").define().unwrap();
        assert_eq!(local, Definition::local(local.uuid(), Path::new("/var/lib/libvirt/images")));
        let mut nfs = reference("NetworkFilesystem", "10.0.0.1", "/export");
        nfs.options = Some("vers=4.1, nconnect=4");
        match nfs.define().unwrap() {
            Definition::Nfs { export, .. } => assert_eq!(export.options(), ["nconnect=4", "vers=4.1"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pools_of_other_things_are_refused_by_name() {
        for kind in ["RBD", "CLVM", "PowerFlex", "Linstor", "StorPool", "Iscsi", "FiberChannel", "Gluster"] {
            let error = reference(kind, "h", "/x").define().unwrap_err();
            assert!(matches!(&error, PoolError::Unsupported { kind: named } if named == kind), "{error}");
        }
    }

    #[test]
    fn a_definition_needs_all_its_parts_and_a_sound_path() {
        let no_path = PoolRef { path: Some(" "), ..reference("Filesystem", "h", "/x") };
        assert!(no_path.define().unwrap_err().to_string().contains("not found"));
        for path in ["x", "/a/../b", "/a\n"] {
            let error = reference("SharedMountPoint", "h", path).define().unwrap_err();
            assert!(matches!(error, PoolError::Path { .. }), "{path}");
        }
        let odd = PoolRef { uuid: "../x", ..reference("Filesystem", "h", "/x") };
        assert!(matches!(odd.define().unwrap_err(), PoolError::Uuid { .. }));
    }

    #[test]
    fn urls_are_split_like_the_server_means_them() {
        let split = |url: &str| secondary(url).map(|(host, path)| format!("{host}|{path}")).ok();
        assert_eq!(split("nfs://10.0.0.1/export//template/1"), Some("10.0.0.1|/export/template/1".into()));
        assert_eq!(split("NFS://h:2049/e"), Some("h|/e".into()));
        assert_eq!(split("nfs://[fd00::1]:2049/e"), Some("fd00::1|/e".into()));
        assert_eq!(split("networkfilesystem://h/e"), Some("h|/e".into()));
        for url in ["", "nfs://h", "cifs://h/e", "/mnt/x", "s3://bucket/x"] {
            assert_eq!(split(url), None, "{url}");
        }
    }
}
