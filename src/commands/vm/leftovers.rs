//! What was made on this host for a guest, and goes with it.

use crate::hypervisor::Guest;
use crate::hypervisor::xml::DiskDevice;
use crate::journal::Action;
use crate::network::vnet_id;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// `vlanToPersistenceMap`: by network id, whether the bridge goes with its last guest.
pub(super) type BridgesToGo = BTreeMap<String, Option<bool>>;

/// What the server does not name goes.
pub(super) fn goes(bridges: &BridgesToGo, network: u32) -> bool {
    bridges.get(&network.to_string()).copied().flatten().unwrap_or(true)
}

/// Removes bridges that nobody else is on, and passphrases.
pub(super) fn of(guest: &Guest, to_go: &BridgesToGo) -> Vec<Action> {
    let interfaces = guest.description.interfaces.iter().filter(|nic| nic.kind == "bridge");
    // Two cards may be on one bridge.
    let bridges: BTreeSet<&str> = interfaces.filter_map(|nic| nic.source.as_deref()).collect();
    let bridges = bridges.into_iter().filter(|bridge| vnet_id(bridge).is_some_and(|id| goes(to_go, id)));
    let bridges = bridges.map(|bridge| Action::Unplug { bridge: bridge.to_owned(), delete: true });
    let secrets = guest.description.disks.iter().filter_map(|disk| disk.secret);
    let secrets = secrets.map(|uuid| Action::UndefineSecret { uuid: uuid.to_string() });
    bridges.chain(secrets).collect()
}

/// The images in its CD-ROM drives.
pub(super) fn discs(guest: &Guest) -> impl Iterator<Item = &Path> {
    let drives = guest.description.disks.iter().filter(|disk| disk.device == DiskDevice::Cdrom);
    drives.filter_map(|disk| disk.source.as_deref()).map(Path::new)
}
