//! The JSON that `qemu-img` prints, as plain values.

use super::error::QemuImgError;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What `qemu-img info` says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// QEMU's name of the format.
    pub format: String,
    pub virtual_size: u64,
    /// Allocated bytes of the file.
    pub actual_size: u64,
    pub backing: Option<PathBuf>,
    pub backing_format: Option<String>,
    pub encrypted: bool,
    /// Bytes; only some formats have clusters.
    pub cluster_size: Option<u64>,
    /// Content in another file, which CloudStack never makes.
    pub data_file: Option<String>,
    pub snapshots: Vec<ImageSnapshot>,
}

/// A snapshot inside an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageSnapshot {
    pub id: String,
    pub name: String,
    /// Of the memory of the guest; 0 for the disk alone.
    #[serde(default, rename = "vm-state-size")]
    pub vm_state_size: u64,
}

/// Bytes that a new image needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Requirement {
    pub required: u64,
    pub fully_allocated: u64,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    pub corruptions: u64,
    pub leaks: u64,
    /// Errors of the check itself.
    pub check_errors: u64,
    pub corruptions_fixed: u64,
    pub leaks_fixed: u64,
    /// The report as `qemu-img` wrote it.
    pub json: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    format: String,
    virtual_size: u64,
    #[serde(default)]
    actual_size: u64,
    full_backing_filename: Option<PathBuf>,
    backing_filename: Option<PathBuf>,
    backing_filename_format: Option<String>,
    #[serde(default)]
    encrypted: bool,
    cluster_size: Option<u64>,
    #[serde(default)]
    snapshots: Vec<ImageSnapshot>,
    format_specific: Option<Specific>,
}

#[derive(Deserialize)]
struct Specific {
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Data {
    data_file: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Check {
    #[serde(default)]
    corruptions: u64,
    #[serde(default)]
    leaks: u64,
    #[serde(default)]
    check_errors: u64,
    #[serde(default)]
    corruptions_fixed: u64,
    #[serde(default)]
    leaks_fixed: u64,
}

impl From<Info> for ImageInfo {
    fn from(info: Info) -> ImageInfo {
        let encrypted = info.encrypted || info.format == "luks";
        ImageInfo {
            format: info.format,
            virtual_size: info.virtual_size,
            actual_size: info.actual_size,
            backing: info.full_backing_filename.or(info.backing_filename),
            backing_format: info.backing_filename_format,
            encrypted,
            cluster_size: info.cluster_size,
            data_file: info.format_specific.and_then(|specific| specific.data?.data_file),
            snapshots: info.snapshots,
        }
    }
}

fn read<'a, T: Deserialize<'a>>(path: &Path, json: &'a [u8]) -> Result<T, QemuImgError> {
    serde_json::from_slice(json).map_err(|source| QemuImgError::Output { path: path.to_owned(), source })
}

pub(super) fn info(path: &Path, json: &[u8]) -> Result<ImageInfo, QemuImgError> {
    read::<Info>(path, json).map(ImageInfo::from)
}

pub(super) fn chain(path: &Path, json: &[u8]) -> Result<Vec<ImageInfo>, QemuImgError> {
    Ok(read::<Vec<Info>>(path, json)?.into_iter().map(ImageInfo::from).collect())
}

pub(super) fn requirement(path: &Path, json: &[u8]) -> Result<Requirement, QemuImgError> {
    read(path, json)
}

pub(super) fn check(path: &Path, json: &[u8]) -> Result<CheckReport, QemuImgError> {
    let check: Check = read(path, json)?;
    Ok(CheckReport {
        corruptions: check.corruptions,
        leaks: check.leaks,
        check_errors: check.check_errors,
        corruptions_fixed: check.corruptions_fixed,
        leaks_fixed: check.leaks_fixed,
        json: String::from_utf8_lossy(json).into_owned(),
    })
}
