//! Steps that freeze disks of a running guest, as the commands about snapshots share them: the guest
//! goes on in an overlay over each of its files, until the overlay is merged back or becomes the volume.

use super::files;
use crate::commands::{Ctx, Fault};
use crate::hypervisor::{DomainState, HypervisorError, Object, Passwords, SnapshotOptions, xml};
use crate::journal::{Action, Work};
use std::path::{Path, PathBuf};

/// A new file over a disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overlay {
    /// Such as "vda".
    pub device: String,
    /// The file that is frozen.
    pub base: PathBuf,
    /// What the guest writes to from then on.
    pub path: PathBuf,
}

/// A guest whose disks are frozen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frozen<'a> {
    pub guest: &'a str,
    pub overlays: &'a [Overlay],
    /// Whether the guest agent brings the file systems into a sound state before.
    pub quiesce: bool,
}

impl Frozen<'_> {
    /// Puts the guest on all of its overlays at once. If the work does not come to its end, the guest goes
    /// back to the files that it had, with all that it has written meanwhile.
    pub async fn begin(&self, ctx: &Ctx, work: &mut Work) -> Result<(), Fault> {
        let disks = disks(ctx, self.guest).await?;
        for Overlay { device, base, path } in self.overlays {
            let (guest, device) = (self.guest.to_owned(), device.clone());
            let (base, overlay) = (base.clone(), path.clone());
            work.before(Action::MergeOverlay { guest, device, base, overlay }).await?;
        }
        let options = SnapshotOptions {
            disk_only: true,
            atomic: true,
            // What libvirt remembers of a snapshot would keep the guest from migrating.
            no_metadata: true,
            quiesce: self.quiesce,
            ..SnapshotOptions::default()
        };
        // Empty drives have nothing to be frozen.
        let listed = disks.iter().filter(|disk| disk.source.is_some()).map(|disk| {
            let overlay = self.overlays.iter().find(|overlay| overlay.device == disk.target);
            (disk.target.as_str(), overlay.map(|overlay| overlay.path.to_string_lossy()))
        });
        let listed: Vec<_> = listed.collect();
        let document =
            xml::overlay_snapshot(listed.iter().map(|(disk, overlay)| (*disk, overlay.as_deref())));
        let hypervisor = &ctx.services.hypervisor;
        Ok(hypervisor.create_snapshot(self.guest, &document, options, files::deadline(ctx)).await?)
    }

    /// Merges what the guest has written back into the frozen files. A guest that ran before and was
    /// paused, as QEMU does when its storage is full, goes on.
    pub async fn end(&self, ctx: &Ctx, before: DomainState) -> Result<(), Fault> {
        for Overlay { device, base, path } in self.overlays {
            let base = base.to_string_lossy();
            let hypervisor = &ctx.services.hypervisor;
            hypervisor.commit_and_pivot(self.guest, device, &base, false, files::deadline(ctx)).await?;
            ctx.services.storage.disks.delete(path).await?;
        }
        let now = state(ctx, self.guest).await?;
        if (before, now) == (DomainState::Running, DomainState::Paused) {
            ctx.services.hypervisor.resume(self.guest).await?;
        }
        Ok(())
    }

    /// After an error: says so if the guest could not be brought back to its files.
    pub async fn explained(&self, ctx: &Ctx, fault: Fault) -> Fault {
        for Overlay { device, base, path } in self.overlays {
            if ctx.services.storage.disks.exists(path).await.unwrap_or(true) {
                let guest = self.guest;
                return Fault::new(format!(
                    "{}. Disk {device} of {guest} still writes to {} over {}: this is merged when the agent starts next, or by hand with `virsh blockcommit {guest} {device} --active --pivot`",
                    fault.text().trim_end_matches('.'),
                    path.display(),
                    base.display()
                ));
            }
        }
        fault
    }
}

/// The disks of a guest that runs.
pub(super) async fn disks(ctx: &Ctx, guest: &str) -> Result<Vec<xml::DiskDescription>, Fault> {
    let found = ctx.services.hypervisor.describe(guest, Passwords::LeftOut).await?;
    Ok(found.ok_or_else(|| missing(guest))?.description.disks)
}

/// State of a guest that must exist.
pub(super) async fn state(ctx: &Ctx, guest: &str) -> Result<DomainState, Fault> {
    let found = ctx.services.hypervisor.state(guest).await?;
    Ok(found.ok_or_else(|| missing(guest))?.0)
}

fn missing(guest: &str) -> HypervisorError {
    HypervisorError::NotFound { what: Object::Guest, name: guest.to_owned() }
}

/// The device of the disk whose file that is.
pub(super) fn device_of<'a>(
    disks: &'a [xml::DiskDescription],
    path: &Path,
    guest: &str,
) -> Result<&'a str, Fault> {
    let mut found =
        disks.iter().filter(|disk| disk.source.as_deref().is_some_and(|source| Path::new(source) == path));
    match (found.next(), found.next()) {
        (Some(disk), None) => Ok(&disk.target),
        (None, _) => Err(Fault::new(format!("Guest {guest} has no disk on {}", path.display()))),
        (Some(_), Some(_)) => {
            Err(Fault::new(format!("Guest {guest} has more than one disk on {}", path.display())))
        }
    }
}
