//! Commands about storage pools and volumes.

pub mod get_storage_stats;
pub mod get_volume_stats;
