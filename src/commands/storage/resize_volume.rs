//! `com.cloud.agent.api.storage.ResizeVolumeCommand`: gives a volume another size.
//!
//! A volume that a guest has open is resized through its QEMU, which tells the guest; nobody else may
//! write to the image then. Asking again for a size that it has is a success.

use super::files::{self, DiskUser};
use crate::commands::to::{Passphrase, StorageFiler};
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply, place};
use crate::storage::names::VolumeName;
use crate::storage::qemu_img::{ImageFormat, Shrink, Source, Target};
use crate::wire::lenient;
use std::path::Path;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResizeVolumeCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    path: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pool: StorageFiler,
    /// Bytes, as the server has it.
    #[serde(default, deserialize_with = "lenient::int")]
    current_size: i64,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::int")]
    new_size: i64,
    #[serde(default, deserialize_with = "lenient::flag")]
    shrink_ok: bool,
    /// "none" for a volume that belongs to no guest.
    #[serde(default)]
    vm_instance: Option<String>,
    #[serde(default, deserialize_with = "lenient::flag")]
    managed: bool,
    #[serde(default, deserialize_with = "lenient::or_default")]
    passphrase: Passphrase,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResizeVolumeAnswer {
    /// Virtual size in bytes.
    new_size: u64,
}

impl Command for ResizeVolumeCommand {
    type Answer = ResizeVolumeAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.storage.ResizeVolumeAnswer";

    fn claims(&self) -> Claims {
        let volume = Claims::from(place::key(&self.pool.uuid, &self.path));
        match self.vm_instance.as_deref() {
            None | Some("" | "none") => volume,
            // It must neither start nor stop meanwhile.
            Some(guest) => volume.exclusive(Key::Guest(guest.to_owned())),
        }
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<ResizeVolumeAnswer>, Fault> {
        let size = files::size(self.new_size, &format!("Volume {}", self.path))?;
        if self.managed {
            return Err(Fault::new("Managed storage is not supported by this agent: resize it where it is"));
        }
        let new_size =
            if self.current_size == self.new_size { size } else { self.resize(&ctx, size).await? };
        Ok(Reply::ok(ResizeVolumeAnswer { new_size }).details("success"))
    }
}

impl ResizeVolumeCommand {
    async fn resize(&self, ctx: &Ctx, size: u64) -> Result<u64, Fault> {
        let name = VolumeName::last_of(&self.path)?;
        let pool = ctx.services.storage.pools.get(self.pool.reference()).await?;
        let path = pool.volume(&name);
        let format = ctx.services.storage.volumes.inspect(&path, None).await?.format;
        let secret = files::secret(&self.passphrase)?;
        let image = Source { passphrase: secret.as_ref(), ..Source::new(&path, format) };
        let target = Target { passphrase: image.passphrase, ..Target::new(&path, format) };
        let inside = target.payload(size);
        let now = match files::users(ctx, &path).await?.as_slice() {
            [] => self.offline(ctx, image, inside).await?,
            [user] if user.on_top => online(ctx, &path, user, inside).await?,
            [DiskUser { guest, device, .. }, ..] => {
                return Err(Fault::new(format!(
                    "{} is below disk {device} of {guest}, which runs: merge its snapshot or stop the guest first",
                    path.display()
                )));
            }
        };
        tracing::info!(volume = %path.display(), size = now, "Volume is resized");
        // Only the figures of libvirt are older then.
        if let Err(error) = ctx.services.hypervisor.refresh_pool(&pool.uuid.to_string()).await {
            tracing::warn!("{}", crate::errors::chain(&error));
        }
        // Servers count the header of an encrypted image as part of its size.
        Ok(now.max(size))
    }

    async fn offline(&self, ctx: &Ctx, image: Source<'_>, size: u64) -> Result<u64, Fault> {
        // What a guest has at the end of a qcow2 image would be lost without a word.
        let shrink = match image.format {
            ImageFormat::Raw if self.shrink_ok => Shrink::Allow,
            ImageFormat::Qcow2 if self.shrink_ok && self.new_size < self.current_size => {
                return Err(Fault::new("Unable to shrink volumes of type QCOW2"));
            }
            ImageFormat::Raw | ImageFormat::Qcow2 => Shrink::Refuse,
        };
        Ok(ctx.services.storage.volumes.resize(image, size, shrink).await?.virtual_size)
    }
}

/// Through the guest's QEMU.
async fn online(ctx: &Ctx, path: &Path, user: &DiskUser, size: u64) -> Result<u64, Fault> {
    let DiskUser { guest, device, .. } = user;
    let hypervisor = &ctx.services.hypervisor;
    let now = hypervisor.block_info(guest, device).await?.capacity;
    if now > size {
        return Err(Fault::new(format!(
            "{} is disk {device} of {guest}, which runs, and has {now} bytes: the result would shrink the volume, \
             stop the guest first",
            path.display()
        )));
    }
    if now < size {
        hypervisor.block_resize(guest, device, size).await?;
    }
    Ok(hypervisor.block_info(guest, device).await?.capacity)
}

#[cfg(test)]
#[path = "resize_volume_tests.rs"]
mod tests;
