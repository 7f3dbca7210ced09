//! `com.cloud.agent.api.storage.MigrateVolumeCommand`: moves a volume to another pool. The server deletes
//! the old one.
//!
//! The disk of a running guest is mirrored by QEMU until both are the same; then the guest goes on with
//! the new one. The reference agent does so for PowerFlex only.

use super::files::{self, DiskUser};
use super::stored::Stored;
use crate::commands::to::{Data, StorageFiler, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply, place};
use crate::hypervisor::{CopyTarget, PowerState};
use crate::journal::Action;
use crate::storage::names::VolumeName;
use crate::storage::pools::Pool;
use crate::storage::qemu_img::{ImageFormat, Provisioning};
use crate::storage::volumes::NewVolume;
use crate::wire::lenient;
use std::collections::BTreeMap;
use std::path::Path;

/// May have the secrets of managed storage, so they are never shown.
type Details = BTreeMap<String, Option<String>>;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrateVolumeCommand {
    /// Used with `source_pool` if there is no `src_data`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    volume_path: String,
    /// Where to; used if there is no `dest_data`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pool: StorageFiler,
    #[serde(default, deserialize_with = "lenient::or_default")]
    source_pool: StorageFiler,
    #[serde(default)]
    attached_vm_name: Option<String>,
    #[serde(default)]
    src_data: Option<Data>,
    #[serde(default)]
    dest_data: Option<Data>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    src_details: Details,
    #[serde(default, deserialize_with = "lenient::or_default")]
    dest_details: Details,
}

impl std::fmt::Debug for MigrateVolumeCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("MigrateVolumeCommand");
        shown.field("src_data", &self.src_data).field("dest_data", &self.dest_data).finish_non_exhaustive()
    }
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrateVolumeAnswer {
    /// The new name.
    volume_path: String,
}

/// From where to where.
struct Move {
    pool: Pool,
    name: VolumeName,
    dest: Pool,
    new_name: VolumeName,
}

fn volume(data: Option<&Data>) -> Option<&VolumeObject> {
    match data {
        Some(Data::Volume(volume)) => Some(volume),
        _ => None,
    }
}

impl Command for MigrateVolumeCommand {
    type Answer = MigrateVolumeAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.storage.MigrateVolumeAnswer";

    fn claims(&self) -> Claims {
        let source = match &self.src_data {
            Some(data) => place::exclusive(data),
            None => place::key(&self.source_pool.uuid, &self.volume_path).into(),
        };
        let dest = self.dest_data.as_ref().map_or_else(Claims::none, place::exclusive);
        let guest = self.guest().map_or_else(Claims::none, |guest| Key::Guest(guest.to_owned()).into());
        source.and(dest).and(guest)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<MigrateVolumeAnswer>, Fault> {
        if [&self.src_details, &self.dest_details].iter().any(|details| details.contains_key("iqn")) {
            return Err(Fault::new("Managed storage is not supported by this agent: iqn"));
        }
        let plan = self.plan(&ctx).await?;
        let (source, target) = (plan.pool.volume(&plan.name), plan.dest.volume(&plan.new_name));
        if source == target {
            return Err(Fault::new(format!("{} is in that pool already", source.display())));
        }
        match files::users(&ctx, &source).await?.as_slice() {
            [] if self.is_done(&ctx, &target).await? => {}
            [] => self.offline(&ctx, &plan).await?,
            [user] if user.on_top => online(&ctx, &plan, user).await?,
            [DiskUser { guest, device, .. }, ..] => {
                return Err(Fault::new(format!(
                    "{} is below disk {device} of {guest}, which runs: merge its snapshot or stop the guest first",
                    source.display()
                )));
            }
        }
        tracing::info!(from = %source.display(), to = %target.display(), "Volume is moved to another pool");
        Ok(Reply::ok(MigrateVolumeAnswer { volume_path: plan.new_name.to_string() }))
    }
}

impl MigrateVolumeCommand {
    fn guest(&self) -> Option<&str> {
        self.attached_vm_name.as_deref().filter(|name| !name.is_empty())
    }

