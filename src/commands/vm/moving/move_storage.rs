//! Disks that move together with their guest: `MigrateCommand.MigrateDiskInfo`, and what becomes of a
//! `<disk>` by it.

use super::changes::replace;
use crate::commands::Fault;
use crate::hypervisor::xml::{DiskDescription, DiskDevice};
use crate::storage::names::name_uuid;
use crate::wire::lenient;
use crate::xml::Element;
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

/// Where a disk is copied to, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewPlace {
    /// `file` or `block`.
    kind: &'static str,
    /// `file` or `dev`.
    attribute: &'static str,
    path: String,
    /// Only of storage that the hypervisor manages itself.
    format: Option<&'static str>,
}

impl NewPlace {
    fn new(info: &MigrateDiskInfo, managed: bool) -> Result<NewPlace, Fault> {
        let path = info.source_text.clone();
        let odd = |what: &str, value: &str| {
            let value: String = value.chars().take(200).collect();
            Fault::new(format!("A disk cannot be migrated to {what} {value:?}"))
        };
        if !path.starts_with('/')
            || path.contains(char::is_control)
            || path.split('/').any(|part| part == "..")
        {
            return Err(odd("the path", &path));
        }
        let one_of = |text: &str, words: [&'static str; 2]| {
            words.into_iter().find(|word| word.eq_ignore_ascii_case(text))
        };
        let kind =
            one_of(&info.disk_type, ["file", "block"]).ok_or_else(|| odd("the type", &info.disk_type))?;
        let attribute =
            one_of(&info.source, ["file", "dev"]).ok_or_else(|| odd("the source", &info.source))?;
        let format = one_of(&info.driver_type, ["qcow2", "raw"]).filter(|_| managed);
        Ok(NewPlace { kind, attribute, path, format })
    }

    pub(super) fn is_at(&self, path: &str) -> bool {
        self.path == path
    }

    /// Makes the disk one at this place. Its chain of images is left to libvirt to find out: what the
    /// source has below its images says nothing of the destination.
    pub(super) fn put_into(&self, disk: &mut Element) {
        disk.set("type", self.kind);
        let mut source = Element::new("source").with(self.attribute, &self.path);
        let old = disk.at("source").and_then(|old| old.at("encryption")).cloned();
        source.children.extend(old.map(|encryption| self.encrypted(encryption)));
        replace(disk, source);
        disk.children.retain(|child| child.name != "backingStore");
        if let Some(format) = self.format {
            disk.children.retain(|child| child.name != "auth");
            if let Some(driver) = disk.at_mut("driver") {
                driver.set("type", format);
            }
        }
        if let Some(encryption) = disk.at_mut("encryption") {
            *encryption = self.encrypted(std::mem::take(encryption));
        }
    }

    /// The destination's secret has a name of its own.
    fn encrypted(&self, mut encryption: Element) -> Element {
        if let Some(secret) = encryption.at_mut("secret") {
            secret.set("uuid", name_uuid(last(&self.path)));
        }
        encryption
    }
}

/// A disk of the guest that moves with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MovedDisk {
    /// Target device.
    pub device: String,
    /// Its file on this host.
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
        let (disk, source) =
            found.ok_or_else(|| Fault::new(format!("The guest has no disk {key} that could be migrated")))?;
        let new = NewPlace::new(info, managed)?;
        Ok(MovedDisk { device: disk.target.clone(), old: source.to_owned(), new })
    };
    wanted.iter().map(find).collect()
}

/// The last component of a path.
pub(super) fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
