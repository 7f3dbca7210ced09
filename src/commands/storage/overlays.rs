//! Steps that freeze disks of a running guest, as the commands about snapshots share them: the guest
//! goes on in an overlay over each of its files, until the overlay is merged back or becomes the volume.

use super::files;
use crate::commands::{Ctx, Fault};
use crate::hypervisor::{DomainState, HypervisorError, Object, Passwords, SnapshotOptions, xml};
use crate::journal::{Action, Work};
use crate::xml::Element;
use std::path::PathBuf;

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
        let document = self.document(&disks).to_string();
        let hypervisor = &ctx.services.hypervisor;
        Ok(hypervisor.create_snapshot(self.guest, &document, options, files::deadline(ctx)).await?)
    }

    /// All disks but the frozen ones stay as they are.
    fn document(&self, disks: &[xml::DiskDescription]) -> Element {
        let disk = |disk: &xml::DiskDescription| {
            let element = Element::new("disk").with("name", &disk.target);
            match self.overlays.iter().find(|overlay| overlay.device == disk.target) {
                None => element.with("snapshot", "no"),
                Some(overlay) => element
                    .with("snapshot", "external")
                    .child(Element::new("driver").with("type", "qcow2"))
                    .child(Element::new("source").with("file", overlay.path.display())),
            }
        };
        let listed = disks.iter().filter(|disk| disk.source.is_some()).map(disk);
        Element::new("domainsnapshot")
            .child(Element::new("memory").with("snapshot", "no"))
            .child(Element::new("disks").children(listed))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_that_are_not_frozen_are_named_as_such() {
        let document = "<domain><name>i-2-3-VM</name><devices>\
            <disk type='file' device='disk'><source file='/p/root'/><target dev='vda'/></disk>\
            <disk type='file' device='disk'><source file='/p/data'/><target dev='vdb'/></disk>\
            <disk type='file' device='cdrom'><target dev='hdc'/></disk></devices></domain>";
        let disks = xml::domain(document).unwrap().disks;
        let overlay = Overlay { device: "vdb".into(), base: "/p/data".into(), path: "/p/a'b".into() };
        let frozen = Frozen { guest: "i-2-3-VM", overlays: &[overlay], quiesce: false };
        assert_eq!(
            frozen.document(&disks).to_string(),
            "<domainsnapshot><memory snapshot='no'/><disks><disk name='vda' snapshot='no'/>\
             <disk name='vdb' snapshot='external'><driver type='qcow2'/><source file='/p/a&apos;b'/></disk>\
             </disks></domainsnapshot>"
        );
    }
}
