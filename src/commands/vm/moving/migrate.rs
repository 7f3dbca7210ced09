//! `com.cloud.agent.api.MigrateCommand`: sends a running guest to another host, with its disks if the
//! hosts have no storage in common.

use super::departure;
use super::journey::{self, Timetable};
use super::move_storage::{self, MigrateDiskInfo, MovedDisk};
use crate::commands::to::{Data, VirtualMachineTo};
use crate::commands::vm::launch::discs;
use crate::commands::vm::leftovers::{self, BridgesToGo};
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::config::Config;
use crate::errors::chain;
use crate::guest::moved::{self, Changes};
use crate::host::secured::SecuredProbe;
use crate::hypervisor::xml::DiskDevice;
use crate::hypervisor::{DiskCopy, DomainState, Flavour, Guest, Migration, Passwords, PowerState};
use crate::journal::{Action, Work};
use crate::wire::lenient;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrateCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub vm_name: String,
    /// `destinationIp` from 4.21 on.
    #[serde(default, deserialize_with = "lenient::or_default", alias = "destinationIp")]
    pub dest_ip: String,
    /// `virtualMachine` from 4.21 on.
    #[serde(default, rename = "vmTO", alias = "virtualMachine")]
    pub vm: Option<VirtualMachineTo>,
    /// Disks to copy, by their paths here.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub migrate_storage: BTreeMap<String, MigrateDiskInfo>,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub migrate_storage_managed: bool,
    /// Only what disks have on top of a template that is there already.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub migrate_non_shared_inc: bool,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub auto_convergence: bool,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub migrate_disk_info_list: Vec<MigrateDiskInfo>,
    /// CPU weight of the guest on the destination; 0 for unchanged.
    #[serde(default, deserialize_with = "lenient::int")]
    pub new_vm_cpu_shares: i64,
    /// By network id: whether its bridge may be removed after the last guest.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub vlan_to_persistence_map: BridgesToGo,
}

impl Command for MigrateCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.MigrateAnswer";

    fn claims(&self) -> Claims {
        let disks = self.vm.iter().flat_map(|vm| &vm.disks).filter(|disk| !disk.is_iso());
        let volumes = disks.filter_map(|disk| disk.data.as_ref()?.key());
        volumes.fold(Claims::from(Key::Guest(self.vm_name.clone())), Claims::exclusive)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let name = self.vm_name.as_str();
        let config = ctx.config()?;
        let guest = ctx.services.hypervisor.describe(name, Passwords::LeftOut).await?;
        let guest = guest.filter(|guest| guest.state.power() == PowerState::On);
        let guest = guest.ok_or_else(|| Fault::new(format!("Guest {name} does not run on this host")))?;
        let disks = &guest.description.disks;
        let moved = move_storage::moved(disks, &self.migrate_storage, self.migrate_storage_managed)?;
        let migration = self.migration(&ctx, &config, &guest, &moved).await?;
        // Whoever prepared this host for the guest waits no more.
        ctx.services.bridges.arrived(name);

        let mut work = ctx.services.journal.begin("migrate", name, &ctx.logid).await;
        let actions =
            departure::actions(&guest, &moved, &self.migrate_disk_info_list, &self.vlan_to_persistence_map);
        let left =
            leave(&ctx, &mut work, &guest, actions, migration, Timetable::new(&config, ctx.deadline)).await;
        let has_left = left.is_ok();
        match work.settle(left).await {
            Err(fault) if !has_left => return Err(fault),
            // It runs there: to say anything else would have the server end it.
            Err(fault) => tracing::error!(guest = name, "Left behind by a guest that has moved: {fault}"),
            Ok(()) => {}
        }
        tracing::info!(guest = name, destination = self.dest_ip, "Guest has moved to another host");
        self.tidy_up(&ctx, &guest).await;
        Ok(Reply::done())
    }
}

impl MigrateCommand {
    fn destination(&self) -> Result<IpAddr, Fault> {
        let shown: String = self.dest_ip.chars().take(100).collect();
        self.dest_ip.parse().map_err(|_| Fault::new(format!("{shown:?} is not the IP address of a host")))
    }

