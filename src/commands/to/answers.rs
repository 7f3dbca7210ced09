//! What answers tell about data that was made: the few fields that are new, the rest at the zero
//! values that servers are used to.

use crate::wire::Element;
use serde::Serialize;

/// New data of an answer, as the `DataTO` that goes into `newData` or `data`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewVolume {
    pub path: String,
    /// Virtual size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// `QCOW2` or `RAW`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt_format: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewTemplate {
    pub path: String,
    /// Virtual size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSnapshot {
    pub path: String,
    /// Bytes of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_path: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Zeroes<'a, T> {
    #[serde(flatten)]
    new: &'a T,
    account_id: i64,
    id: i64,
    direct_download: bool,
    deploy_as_is: bool,
    follow_redirects: bool,
}

/// A snapshot's class has none of the others' flags.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotZeroes<'a> {
    #[serde(flatten)]
    new: &'a NewSnapshot,
    id: i64,
    quiescevm: bool,
    account_id: i64,
    follow_redirects: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TemplateZeroes<'a> {
    #[serde(flatten)]
    common: Zeroes<'a, NewTemplate>,
    hvm: bool,
    bootable: bool,
}

fn zeroes<T>(new: &T) -> Zeroes<'_, T> {
    Zeroes { new, account_id: 0, id: 0, direct_download: false, deploy_as_is: false, follow_redirects: false }
}

impl NewVolume {
    pub fn to_element(&self) -> Result<Element, serde_json::Error> {
        Element::new("org.apache.cloudstack.storage.to.VolumeObjectTO", &zeroes(self))
    }
}

impl NewTemplate {
    pub fn to_element(&self) -> Result<Element, serde_json::Error> {
        let fields = TemplateZeroes { common: zeroes(self), hvm: false, bootable: false };
        Element::new("org.apache.cloudstack.storage.to.TemplateObjectTO", &fields)
    }
}

impl NewSnapshot {
    pub fn to_element(&self) -> Result<Element, serde_json::Error> {
        let fields =
            SnapshotZeroes { new: self, id: 0, quiescevm: false, account_id: 0, follow_redirects: false };
        Element::new("org.apache.cloudstack.storage.to.SnapshotObjectTO", &fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_volume_looks_as_servers_know_it() {
        let new =
            NewVolume { path: "p".into(), size: Some(5), format: Some("QCOW2".into()), encrypt_format: None };
        let element = new.to_element().unwrap();
        assert_eq!(element.class, "org.apache.cloudstack.storage.to.VolumeObjectTO");
        let fields: serde_json::Value = element.read().unwrap();
        let expected = serde_json::json!({"size": 5, "path": "p", "accountId": 0, "format": "QCOW2", "id": 0,
            "directDownload": false, "deployAsIs": false, "followRedirects": false});
        assert_eq!(fields, expected);
    }
}
