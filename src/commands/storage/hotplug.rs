//! Steps of the commands that plug volumes into running guests and take them out.

use super::files;
use crate::commands::to::{DiskTo, Echo, VolumeObject};
use crate::commands::vm::guest_spec::{self, DiskRules, ResolvedDisk};
use crate::commands::vm::launch::facts;
use crate::commands::vm::launch::media::VolumeSecret;
use crate::commands::{Claims, Ctx, Fault, Key, place};
use crate::guest::DiskBus;
use crate::guest::bus::Buses;
use crate::guest::disks::{self, Disk, DiskFormat, DiskSource};
use crate::hypervisor::Detached;
use crate::hypervisor::xml::{DiskDescription, DiskDevice, DomainDescription};
use crate::journal::{Action, Work};
use crate::storage::qemu_img::ImageFormat;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More device numbers than any bus has places.
const MOST: u32 = 1000;

pub(super) fn is_iso(disk: Option<&Echo<DiskTo>>) -> bool {
    disk.is_some_and(|disk| disk.value.is_iso())
}

pub(super) fn given(disk: Option<Echo<DiskTo>>) -> Result<Echo<DiskTo>, Fault> {
    disk.ok_or_else(|| Fault::new("The command does not say which disk"))
}

/// The guest, and the volume; an image may be in the drives of many.
pub(super) fn claims(guest: &str, disk: Option<&Echo<DiskTo>>) -> Claims {
    let claims = Claims::from(Key::Guest(guest.to_owned()));
    match disk.and_then(|disk| disk.value.data.as_ref()) {
        Some(data) if is_iso(disk) => claims.and(place::shared(data)),
        Some(data) => claims.and(place::exclusive(data)),
        None => claims,
    }
}

/// Plugs a volume in at its device number.
pub(super) async fn attach(ctx: &Ctx, guest: &str, to: &DiskTo, volume: &VolumeObject) -> Result<(), Fault> {
    let path = file(ctx, volume).await?;
    let mut work = ctx.services.journal.begin("attach a volume", guest, &ctx.logid).await;
    let result = plug(ctx, &mut work, guest, to, volume, &path).await;
    work.settle(result).await
}

async fn plug(
    ctx: &Ctx,
    work: &mut Work,
    guest: &str,
    to: &DiskTo,
    volume: &VolumeObject,
    path: &Path,
) -> Result<(), Fault> {
    let hypervisor = &ctx.services.hypervisor;
    let source = text(path)?;
    let running = hypervisor.running(guest).await?;
    let secret = VolumeSecret::of(ctx, volume).await?;
    if with_source(&running, source).is_some() {
        // The passphrase may have got lost, and is needed when the guest migrates.
        if let Some(secret) = &secret {
            secret.define(ctx, work).await?;
        }
        return Ok(());
    }
    files::not_in_use(ctx, path).await?;
    let facts = ctx.services.storage.volumes.inspect(path, format(volume)?).await?;
    if facts.backing.is_some() && facts.backing_format.is_none() {
        // libvirt does not guess what a file is based on.
        ctx.services.storage.volumes.fix_backing_format(path).await?;
    }
    let number = to.disk_seq.and_then(|number| u32::try_from(number).ok()).filter(|number| *number < MOST);
    let number = number.ok_or_else(|| {
        Fault::new(format!("Volume {source} has no usable device number: {:?}", to.disk_seq))
    })?;
    let found = ResolvedDisk {
        source: DiskSource::File(source.to_owned()),
        format: match facts.format {
            ImageFormat::Qcow2 => DiskFormat::Qcow2,
            ImageFormat::Raw => DiskFormat::Raw,
        },
        secret: secret.as_ref().map(|secret| secret.uuid.to_string()),
        block_sizes: None,
    };
    let disk = guest_spec::disk(to, number, &found, &rules(ctx, to, &running).await?);
    free(guest, &running, &disk)?;
    if let Some(secret) = &secret {
        secret.define(ctx, work).await?;
    }
    work.before(Action::DetachDisk { guest: guest.to_owned(), source: source.to_owned() }).await?;
    hypervisor.attach_device(guest, &disks::disk(&disk).to_string()).await?;
    tracing::info!(guest, volume = source, device = disk.label, "Volume is attached");
    Ok(())
}

/// Takes a volume out and waits until the guest has given it up.
pub(super) async fn detach(
    ctx: &Ctx,
    guest: &str,
    volume: &VolumeObject,
    patience: Duration,
) -> Result<(), Fault> {
    let path = file(ctx, volume).await?;
    let mut work = ctx.services.journal.begin("detach a volume", guest, &ctx.logid).await;
    let result = unplug(ctx, &mut work, guest, volume, &path, patience).await;
    work.settle(result).await
}

