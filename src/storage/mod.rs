//! What is done with images and files on this host: templates fetched, headers read.
//!
//! Knows neither the wire nor libvirt: commands hand in paths, limits and names already looked up.

pub mod download;
pub mod qcow2;
