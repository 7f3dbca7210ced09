//! Where data lies: `DataStoreTO` and its classes, and the older `StorageFilerTO`.

use crate::wire::{Element, lenient};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// `org.apache.cloudstack.storage.to.PrimaryDataStoreTO`: a pool that guests run from.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryStore {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub uuid: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "lenient::int")]
    pub id: i64,
    /// `Filesystem`, `SharedMountPoint`, `NetworkFilesystem`, `RBD` ... Unknown values stay text.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub pool_type: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub host: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub path: String,
    #[serde(default, deserialize_with = "lenient::int")]
    pub port: i64,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub details: BTreeMap<String, Option<String>>,
    #[serde(default, deserialize_with = "lenient::flag", rename = "isManaged")]
    pub managed: bool,
}

/// `com.cloud.agent.api.to.NfsTO`: secondary storage on NFS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct NfsStore {
    /// `nfs://host/export`.
    #[serde(default, deserialize_with = "lenient::or_default", rename = "_url")]
    pub url: String,
    /// `Image` or `ImageCache`.
    #[serde(default, deserialize_with = "lenient::or_default", rename = "_role")]
    pub role: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub uuid: String,
    #[serde(default, rename = "nfsVersion")]
    pub version: Option<String>,
}

/// A `DataStoreTO` in its wrapper.
#[derive(Debug, Clone, PartialEq)]
pub enum Store {
    Primary(PrimaryStore),
    Nfs(NfsStore),
    /// A class that no handler works with (S3, Swift ...).
    Other {
        class: String,
        uuid: String,
    },
}

impl Store {
    pub fn uuid(&self) -> &str {
        match self {
            Store::Primary(store) => &store.uuid,
            Store::Nfs(store) => &store.uuid,
            Store::Other { uuid, .. } => uuid,
        }
    }

    /// Whether guests run from it; all other stores hold images.
    pub fn primary(&self) -> Option<&PrimaryStore> {
        match self {
            Store::Primary(store) => Some(store),
            Store::Nfs(_) | Store::Other { .. } => None,
        }
    }

    pub fn nfs(&self) -> Option<&NfsStore> {
        match self {
            Store::Nfs(store) => Some(store),
            Store::Primary(_) | Store::Other { .. } => None,
        }
    }
}

impl<'de> Deserialize<'de> for Store {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Store, D::Error> {
        #[derive(Deserialize)]
        struct Id {
            #[serde(default, deserialize_with = "lenient::or_default")]
            uuid: String,
        }
        let element = Element::deserialize(deserializer)?;
        let read = match element.simple_name() {
            "PrimaryDataStoreTO" => element.read().map(Store::Primary),
            "NfsTO" => element.read().map(Store::Nfs),
            _ => element.read().map(|Id { uuid }| Store::Other { class: element.class.clone(), uuid }),
        };
        read.map_err(serde::de::Error::custom)
    }
}

/// `com.cloud.agent.api.to.StorageFilerTO`: a pool, in commands older than [`PrimaryStore`]. Its
/// `userInfo` (the key of RBD pools) is not read: what is not read cannot leak.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageFiler {
    #[serde(default, deserialize_with = "lenient::int")]
    pub id: i64,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub uuid: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub host: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub path: String,
    #[serde(default, deserialize_with = "lenient::int")]
    pub port: i64,
    /// A `StoragePoolType`.
    #[serde(default, deserialize_with = "lenient::or_default", rename = "type")]
    pub kind: String,
}
