//! The disks and discs of a `VirtualMachineTO` as files of this host.
//!
//! ```text
//!   volume                 its file in the pool, with its passphrase as a secret of libvirt
//!   disc in a pool         its file in the pool
//!   disc on NFS            its directory mounted, as on every host, so that guests can migrate
//!   config drive           on the host, in an NFS pool or on secondary storage
//!   no path                an empty drive
//! ```

use super::discs;
use crate::commands::to::{Data, DiskTo, Passphrase, TemplateObject, VirtualMachineTo, VolumeObject};
use crate::commands::vm::guest_spec::ResolvedDisk;
use crate::commands::{Ctx, Fault, place};
use crate::guest::disks::{DiskFormat, DiskSource};
use crate::journal::{Action, Work};
use crate::storage::names::name_uuid;
use crate::storage::pools::Secondary;
use crate::storage::qemu_img::ImageFormat;
use std::collections::BTreeMap;
use std::path::Path;
use uuid::Uuid;

/// All disks of one guest, found. What was mounted for it is given back when this is dropped.
#[derive(Debug, Default)]
pub(in crate::commands) struct Media {
    /// By device number; empty drives are left out.
    pub disks: BTreeMap<i64, ResolvedDisk>,
    secrets: Vec<VolumeSecret>,
    mounts: Vec<Secondary>,
}

/// A passphrase as libvirt is to know it.
#[derive(Debug)]
pub(in crate::commands) struct VolumeSecret {
    pub uuid: Uuid,
    /// What libvirt is told that it is for: the path of the volume as it is on the wire.
    usage: String,
    value: Passphrase,
    /// libvirt has one for that volume already.
    known: bool,
}

impl VolumeSecret {
    /// `None` if the volume is not encrypted.
    pub(in crate::commands) async fn of(
        ctx: &Ctx,
        volume: &VolumeObject,
    ) -> Result<Option<VolumeSecret>, Fault> {
        if volume.passphrase.is_empty() {
            return Ok(None);
        }
        let usage =
            volume.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| volume.uuid.clone());
        let known = ctx.services.hypervisor.secrets().await?;
        // libvirt has one secret for a volume, whatever its id.
        let known = known.into_iter().find(|(_, of)| *of == usage).map(|(uuid, _)| uuid);
        // The same on every host.
        let uuid = known.unwrap_or_else(|| name_uuid(&usage));
        Ok(Some(VolumeSecret { uuid, usage, value: volume.passphrase.clone(), known: known.is_some() }))
    }

    /// Tells libvirt the passphrase; `work` takes it back if libvirt did not have one.
    pub(in crate::commands) async fn define(&self, ctx: &Ctx, work: &mut Work) -> Result<(), Fault> {
        let VolumeSecret { uuid, usage, value, known } = self;
        if !known {
            work.before(Action::UndefineSecret { uuid: uuid.to_string() }).await?;
        }
        Ok(ctx.services.hypervisor.define_secret(*uuid, usage, value.bytes().to_vec()).await?)
    }
}

impl Media {
    /// Finds every disk; mounts what is not there.
    pub(in crate::commands) async fn resolve(ctx: &Ctx, vm: &VirtualMachineTo) -> Result<Media, Fault> {
        let mut media = Media::default();
        for disk in &vm.disks {
            // Without a number it is refused later, with all that is wrong in the definition.
            let Some(number) = disk.disk_seq else { continue };
            let found = media.find(ctx, vm, disk).await.map_err(|fault| {
                Fault::new(format!("Disk {number} of guest {} cannot be used: {fault}", vm.name))
            })?;
            media.disks.extend(found.map(|found| (number, found)));
        }
        Ok(media)
    }

    async fn find(
        &mut self,
        ctx: &Ctx,
        vm: &VirtualMachineTo,
        disk: &DiskTo,
    ) -> Result<Option<ResolvedDisk>, Fault> {
        match &disk.data {
            Some(Data::Volume(volume)) if !disk.is_iso() => self.volume(ctx, volume).await.map(Some),
            Some(Data::Template(template)) => match template.path.as_deref() {
                Some(path) if !path.is_empty() => self.disc(ctx, vm, template, path).await.map(Some),
                _ => Ok(None),
            },
            None if disk.is_iso() => Ok(None),
            Some(_) | None => Err(Fault::new("it is neither a volume nor an ISO image")),
        }
    }

    async fn volume(&mut self, ctx: &Ctx, volume: &VolumeObject) -> Result<ResolvedDisk, Fault> {
        let (pool, name) = place::volume(ctx, volume).await?;
        let path = pool.volume(&name);
        there(ctx, &path, "Volume").await?;
        let format = match volume.format.as_deref().map(str::trim).filter(|format| !format.is_empty()) {
            Some(format) => ImageFormat::named(format)
                .ok_or_else(|| Fault::new(format!("a volume cannot be of the format {format:?}")))?,
            None => pool.format,
        };
        if format == ImageFormat::Qcow2
            && let Err(error) = ctx.services.storage.volumes.fix_backing_format(&path).await
        {
            tracing::warn!(volume = %path.display(), "Its backing file may have no format: {}", crate::errors::chain(&error));
        }
        let secret = VolumeSecret::of(ctx, volume).await?;
        let id = secret.as_ref().map(|secret| secret.uuid.to_string());
        self.secrets.extend(secret);
        let format = if format == ImageFormat::Qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw };
        Ok(ResolvedDisk { source: source(&path), format, secret: id, block_sizes: None })
    }

    async fn disc(
        &mut self,
        ctx: &Ctx,
        vm: &VirtualMachineTo,
        template: &TemplateObject,
        path: &str,
    ) -> Result<ResolvedDisk, Fault> {
        let disc = discs::locate(ctx, vm, template, path).await?;
        self.mounts.extend(disc.mount(ctx).await?);
        let path = disc.path;
        there(ctx, &path, "ISO image").await?;
        Ok(ResolvedDisk { source: source(&path), format: DiskFormat::Raw, secret: None, block_sizes: None })
    }

    /// Tells libvirt the passphrases; `work` takes back those that it did not have.
    pub(in crate::commands) async fn define_secrets(&self, ctx: &Ctx, work: &mut Work) -> Result<(), Fault> {
        for secret in &self.secrets {
            secret.define(ctx, work).await?;
        }
        Ok(())
    }

    /// Leaves what was mounted to the guest, which has it open from now on.
    pub(in crate::commands) fn leave_mounted(self) {
        self.mounts.into_iter().for_each(Secondary::leave_mounted);
    }
}

fn source(path: &Path) -> DiskSource {
    DiskSource::File(path.to_string_lossy().into_owned())
}

async fn there(ctx: &Ctx, path: &Path, what: &str) -> Result<(), Fault> {
    if ctx.services.storage.disks.exists(path).await? {
        return Ok(());
    }
    Err(Fault::new(format!("{what} {} was not found: see whether it was moved or deleted", path.display())))
}
