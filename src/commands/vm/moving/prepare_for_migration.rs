//! `com.cloud.agent.api.PrepareForMigrationCommand`: a guest is to come from another host. Makes ready
//! here what it needs, or with `rollback` takes that back.

use super::arrival;
use crate::commands::to::{Data, DiskTo, VirtualMachineTo};
use crate::commands::vm::launch::cards::Cards;
use crate::commands::vm::launch::discs;
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply};
use crate::errors::chain;
use crate::guest::cpu;
use crate::journal::{Action, Work};
use crate::network::Plugged;
use crate::storage::names::name_uuid;
use crate::storage::pools::Secondary;
use crate::wire::lenient;
use std::collections::BTreeMap;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareForMigrationCommand {
    pub vm: VirtualMachineTo,
    /// The guest does not come.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub rollback: bool,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareForMigrationAnswer {
    /// Ports of DPDK, by hardware address: there are none.
    dpdk_interface_mapping: BTreeMap<String, String>,
    /// CPU weight of the guest on this host; the source puts it into the guest's description.
    #[serde(skip_serializing_if = "Option::is_none")]
    new_vm_cpu_shares: Option<u64>,
}

impl Command for PrepareForMigrationCommand {
    type Answer = PrepareForMigrationAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.PrepareForMigrationAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.vm.name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<PrepareForMigrationAnswer>, Fault> {
        let vm = &self.vm;
        let shares = if self.rollback {
            take_back(&ctx, vm).await?;
            None
        } else {
            make_ready(&ctx, vm).await?;
            Some(shares(&ctx, vm))
        };
        Ok(Reply::ok(PrepareForMigrationAnswer {
            dpdk_interface_mapping: BTreeMap::new(),
            new_vm_cpu_shares: shares,
        }))
    }
}

async fn make_ready(ctx: &Ctx, vm: &VirtualMachineTo) -> Result<(), Fault> {
    // Also checks the name.
    ctx.services.hypervisor.state(&vm.name).await?;
    let config = ctx.config()?;
    let mut work = ctx.services.journal.begin("prepare for migration", &vm.name, &ctx.logid).await;
    let ready = steps(ctx, vm, &mut work).await;
    let (plugs, mounts) = work.settle(ready).await?;
    // The guest that comes reads from there.
    mounts.into_iter().for_each(Secondary::leave_mounted);
    let ticket = ctx.services.bridges.expect(&vm.name, plugs).await;
    let longest = config.vm_migrate_wait.unwrap_or_default().max(config.cmds_timeout);
    arrival::watch(ctx, vm.name.clone(), ticket, longest);
    tracing::info!(guest = vm.name, "Ready for a guest from another host");
    Ok(())
}

async fn steps(
    ctx: &Ctx,
    vm: &VirtualMachineTo,
    work: &mut Work,
) -> Result<(Vec<Plugged>, Vec<Secondary>), Fault> {
    let mut mounts = Vec::new();
    for disk in &vm.disks {
        if let Some(disc) = discs::find(ctx, vm, disk).await? {
            mounts.extend(disc.mount(ctx).await?);
        }
        shared_pool(ctx, disk).await;
    }
    for (consumer, passphrase) in vm.disks.iter().filter_map(passphrase) {
        let uuid = name_uuid(consumer);
        work.before(Action::UndefineSecret { uuid: uuid.to_string() }).await?;
        ctx.services.hypervisor.define_secret(uuid, consumer, passphrase).await?;
    }
    Ok((Cards::plug(ctx, vm, work).await?.into_plugs(), mounts))
}

/// Makes a pool that hosts share available. That it cannot be is no failure: disks may be moved to
/// another pool together with the guest, and libvirt looks for those that are not.
async fn shared_pool(ctx: &Ctx, disk: &DiskTo) {
    let store = disk.data.as_ref().and_then(Data::store).and_then(|store| store.primary());
    let shared = ["NetworkFilesystem", "SharedMountPoint"];
    let Some(store) = store.filter(|store| shared.contains(&store.pool_type.as_str())) else { return };
    if let Err(error) = ctx.services.storage.pools.get(store.reference()).await {
        tracing::warn!(pool = store.uuid, "Not available for a guest that is to come: {}", chain(&error));
    }
}

/// What the secret of an encrypted volume is named after, and the passphrase.
fn passphrase(disk: &DiskTo) -> Option<(&str, Vec<u8>)> {
    let Some(Data::Volume(volume)) = &disk.data else { return None };
    let consumer = disk.detail("storageMigrateSecretConsumer").or(volume.path.as_deref());
    let consumer = consumer.filter(|consumer| !consumer.is_empty())?;
    (!volume.passphrase.is_empty()).then(|| (consumer, volume.passphrase.bytes().to_vec()))
}

/// The guest does not come: bridges and secrets go, unless it is here.
async fn take_back(ctx: &Ctx, vm: &VirtualMachineTo) -> Result<(), Fault> {
    ctx.services.bridges.not_coming(&vm.name).await?;
    if ctx.services.hypervisor.state(&vm.name).await?.is_some() {
        return Ok(());
    }
    for (consumer, _) in vm.disks.iter().filter_map(passphrase) {
        ctx.services.hypervisor.undefine_secret(name_uuid(consumer)).await?;
    }
    for disk in &vm.disks {
        if let Ok(Some(disc)) = discs::find(ctx, vm, disk).await {
            discs::give_back(ctx, &disc.path).await;
        }
    }
    tracing::info!(guest = vm.name, "Guest does not come from another host, what it needed is taken back");
    Ok(())
}

fn shares(ctx: &Ctx, vm: &VirtualMachineTo) -> u64 {
    let capacity = ctx.services.identity.borrow().as_ref().map_or(0, |identity| identity.cpu_capacity_mhz);
    let mhz = vm.min_speed.or(vm.speed).and_then(|mhz| u64::try_from(mhz).ok()).unwrap_or(0);
    cpu::shares(u32::try_from(vm.cpus).unwrap_or(0), mhz, capacity)
}
