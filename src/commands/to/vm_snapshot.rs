//! `com.cloud.agent.api.VMSnapshotTO`: a snapshot of a whole guest.

use crate::wire::lenient;
use serde::Deserialize;

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmSnapshotTo {
    #[serde(default, deserialize_with = "lenient::int")]
    pub id: i64,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub snapshot_name: String,
    /// `Disk` or `DiskAndMemory`.
    #[serde(default, deserialize_with = "lenient::or_default", rename = "type")]
    pub kind: String,
    /// Milliseconds since 1970.
    #[serde(default, deserialize_with = "lenient::int")]
    pub create_time: i64,
    /// The one that the guest goes on from.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub current: bool,
    #[serde(default)]
    pub parent: Option<Box<VmSnapshotTo>>,
    /// Whether the guest agent brings the file systems into a sound state before.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub quiescevm: bool,
}

impl VmSnapshotTo {
    /// Without the memory of the guest.
    pub fn is_disk_only(&self) -> bool {
        self.kind.eq_ignore_ascii_case("Disk")
    }
}
