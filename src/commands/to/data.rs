//! What lies in a store: `DataTO` with templates, volumes and snapshots.

use super::passphrase::Passphrase;
use super::store::Store;
use crate::wire::{Element, lenient};
use serde::{Deserialize, Deserializer};

/// `org.apache.cloudstack.storage.to.TemplateObjectTO`: a template or an ISO image.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateObject {
    /// File name on primary storage, path below the export on secondary storage.
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub uuid: String,
    #[serde(default, deserialize_with = "lenient::int")]
    pub id: i64,
    /// `QCOW2`, `RAW`, `ISO` ...
    #[serde(default)]
    pub format: Option<String>,
    #[serde(default, deserialize_with = "lenient::int")]
    pub account_id: i64,
    #[serde(default)]
    pub checksum: Option<String>,
    #[serde(default)]
    pub image_data_store: Option<Store>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// Virtual size in bytes.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub size: Option<i64>,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub direct_download: bool,
}

/// `org.apache.cloudstack.storage.to.VolumeObjectTO`. Rates are bytes and requests per second, the
/// lengths of bursts seconds; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeObject {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub uuid: String,
    /// `ROOT`, `DATADISK`, `ISO` ...
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub volume_type: String,
    #[serde(default)]
    pub data_store: Option<Store>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// Virtual size in bytes.
    #[serde(default, deserialize_with = "lenient::int")]
    pub size: i64,
    /// File name on primary storage.
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default, deserialize_with = "lenient::int")]
    pub volume_id: i64,
    #[serde(default)]
    pub vm_name: Option<String>,
    #[serde(default, deserialize_with = "lenient::int")]
    pub account_id: i64,
    #[serde(default)]
    pub chain_info: Option<String>,
    #[serde(default)]
    pub format: Option<String>,
    /// `THIN`, `SPARSE`, `FAT`.
    #[serde(default)]
    pub provisioning_type: Option<String>,
    #[serde(default, deserialize_with = "lenient::int")]
    pub id: i64,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub device_id: Option<i64>,
    #[serde(flatten)]
    pub throttle: Throttle,
    /// `NONE`, `WRITEBACK`, `WRITETHROUGH`.
    #[serde(default)]
    pub cache_mode: Option<String>,
    #[serde(default)]
    pub migration_options: Option<MigrationOptions>,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub direct_download: bool,
    /// Encrypted if it is not empty.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub passphrase: Passphrase,
    #[serde(default)]
    pub encrypt_format: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub checkpoint_paths: Vec<String>,
}

/// I/O limits of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Throttle {
    #[serde(deserialize_with = "lenient::int")]
    pub bytes_read_rate: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub bytes_read_rate_max: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub bytes_read_rate_max_length: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub bytes_write_rate: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub bytes_write_rate_max: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub bytes_write_rate_max_length: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub iops_read_rate: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub iops_read_rate_max: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub iops_read_rate_max_length: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub iops_write_rate: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub iops_write_rate_max: i64,
    #[serde(deserialize_with = "lenient::int")]
    pub iops_write_rate_max_length: i64,
}

/// `org.apache.cloudstack.storage.to.VolumeObjectTO.migrationOptions`: how the file that a guest is
/// migrated onto has to look.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationOptions {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub src_pool_uuid: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub src_pool_type: String,
    /// `LinkedClone` or `FullClone`.
    #[serde(default, deserialize_with = "lenient::or_default", rename = "type")]
    pub kind: String,
    /// `HOST`, `CLUSTER` or `ZONE`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub scope_type: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub src_backing_file_path: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub copy_src_template: bool,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub src_volume_uuid: String,
}

