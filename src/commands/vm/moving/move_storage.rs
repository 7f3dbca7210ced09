//! Disks that move together with their guest: `MigrateCommand.MigrateDiskInfo`.

use crate::commands::Fault;
use crate::guest::disks::DiskFormat;
use crate::guest::moved::NewPlace;
use crate::hypervisor::xml::{DiskDescription, DiskDevice};
use crate::storage::names::name_uuid;
use crate::wire::lenient;
use std::collections::BTreeMap;

/// Where a disk is to be on the destination; the file or device exists there.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrateDiskInfo {
    /// Path of the volume on the source, as the server has it.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub serial_number: String,
    /// `FILE` or `BLOCK`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub disk_type: String,
    /// `QCOW2` or `RAW`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub driver_type: String,
    /// `FILE` or `DEV`: the attribute that names the place.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub source: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub source_text: String,
    /// Whether the file on the source is to be deleted afterwards.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub is_source_disk_on_storage_file_system: bool,
}

impl MigrateDiskInfo {
    fn place(&self, managed: bool) -> Result<NewPlace, Fault> {
        let path = self.source_text.clone();
        let odd = |what: &str, value: &str| {
            let value: String = value.chars().take(200).collect();
            Fault::new(format!("A disk cannot be migrated to {what} {value:?}"))
        };
        let sound = path.starts_with('/')
            && !path.contains(char::is_control)
            && !path.split('/').any(|part| part == "..");
        if !sound {
            return Err(odd("the path", &path));
        }
        // Whether `text` is the second of two words.
        let second = |what: &str, text: &str, words: [&str; 2]| {
            let at = words.iter().position(|word| word.eq_ignore_ascii_case(text));
            at.map(|at| at == 1).ok_or_else(|| odd(what, text))
        };
        let format = match second("the format", &self.driver_type, ["QCOW2", "RAW"]) {
            _ if !managed => None,
            Ok(raw) => Some(if raw { DiskFormat::Raw } else { DiskFormat::Qcow2 }),
            Err(fault) => return Err(fault),
        };
        Ok(NewPlace {
            block: second("the type", &self.disk_type, ["FILE", "BLOCK"])?,
            device: second("the source", &self.source, ["FILE", "DEV"])?,
            // As the destination was told to name it.
            secret: name_uuid(last(&path)).to_string(),
            path,
            format,
        })
    }
}

/// A disk of the guest that moves with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MovedDisk {
    /// Target device.
    pub device: String,
    /// Its place on this host.
    pub old: String,
    pub new: NewPlace,
}

/// Finds the disks that the server names by their paths. All must be there: a disk that is forgotten
/// would be lost.
pub(super) fn moved(
    disks: &[DiskDescription],
    wanted: &BTreeMap<String, MigrateDiskInfo>,
    managed: bool,
) -> Result<Vec<MovedDisk>, Fault> {
    let find = |(key, info): (&String, &MigrateDiskInfo)| {
        let named = |source: &str| source == key || last(source) == last(key);
        let found = disks.iter().filter(|disk| disk.device == DiskDevice::Disk).find_map(|disk| {
            disk.source.as_deref().filter(|source| named(source)).map(|source| (disk, source))
        });
        let missing = || Fault::new(format!("The guest has no disk {key} that could be migrated"));
        let (disk, source) = found.ok_or_else(missing)?;
        Ok(MovedDisk { device: disk.target.clone(), old: source.to_owned(), new: info.place(managed)? })
    };
    wanted.iter().map(find).collect()
}

/// The last component of a path.
pub(super) fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
