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
use crate::tls::download::DownloadTlsError;

fault_from!(DownloadTlsError);