/// `org.apache.cloudstack.storage.to.SnapshotObjectTO`: a snapshot of one volume.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotObject {
    /// Absolute on primary storage, below the export on secondary storage.
    #[serde(default)]
    pub path: Option<String>,
    /// Without wrapper.
    #[serde(default)]
    pub volume: Option<VolumeObject>,
    #[serde(default)]
    pub parent_snapshot_path: Option<String>,
    #[serde(default)]
    pub data_store: Option<Store>,
    #[serde(default)]
    pub vm_name: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "lenient::int")]
    pub id: i64,
    #[serde(default, deserialize_with = "lenient::int")]
    pub account_id: i64,
    /// Oldest first.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub parents: Vec<String>,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub physical_size: Option<i64>,
    /// Secondary storage that the snapshot goes to at once (4.21).
    #[serde(default)]
    pub image_store: Option<Store>,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub kvm_incremental_snapshot: bool,
    #[serde(default)]
    pub checkpoint_path: Option<String>,
}

/// A `DataTO` in its wrapper.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    Template(Box<TemplateObject>),
    Volume(Box<VolumeObject>),
    Snapshot(Box<SnapshotObject>),
    /// A class that no handler works with.
    Other {
        class: String,
    },
}

impl Data {
    pub fn store(&self) -> Option<&Store> {
        match self {
            Data::Template(template) => template.image_data_store.as_ref(),
            Data::Volume(volume) => volume.data_store.as_ref(),
            Data::Snapshot(snapshot) => snapshot.data_store.as_ref(),
            Data::Other { .. } => None,
        }
    }

    pub fn path(&self) -> Option<&str> {
        match self {
            Data::Template(template) => template.path.as_deref(),
            Data::Volume(volume) => volume.path.as_deref(),
            Data::Snapshot(snapshot) => snapshot.path.as_deref(),
            Data::Other { .. } => None,
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Data, D::Error> {
        let element = Element::deserialize(deserializer)?;
        let read = match element.simple_name() {
            "TemplateObjectTO" => element.read().map(|template| Data::Template(Box::new(template))),
            "VolumeObjectTO" => element.read().map(|volume| Data::Volume(Box::new(volume))),
            "SnapshotObjectTO" => element.read().map(|snapshot| Data::Snapshot(Box::new(snapshot))),
            _ => Ok(Data::Other { class: element.class.clone() }),
        };
        read.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_in_its_wrapper_has_store_limits_and_passphrase() {
        let json = r#"{"org.apache.cloudstack.storage.to.VolumeObjectTO":{"uuid":"u","volumeType":"DATADISK",
            "dataStore":{"org.apache.cloudstack.storage.to.PrimaryDataStoreTO":{"uuid":"p","poolType":"Filesystem",
            "path":"/p","isManaged":false}},"size":5,"path":"f","iopsReadRate":"7","bytesReadRate":null,
            "passphrase":[49,-61],"provisioningType":"THIN"}}"#;
        let Data::Volume(volume) = serde_json::from_str(json).unwrap() else { panic!("not a volume") };
        assert_eq!((volume.size, volume.path.as_deref()), (5, Some("f")));
        assert_eq!((volume.throttle.iops_read_rate, volume.throttle.bytes_read_rate), (7, 0));
        assert_eq!(volume.passphrase.bytes(), [49, 195]);
        let Some(Store::Primary(store)) = &volume.data_store else { panic!("{:?}", volume.data_store) };
        assert_eq!(
            (store.uuid.as_str(), store.pool_type.as_str(), store.path.as_str()),
            ("p", "Filesystem", "/p")
        );
        assert!(!format!("{volume:?}").contains("195"), "the passphrase shows in Debug");
    }

    #[test]
    fn unknown_classes_do_no_harm() {
        let data: Data = serde_json::from_str(r#"{"x.S":{"dataStore":{"x.T":{"uuid":"u"}}}}"#).unwrap();
        assert_eq!(data, Data::Other { class: "x.S".into() });
        let store: Store = serde_json::from_str(r#"{"com.cloud.agent.api.to.S3TO":{"uuid":"u"}}"#).unwrap();
        assert_eq!(store.uuid(), "u");
    }
}