async fn unplug(
    ctx: &Ctx,
    work: &mut Work,
    guest: &str,
    volume: &VolumeObject,
    path: &Path,
    patience: Duration,
) -> Result<(), Fault> {
    let source = text(path)?;
    let running = ctx.services.hypervisor.running(guest).await?;
    let disk = with_source(&running, source);
    if let (None, Some(over)) = (disk, over(&running, source)) {
        let (device, overlay) = (&over.target, over.source.as_deref().unwrap_or_default());
        return Err(Fault::new(format!(
            "Disk {device} of guest {guest} writes to {overlay}, which is based on volume {source}: a snapshot has not \
             been merged. Try again when it is, or merge it with `virsh blockcommit {guest} {device} --active --pivot`"
        )));
    }
    let secret = match disk.and_then(|disk| disk.secret) {
        Some(uuid) => Some(uuid),
        None => VolumeSecret::of(ctx, volume).await?.map(|secret| secret.uuid),
    };
    if let Some(uuid) = secret {
        work.after_commit(Action::UndefineSecret { uuid: uuid.to_string() }).await?;
    }
    let Some(disk) = disk else {
        tracing::warn!(guest, volume = source, "Volume is not attached, nothing to detach");
        return Ok(());
    };
    let patience = ctx.patience(patience);
    let source = disk.source.as_deref().unwrap_or(source);
    match ctx.services.hypervisor.detach_disk(guest, source, patience).await? {
        Detached::Absent | Detached::Gone(_) => {
            tracing::info!(guest, volume = source, device = disk.target, "Volume is detached");
            Ok(())
        }
        Detached::Kept(disk) => Err(Fault::new(format!(
            "Could not detach volume {source} after sending the command and waiting for [{}] milliseconds: guest {guest} \
             does not give disk {} up. Unmount it in the guest and try again, or stop the guest and detach it then",
            patience.as_millis(),
            disk.target
        ))),
    }
}

async fn file(ctx: &Ctx, volume: &VolumeObject) -> Result<PathBuf, Fault> {
    let managed =
        volume.data_store.as_ref().and_then(|store| store.primary()).is_some_and(|pool| pool.managed);
    if managed {
        return Err(Fault::new("The volume is on managed storage, which this agent does not support"));
    }
    place::volume_file(ctx, volume).await
}

fn text(path: &Path) -> Result<&str, Fault> {
    path.to_str().ok_or_else(|| Fault::new(format!("The path {} is not UTF-8", path.display())))
}

/// What the server says, since the header of a raw volume is the guest's to write.
fn format(volume: &VolumeObject) -> Result<Option<ImageFormat>, Fault> {
    let Some(name) = volume.format.as_deref().filter(|format| !format.is_empty()) else { return Ok(None) };
    match ImageFormat::named(name) {
        // An encrypted raw image has a frame of its own.
        Some(ImageFormat::Raw) if !volume.passphrase.is_empty() => Ok(None),
        Some(format) => Ok(Some(format)),
        None => Err(Fault::new(format!("Volumes of format {name:?} cannot be attached: use QCOW2 or RAW"))),
    }
}

fn with_source<'a>(guest: &'a DomainDescription, source: &str) -> Option<&'a DiskDescription> {
    let is =
        |disk: &&DiskDescription| disk.source.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(source));
    guest.disks.iter().find(is)
}

fn over<'a>(guest: &'a DomainDescription, source: &str) -> Option<&'a DiskDescription> {
    guest.disks.iter().find(|disk| disk.backing.iter().any(|layer| layer == source))
}

/// Data disks go to the bus of the first disk if that is SCSI, else to virtio.
fn bus(guest: &DomainDescription) -> DiskBus {
    let first = guest.disks.iter().find(|disk| disk.device == DiskDevice::Disk);
    match first.map(|disk| (disk.bus.as_deref().and_then(DiskBus::parse), disk.discard)) {
        Some((Some(DiskBus::Scsi), _)) => DiskBus::Scsi,
        Some((Some(DiskBus::Virtio), true)) => DiskBus::VirtioBlk,
        _ => DiskBus::Virtio,
    }
}

async fn rules(ctx: &Ctx, to: &DiskTo, guest: &DomainDescription) -> Result<DiskRules, Fault> {
    let bus = bus(guest);
    let host = facts::gather(ctx, &*ctx.config()?).await;
    Ok(DiskRules {
        buses: Buses { root: bus, data: bus, windows: false, uefi: None },
        iso_bus: bus,
        ide: true,
        iothread: to.details.contains_key("iothreads").then_some(1),
        io_uring: host.io_uring,
    })
}

/// Fails if the guest has another disk of that name.
fn free(guest: &str, running: &DomainDescription, disk: &Disk) -> Result<(), Fault> {
    match running.disks.iter().find(|other| other.target == disk.label) {
        None => Ok(()),
        Some(other) => Err(Fault::new(format!(
            "Guest {guest} has {} as disk {} already: detach that one first, or choose another device number",
            other.source.as_deref().unwrap_or("an empty drive"),
            disk.label
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::xml::domain;

    #[test]
    fn data_disks_follow_the_first_disk() {
        let guest = |disks: &str| domain(&format!("<domain><devices>{disks}</devices></domain>")).unwrap();
        let disk = |target: &str, bus: &str, driver: &str| {
            format!("<disk type='file' device='disk'>{driver}<target dev='{target}' bus='{bus}'/></disk>")
        };
        let cdrom = "<disk type='file' device='cdrom'><target dev='sdd' bus='scsi'/></disk>";
        let unmap = "<driver name='qemu' discard='unmap'/>";
        for (disks, expected) in [
            (disk("sda", "scsi", unmap), DiskBus::Scsi),
            (disk("vda", "virtio", unmap), DiskBus::VirtioBlk),
            (disk("vda", "virtio", ""), DiskBus::Virtio),
            (disk("hda", "ide", ""), DiskBus::Virtio),
            (cdrom.to_owned() + &disk("sda", "sata", ""), DiskBus::Virtio),
            (String::new(), DiskBus::Virtio),
        ] {
            assert_eq!(bus(&guest(&disks)), expected, "{disks}");
        }
    }
}