    async fn migration(
        &self,
        ctx: &Ctx,
        config: &Config,
        guest: &Guest,
        disks: &[MovedDisk],
    ) -> Result<Migration, Fault> {
        let destination = self.destination()?;
        let host = match destination {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let name = &self.vm_name;
        let document = ctx.services.hypervisor.domain_xml(name, Flavour::Migratable).await?;
        let document = document.ok_or_else(|| Fault::new(format!("Guest {name} has just ended")))?;
        let changes = Changes {
            listen: Some(destination.to_string()),
            password: self
                .vm
                .as_ref()
                .map(|vm| &vm.vnc_password)
                .filter(|password| !password.expose().is_empty()),
            shares: u64::try_from(self.new_vm_cpu_shares).ok().filter(|shares| *shares > 0),
            discs: self.discs(ctx, guest).await,
            disks: disks.iter().map(|disk| (disk.device.clone(), disk.new.clone())).collect(),
        };
        let document = moved::apply(&document, &changes).map_err(|error| Fault::from_error(&error))?;
        let copy = match (disks.is_empty(), self.migrate_non_shared_inc && !self.migrate_storage_managed) {
            (true, _) => DiskCopy::Shared,
            (false, true) => DiskCopy::Incremental,
            (false, false) => DiskCopy::Full,
        };
        let transport = if is_secured(ctx, config).await { "tls" } else { "tcp" };
        let speed = config.number("vm.migrate.speed").and_then(|speed| u64::try_from(speed).ok());
        Ok(Migration {
            destination: format!("qemu+{transport}://{host}/system"),
            xml: Some(document),
            uri: Some(format!("tcp://{host}")),
            bandwidth: speed.unwrap_or(0),
            disks: disks.iter().map(|disk| disk.device.clone()).collect(),
            copy,
            compressed: true,
            auto_converge: self.auto_convergence,
            ..Migration::default()
        })
    }

    /// Images in CD-ROM drives that the destination has at another place.
    async fn discs(&self, ctx: &Ctx, guest: &Guest) -> Vec<(String, String)> {
        let Some(vm) = &self.vm else { return Vec::new() };
        let is_drive = |path: &str| path.contains("configdrive");
        let mut changed = Vec::new();
        for disk in &vm.disks {
            let disc = match discs::find(ctx, vm, disk).await {
                Ok(Some(disc)) => disc,
                Ok(None) => continue,
                Err(fault) => {
                    tracing::warn!(guest = self.vm_name, "A CD-ROM drive stays as it is: {fault}");
                    continue;
                }
            };
            let config_drive = disk.data.as_ref().and_then(Data::path).is_some_and(is_drive);
            let inserted = guest.description.disks.iter().find_map(|disk| {
                let source = disk.source.as_deref().filter(|_| disk.device == DiskDevice::Cdrom)?;
                (is_drive(source) == config_drive).then_some((&disk.target, source))
            });
            if let Some((target, source)) = inserted.filter(|(_, source)| disc.path.as_os_str() != *source) {
                tracing::info!(guest = self.vm_name, from = source, to = %disc.path.display(), "The image of a CD-ROM drive is elsewhere on the destination");
                changed.push((target.clone(), disc.path.to_string_lossy().into_owned()));
            }
        }
        changed
    }

    /// Nothing here fails the command: the guest runs on the destination.
    async fn tidy_up(&self, ctx: &Ctx, guest: &Guest) {
        if guest.persistent
            && let Err(error) = ctx.services.hypervisor.undefine(&self.vm_name).await
        {
            tracing::error!(guest = self.vm_name, "Still defined here: {}", chain(&error));
        }
        for disc in leftovers::discs(guest) {
            discs::give_back(ctx, disc).await;
        }
    }
}

/// Sends the guest away. After an error it is here as it was.
async fn leave(
    ctx: &Ctx,
    work: &mut Work,
    guest: &Guest,
    actions: Vec<Action>,
    migration: Migration,
    timetable: Timetable,
) -> Result<(), Fault> {
    let hypervisor = &ctx.services.hypervisor;
    let name = &guest.description.name;
    if guest.state != DomainState::Paused {
        work.before(Action::ResumeGuest { guest: name.clone() }).await?;
    }
    for action in actions {
        work.after_commit(action).await?;
    }
    let snapshots = hypervisor.forget_snapshots(name).await?;
    let travelled = journey::travel(ctx, name, migration, timetable).await;
    if travelled.is_err()
        && !snapshots.is_empty()
        && let Err(error) = hypervisor.remember_snapshots(name, snapshots).await
    {
        tracing::error!(guest = name, "libvirt has forgotten the snapshots of a guest: {}", chain(&error));
    }
    travelled
}

/// Whether this host, and with it the others of its cluster, migrates by TLS.
async fn is_secured(ctx: &Ctx, config: &Config) -> bool {
    let address: Option<Ipv4Addr> = ctx.private_ip().ok().and_then(|address| address.parse().ok());
    match address {
        Some(address) => SecuredProbe::new(config.dir().join("cloud.crt")).is_secured(address).await,
        None => false,
    }
}