    async fn plan(&self, ctx: &Ctx) -> Result<Move, Fault> {
        let pools = &ctx.services.storage.pools;
        let (pool, name) = match volume(self.src_data.as_ref()) {
            Some(volume) => place::volume(ctx, volume).await?,
            None => {
                let name = VolumeName::last_of(&self.volume_path)?;
                (pools.get(self.source_pool.reference()).await?, name)
            }
        };
        let to = volume(self.dest_data.as_ref());
        let dest = match to {
            Some(to) => {
                place::pool(ctx, to.data_store.as_ref(), &format!("The copy of volume {name}")).await?
            }
            None => pools.get(self.pool.reference()).await?,
        };
        let new_name = match to.and_then(|to| to.path.as_deref()).filter(|path| !path.is_empty()) {
            Some(path) => VolumeName::last_of(path)?,
            None => files::random_name(ctx, "")?,
        };
        Ok(Move { pool, name, dest, new_name })
    }

    /// Whether an earlier run of this command has moved the guest: the old image is out of date then.
    async fn is_done(&self, ctx: &Ctx, target: &Path) -> Result<bool, Fault> {
        let Some(guest) = self.guest() else { return Ok(false) };
        if files::users(ctx, target).await?.iter().any(|user| user.on_top && user.guest == guest) {
            return Ok(true);
        }
        match ctx.services.hypervisor.state(guest).await? {
            Some((state, _)) if state.power() == PowerState::On => {
                Err(Fault::new(format!("{guest} runs without this volume: it was moved before, or detached")))
            }
            _ => Ok(false),
        }
    }

    async fn offline(&self, ctx: &Ctx, plan: &Move) -> Result<(), Fault> {
        let from = volume(self.src_data.as_ref());
        let secret = from.map(|from| files::secret(&from.passphrase)).transpose()?.flatten();
        let format = from.and_then(|from| from.format.as_deref()).and_then(ImageFormat::named);
        let source = Stored { pool: &plan.pool, name: &plan.name, format, passphrase: secret.as_ref() };
        let target = plan.dest.volume(&plan.new_name);
        let copy = source.copy_to(ctx, &target, plan.dest.format, secret.as_ref());
        files::new_file(ctx, "move to another pool", &target, copy).await.map(drop)
    }
}

async fn online(ctx: &Ctx, plan: &Move, user: &DiskUser) -> Result<(), Fault> {
    let DiskUser { guest, device, .. } = user;
    let (volumes, hypervisor) = (&ctx.services.storage.volumes, &ctx.services.hypervisor);
    let path = plan.dest.volume(&plan.new_name);
    if volumes.inspect(&plan.pool.volume(&plan.name), None).await?.encrypted {
        return Err(Fault::new(format!(
            "Disk {device} of {guest} is encrypted, and those are only moved while their guest is off: stop it first"
        )));
    }
    if ctx.services.storage.disks.exists(&path).await? {
        return Err(Fault::new(format!("{} exists already: delete it first", path.display())));
    }
    let size = hypervisor.block_info(guest, device).await?.capacity;
    let new = NewVolume {
        pool: &plan.dest,
        name: &plan.new_name,
        format: plan.dest.format,
        size,
        provisioning: Provisioning::Thin,
        passphrase: None,
    };
    let target = CopyTarget {
        path: path.to_string_lossy().into_owned(),
        format: plan.dest.format.as_str().to_owned(),
    };
    let end = |may_be_moved| {
        let (guest, device, target) = (guest.clone(), device.clone(), path.clone());
        Action::EndCopy { guest, device, target, may_be_moved }
    };
    let mut work = ctx.services.journal.begin("move the disk of a running guest", guest, &ctx.logid).await;
    let result = async {
        work.before(end(false)).await?;
        volumes.create_empty(new).await?;
        hypervisor.copy_disk(guest, device, &target, files::deadline(ctx)).await?;
        // From here on the file may be the only one with the guest's last writes.
        work.before(end(true)).await?;
        work.forget(&end(false)).await?;
        Ok::<(), Fault>(hypervisor.finish_copy(guest, device, &target).await?)
    };
    let result = result.await;
    work.settle(result).await
}

#[cfg(test)]
#[path = "migrate_volume_tests.rs"]
mod tests;
