//! `org.apache.cloudstack.vm.UnmanagedInstanceTO`: a guest as the import of the server takes it.

use crate::hypervisor::xml::{
    DiskDescription, DiskDevice, DiskKind, DomainDescription, InterfaceDescription,
};
use crate::hypervisor::{DomainState, Hypervisor, PowerState};
use crate::network::Bridges;
use crate::storage::mounts::mounted_at;
use serde::Serialize;
use std::path::Path;

/// Servers keep the password of a display in a form of that length.
const PASSWORD: usize = 22;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UnmanagedInstance {
    name: String,
    /// `PowerOn`, `PowerOff`, `PowerUnknown`.
    power_state: &'static str,
    cpu_cores: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_cores_per_socket: Option<u32>,
    /// MHz of each core, as far as the weight of the guest tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_speed: Option<u64>,
    /// MiB.
    memory: u64,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vnc_password: Option<Password>,
    /// `UEFI` or `BIOS`.
    boot_type: &'static str,
    /// `LEGACY` or `SECURE`.
    boot_mode: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Disk {
    disk_id: String,
    position: usize,
    label: String,
    /// Bytes that the guest sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_base_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_path: Option<String>,
    /// The bus, such as `virtio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datastore_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datastore_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datastore_name: Option<String>,
    datastore_port: u16,
    /// `file`, `block`, `network`.
    datastore_type: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Nic {
    nic_id: String,
    mac_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_type: Option<String>,
    /// Its interface on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    /// -1 for none.
    vlan: i32,
    /// A decimal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_slot: Option<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The host that a guest is on.
pub(super) struct Home<'a> {
    pub hypervisor: &'a Hypervisor,
    pub address: String,
    /// Its bridges; `None` if it is not this host, whose mounts then mean nothing either.
    pub bridges: Option<&'a Bridges>,
}

impl Home<'_> {
    /// A guest from its description, which has its password.
    pub async fn tell(&self, state: DomainState, guest: &DomainDescription) -> UnmanagedInstance {
        let cores = match state.power() {
            PowerState::On => self.hypervisor.vcpus(&guest.name).await.unwrap_or(guest.vcpus),
            PowerState::Off | PowerState::Unknown => guest.vcpus,
        };
        let mut disks = Vec::new();
        for disk in guest.disks.iter().filter(|disk| disk.device == DiskDevice::Disk) {
            let facts = self.hypervisor.block_info(&guest.name, &disk.target).await;
            disks.push(self.disk(disks.len(), disk, facts.ok().map(|facts| facts.capacity)));
        }
        let uefi = guest.loader.is_some() || guest.nvram.is_some();
        UnmanagedInstance {
            name: guest.name.clone(),
            power_state: match state.power() {
                PowerState::On => "PowerOn",
                PowerState::Off => "PowerOff",
                PowerState::Unknown => "PowerUnknown",
            },
            cpu_cores: cores,
            cpu_cores_per_socket: guest.cores_per_socket,
            cpu_speed: guest.cpu_shares.and_then(|shares| shares.checked_div(cores.into())),
            memory: guest.max_memory_kib / 1024,
            disks,
            nics: guest.interfaces.iter().enumerate().map(|(at, nic)| self.nic(at, nic)).collect(),
            vnc_password: guest.vnc_password.as_ref().and_then(|password| padded(password.expose())),
            boot_type: if uefi { "UEFI" } else { "BIOS" },
            boot_mode: if guest.secure_boot { "SECURE" } else { "LEGACY" },
        }
    }

    fn disk(&self, position: usize, disk: &DiskDescription, capacity: Option<u64>) -> Disk {
        let kind = match &disk.kind {
            DiskKind::File => "file",
            DiskKind::Block => "block",
            DiskKind::Network => "network",
            DiskKind::Other(kind) => kind,
        };
        let path = disk.source.as_deref();
        let server = disk.hosts.first();
        let (host, directory) = match (&disk.kind, path) {
            (DiskKind::File | DiskKind::Block, Some(path)) => self.store(path),
            _ => (server.map(|(name, _)| name.clone()), path.map(str::to_owned)),
        };
        let last = path.and_then(|path| path.rsplit('/').next());
        Disk {
            disk_id: position.to_string(),
            position,
            label: disk.target.clone(),
            capacity,
            file_base_name: last.filter(|_| disk.kind != DiskKind::Block).map(str::to_owned),
            image_path: path.map(str::to_owned),
            controller: disk.bus.clone(),
            datastore_host: host,
            datastore_name: directory.clone(),
            datastore_path: directory,
            datastore_port: server.and_then(|(_, port)| *port).unwrap_or(0),
            datastore_type: kind.to_owned(),
        }
    }

    /// Server and directory that a file is on.
    fn store(&self, path: &str) -> (Option<String>, Option<String>) {
        let Some((directory, _)) = path.rsplit_once('/') else { return (None, Some(path.to_owned())) };
        let mounted = self.bridges.and_then(|_| mounted_at(Path::new(directory)).ok().flatten());
        let export = mounted.and_then(|mounted| {
            let (server, export) = mounted.source.split_once(":/")?;
            Some((server.trim_matches(['[', ']']).to_owned(), format!("/{export}")))
        });
        match export {
            Some((server, export)) => (Some(server), Some(export)),
            None => (Some(self.address.clone()), Some(directory.to_owned())),
        }
    }

    fn nic(&self, at: usize, nic: &InterfaceDescription) -> Nic {
        let of_bridge = || self.bridges?.vlan(nic.source.as_deref().filter(|_| nic.kind == "bridge")?);
        Nic {
            nic_id: at.to_string(),
            mac_address: nic.mac.clone(),
            adapter_type: nic.model.clone(),
            network: nic.target.clone(),
            vlan: nic.vlan.or_else(of_bridge).map_or(-1, i32::from),
            pci_slot: nic.pci.map(|address| address.slot.to_string()),
        }
    }
}

/// libvirt looks at the first eight characters only.
fn padded(password: &str) -> Option<Password> {
    if password.trim().is_empty() {
        return None;
    }
    let missing = PASSWORD.saturating_sub(password.chars().count());
    Some(Password(password.chars().chain((0..missing).map(|_| fastrand::alphabetic())).collect()))
}
