//! Storage of this host: pools, mounts, images. What the storage commands are built from.
//!
//! Plain values in and out; nothing here knows the wire. Pools are directories, local or on NFS; files
//! in them are made with `qemu-img` directly, and libvirt only knows the pools, for their figures and
//! for the guests. Whatever touches storage may hang with it: system calls have threads of their own
//! ([`disk`]), programs have deadlines.

pub mod disk;
pub mod download;
pub mod mounts;
pub mod names;
pub mod pools;
pub mod qcow2;
pub mod qemu_img;
pub mod volumes;

#[cfg(test)]
pub mod testing;

use crate::config::ConfigStore;
use crate::hypervisor::Hypervisor;
use disk::Disks;
use mounts::Mounts;
use pools::Pools;
use qemu_img::QemuImg;
use volumes::Volumes;

/// Everything about storage in one handle.
#[derive(Debug, Clone)]
pub struct Storage {
    pub pools: Pools,
    pub mounts: Mounts,
    pub images: QemuImg,
    pub volumes: Volumes,
    pub disks: Disks,
}

impl Storage {
    /// Must be called within a tokio runtime. `config` says below which directory to mount.
    pub fn spawn(config: ConfigStore, hypervisor: Hypervisor) -> Storage {
        let disks = Disks::default();
        Storage::with(
            config,
            hypervisor,
            Mounts::spawn(mounts::Programs::find(), mounts::Timing::default(), disks.clone()),
            QemuImg::find(disks.clone()),
            disks,
        )
    }

    /// With parts that tests replace.
    pub fn with(
        config: ConfigStore,
        hypervisor: Hypervisor,
        mounts: Mounts,
        images: QemuImg,
        disks: Disks,
    ) -> Storage {
        Storage {
            pools: Pools::new(config, hypervisor, mounts.clone(), disks.clone()),
            volumes: Volumes::new(images.clone(), disks.clone()),
            mounts,
            images,
            disks,
        }
    }
}
