//! What a guest that has left takes along: bridges that nobody else needs, secrets of its disks, files
//! that were copied.

use super::move_storage::{MigrateDiskInfo, MovedDisk, last};
use crate::hypervisor::Guest;
use crate::hypervisor::xml::DiskKind;
use crate::journal::Action;
use crate::network::vnet_id;
use std::collections::BTreeMap;

/// What is to be done once the guest runs on the destination. `keep` says by network id whether a
/// bridge may be removed.
pub(super) fn actions(
    guest: &Guest,
    moved: &[MovedDisk],
    infos: &[MigrateDiskInfo],
    keep: &BTreeMap<String, Option<bool>>,
) -> Vec<Action> {
    let description = &guest.description;
    let bridges = description.interfaces.iter().filter(|nic| nic.kind == "bridge").filter_map(|nic| {
        let bridge = nic.source.clone()?;
        let id = vnet_id(&bridge)?.to_string();
        let delete = keep.get(&id).copied().flatten().unwrap_or(true);
        delete.then_some(Action::Unplug { bridge, delete })
    });
    let secrets = description.disks.iter().filter_map(|disk| disk.secret);
    let secrets = secrets.map(|uuid| Action::UndefineSecret { uuid: uuid.to_string() });
    let files = moved.iter().filter(|disk| is_to_go(guest, disk, infos));
    let files = files.map(|disk| Action::RemoveFile { path: disk.old.clone().into() });
    let mut actions: Vec<Action> = bridges.chain(secrets).chain(files).collect();
    // Two cards may be on one bridge.
    let mut seen = Vec::new();
    actions.retain(|action| {
        let new = !seen.contains(action);
        seen.push(action.clone());
        new
    });
    actions
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
