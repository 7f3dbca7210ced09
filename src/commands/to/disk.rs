//! `com.cloud.agent.api.to.DiskTO`: a volume or an ISO image as a disk of a guest.

use super::data::Data;
use crate::wire::lenient;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskTo {
    #[serde(default)]
    pub data: Option<Data>,
    /// Device number in the guest: 0 is the root disk, 3 the CD-ROM, 4 the config drive.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub disk_seq: Option<i64>,
    #[serde(default)]
    pub path: Option<String>,
    /// `ROOT`, `DATADISK`, `ISO`, `SWAP`.
    #[serde(default, deserialize_with = "lenient::or_default", rename = "type")]
    pub kind: String,
    /// `_details` up to 4.20, `details` from 4.21 on.
    #[serde(default, deserialize_with = "lenient::or_default", alias = "_details")]
    pub details: BTreeMap<String, Option<String>>,
}

impl DiskTo {
    pub fn is_iso(&self) -> bool {
        self.kind.eq_ignore_ascii_case("ISO")
    }

    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.get(name)?.as_deref()
    }
}
