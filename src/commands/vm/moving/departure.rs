//! What a guest that has left takes along: bridges that nobody else needs, secrets of its disks, files
//! that were copied.

use super::move_storage::{MigrateDiskInfo, MovedDisk, last};
use crate::commands::vm::leftovers::{self, BridgesToGo};
use crate::hypervisor::Guest;
use crate::hypervisor::xml::DiskKind;
use crate::journal::Action;
use std::collections::BTreeSet;

/// What is to be done once the guest runs on the destination.
pub(super) fn actions(
    guest: &Guest,
    moved: &[MovedDisk],
    infos: &[MigrateDiskInfo],
    to_go: &BridgesToGo,
) -> Vec<Action> {
    let files: BTreeSet<&str> =
        moved.iter().filter(|disk| is_to_go(guest, disk, infos)).map(|disk| disk.old.as_str()).collect();
    let files = files.into_iter().map(|path| Action::RemoveFile { path: path.into() });
    leftovers::of(guest, to_go).into_iter().chain(files).collect()
}

/// Only a plain file that the server names, and that was copied to another place.
fn is_to_go(guest: &Guest, moved: &MovedDisk, infos: &[MigrateDiskInfo]) -> bool {
    let named = infos.iter().any(|info| {
        info.is_source_disk_on_storage_file_system && last(&info.serial_number) == last(&moved.old)
    });
    let is_file =
        guest.description.disks.iter().any(|disk| disk.target == moved.device && disk.kind == DiskKind::File);
    named && is_file && moved.old.starts_with('/') && moved.new.path != moved.old
}
