//! Commands about storage pools and volumes.

pub mod check_url;
mod direct_download;
pub mod get_storage_stats;
pub mod get_volume_stats;
pub mod http_direct_download;
pub mod https_direct_download;
pub mod metalink_direct_download;
pub mod nfs_direct_download;
pub mod revoke_direct_download_certificate;
pub mod setup_direct_download_certificate;

use super::fault::{Fault, fault_from};
use crate::storage::disk::DiskError;
use crate::storage::mounts::MountError;
use crate::storage::names::NameError;
use crate::storage::pools::PoolError;
use crate::storage::qemu_img::QemuImgError;
use crate::storage::volumes::VolumeError;
use crate::tls::download::DownloadTlsError;

fault_from!(DiskError, DownloadTlsError, MountError, NameError, PoolError, QemuImgError, VolumeError);
