//! Commands about storage pools and volumes.

pub mod attach;
pub mod attach_iso;
pub mod check_and_repair_volume;
pub mod check_storage_availability;
pub mod check_url;
pub mod check_volume;
pub mod copy;
mod copy_snapshot;
mod copy_template;
mod copy_volume;
pub mod copy_volume_command;
pub mod create_object;
pub mod create_storage_pool;
mod create_volume;
pub mod delete;
mod delete_snapshot;
pub mod delete_storage_pool;
pub mod destroy;
pub mod dettach;
mod direct_download;
mod files;
pub mod get_storage_stats;
pub mod get_volume_stat;
pub mod get_volume_stats;
pub mod get_volumes_on_storage;
pub mod handle_config_drive_iso;
mod hotplug;
pub mod http_direct_download;
pub mod https_direct_download;
mod image_details;
mod iso;
pub mod list_data_store_objects;
pub mod metalink_direct_download;
pub mod migrate_volume;
pub mod modify_storage_pool;
pub mod nfs_direct_download;
pub mod primary_storage_download;
mod private_template;
pub mod resize_volume;
pub mod revoke_direct_download_certificate;
pub mod setup_direct_download_certificate;
mod stored;
mod take_snapshot;
#[cfg(test)]
mod testing;

use super::fault::{Fault, fault_from};
use crate::storage::disk::DiskError;
use crate::storage::mounts::MountError;
use crate::storage::names::NameError;
use crate::storage::pools::PoolError;
use crate::storage::qemu_img::QemuImgError;
use crate::storage::volumes::VolumeError;
use crate::tls::download::DownloadTlsError;

fault_from!(DiskError, DownloadTlsError, MountError, NameError, PoolError, QemuImgError, VolumeError);
