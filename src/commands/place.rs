//! From the stores and data that commands name to pools and files of this host.

use super::to::{Data, PrimaryStore, StorageFiler, Store, VolumeObject};
use super::{Claims, Ctx, Fault, Key};
use crate::config::Config;
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::pools::{Pool, PoolRef};
use std::path::{Path, PathBuf};

impl PrimaryStore {
    /// The pool that this store is, unchecked.
    pub fn reference(&self) -> PoolRef<'_> {
        PoolRef {
            uuid: &self.uuid,
            kind: Some(&self.pool_type),
            host: Some(&self.host),
            path: Some(&self.path),
            options: self.details.get("nfsmountopts").and_then(Option::as_deref),
        }
    }
}

impl StorageFiler {
    /// The pool that this is, unchecked.
    pub fn reference(&self) -> PoolRef<'_> {
        PoolRef {
            uuid: &self.uuid,
            kind: Some(&self.kind),
            host: Some(&self.host),
            path: Some(&self.path),
            options: None,
        }
    }
}

/// The pool of a store that guests run from; `what` names the data in the message.
pub async fn pool(ctx: &Ctx, store: Option<&Store>, what: &str) -> Result<Pool, Fault> {
    match store {
        Some(Store::Primary(store)) => Ok(ctx.services.storage.pools.get(store.reference()).await?),
        Some(Store::Nfs(_) | Store::Other { .. }) => {
            Err(Fault::new(format!("{what} is not on primary storage: unsupported protocol")))
        }
        None => Err(Fault::new(format!("{what} has no data store"))),
    }
}

/// Pool and file name of a volume on primary storage. The file need not exist.
pub async fn volume(ctx: &Ctx, volume: &VolumeObject) -> Result<(Pool, VolumeName), Fault> {
    let named = volume.path.as_deref().filter(|path| !path.is_empty()).unwrap_or(&volume.uuid);
    let name = VolumeName::last_of(named)?;
    let pool = pool(ctx, volume.data_store.as_ref(), &format!("Volume {name}")).await?;
    Ok((pool, name))
}

/// The file of a volume on primary storage. It need not exist.
pub async fn volume_file(ctx: &Ctx, object: &VolumeObject) -> Result<PathBuf, Fault> {
    let (pool, name) = volume(ctx, object).await?;
    Ok(pool.volume(&name))
}

/// What names data on primary storage for claims: a path that two commands spell differently is the
/// same file.
pub fn key(pool: &str, path: &str) -> Key {
    let name = path.rsplit('/').next().unwrap_or_default();
    Key::Volume { pool: pool.to_ascii_lowercase(), name: name.to_owned() }
}

impl Data {
    /// The file's key, if the data is on primary storage and has a name already.
    pub fn key(&self) -> Option<Key> {
        let pool = self.store()?.primary()?.uuid.as_str();
        let name = match self {
            Data::Volume(volume) => volume.path.as_deref().filter(|p| !p.is_empty()).unwrap_or(&volume.uuid),
            Data::Template(_) | Data::Snapshot(_) | Data::Other { .. } => self.path()?,
        };
        Some(key(pool, name))
    }
}

/// An exclusive claim on the data, if it can be named.
pub fn exclusive(data: &Data) -> Claims {
    data.key().map_or_else(Claims::none, Claims::from)
}

/// A claim that the data stays as it is, if it can be named.
pub fn shared(data: &Data) -> Claims {
    data.key().map_or_else(Claims::none, |key| Claims::none().shared(key))
}

/// Of the path in a store: the URL of its directory and the name in there, empty if the path ends with a
/// slash.
pub fn split(url: &str, path: &str) -> Result<(String, String), Fault> {
    let inside = RelativePath::new(path.trim_start_matches('/'))?;
    let url = url.trim_end_matches('/');
    if path.ends_with('/') {
        return Ok((format!("{url}/{inside}"), String::new()));
    }
    let directory =
        inside.directory().map_or_else(|| url.to_owned(), |directory| format!("{url}/{directory}"));
    Ok((directory, inside.file_name().to_owned()))
}

/// Where config drives are that are not on storage: `host.cache.location`.
pub fn config_drives(config: &Config) -> PathBuf {
    Path::new(config.text("host.cache.location").unwrap_or("/var/cache/cloud")).join("config")
}
