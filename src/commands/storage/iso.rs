//! Steps of the commands that change the disc in a guest's CD-ROM drive.
//!
//! An image on NFS is read by the guest from where the agent has mounted its directory. The mount stays
//! for as long as a guest reads from it: the kernel does not unmount what is open, and whoever takes the
//! last disc out gives the mount back.

use super::files;
use crate::commands::to::{Store, TemplateObject};
use crate::commands::{Ctx, Fault, place};
use crate::guest::DiskBus;
use crate::guest::bus::label;
use crate::hypervisor::xml::{DiskDescription, DiskDevice, DomainDescription};
use crate::hypervisor::{Existence, HypervisorError};
use crate::storage::mounts::MountError;
use crate::storage::names::VolumeName;
use crate::storage::pools::{PoolError, Secondary};
use std::path::{Path, PathBuf};

/// Device number of the drive for the user's discs.
const CDROM: u32 = 3;
const CONFIG_DRIVE: u32 = 4;

/// An image that is there.
#[derive(Debug)]
pub(super) struct Image {
    path: PathBuf,
    /// Unmounted when dropped, unless somebody else needs it.
    mounted: Option<Secondary>,
}

/// The image that a command names by its store.
pub(super) async fn of_template(ctx: &Ctx, template: &TemplateObject) -> Result<Image, Fault> {
    let path = template.path.as_deref().unwrap_or_default();
    if let Some(Store::Primary(_)) = &template.image_data_store {
        let name = VolumeName::last_of(path)?;
        let pool = place::pool(ctx, template.image_data_store.as_ref(), &format!("ISO image {name}")).await?;
        return there(ctx, pool.volume(&name), None).await;
    }
    let store = files::nfs(template.image_data_store.as_ref(), &format!("ISO image {path}"))?;
    on_secondary(ctx, &store.url, path).await
}

/// The image at a URL such as `nfs://host/export/template/tmpl/1/2/x.iso`.
pub(super) async fn by_url(ctx: &Ctx, url: &str) -> Result<Image, Fault> {
    let parts = url.rsplit_once('/').filter(|(directory, _)| directory.contains("://"));
    let (directory, name) = parts.ok_or_else(|| Fault::new(format!("{url:?} is no URL of an ISO image")))?;
    on_secondary(ctx, directory, name).await
}

async fn on_secondary(ctx: &Ctx, url: &str, path: &str) -> Result<Image, Fault> {
    let (directory, name) = files::split(url, path)?;
    if name.is_empty() {
        return Err(Fault::new(format!("{path:?} names no ISO image")));
    }
    let mounted = ctx.services.storage.pools.secondary(&directory).await?;
    let path = mounted.path().join(name);
    there(ctx, path, Some(mounted)).await
}

async fn there(ctx: &Ctx, path: PathBuf, mounted: Option<Secondary>) -> Result<Image, Fault> {
    if ctx.services.storage.disks.exists(&path).await? {
        Ok(Image { path, mounted })
    } else {
        Err(Fault::new(format!("ISO image {} does not exist: register it again", path.display())))
    }
}

/// A drive of a running guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drive<'a> {
    pub guest: &'a str,
    /// Device number; that for the user's discs if the command names none.
    pub number: Option<i64>,
    /// Opens it even if the guest has locked it.
    pub force: bool,
}

impl Drive<'_> {
    pub(super) async fn insert(self, ctx: &Ctx, image: Image) -> Result<(), Fault> {
        let guest = ctx.services.hypervisor.running(self.guest).await?;
        let drive = self.find(&guest)?;
        let before = drive.source.as_deref().map(Path::new);
        if before != Some(image.path.as_path()) {
            let path = image.path.to_str().ok_or_else(|| Fault::new("The image's path is not UTF-8"))?;
            self.change(ctx, &drive.target, Some(path)).await?;
            tracing::info!(guest = self.guest, drive = drive.target, image = path, "ISO image is attached");
        }
        if let Some(mounted) = image.mounted {
            mounted.leave_mounted();
        }
        match before {
            Some(before) if before != image.path => give_back(ctx, before).await,
            Some(_) | None => {}
        }
        Ok(())
    }

    pub(super) async fn eject(self, ctx: &Ctx) -> Result<(), Fault> {
        let guest = ctx.services.hypervisor.running(self.guest).await?;
        let drive = self.find(&guest)?;
        if let Some(before) = drive.source.as_deref() {
            self.change(ctx, &drive.target, None).await?;
            tracing::info!(guest = self.guest, drive = drive.target, image = before, "ISO image is detached");
            give_back(ctx, Path::new(before)).await;
        }
        Ok(())
    }

    /// By the name that the device number has on the drive's bus. A guest of other origin may have its
    /// drive elsewhere.
    fn find(self, guest: &DomainDescription) -> Result<&DiskDescription, Fault> {
        let number = self.number.and_then(|number| u32::try_from(number).ok()).unwrap_or(CDROM);
        let is = |drive: &DiskDescription, number| {
            let bus = drive.bus.as_deref().and_then(DiskBus::parse);
            bus.is_some_and(|bus| label(bus, number, true) == drive.target)
        };
        let drives = || guest.disks.iter().filter(|disk| disk.device == DiskDevice::Cdrom);
        drives()
            .find(|drive| is(drive, number))
            .or_else(|| drives().find(|drive| !is(drive, CONFIG_DRIVE)))
            .ok_or_else(|| {
                let name = self.guest;
                Fault::new(format!("Guest {name} has no CD-ROM drive: stop and start it with the server"))
            })
    }

    async fn change(self, ctx: &Ctx, target: &str, medium: Option<&str>) -> Result<(), Fault> {
        let name = self.guest;
        match ctx.services.hypervisor.change_medium(name, target, medium, self.force).await {
            Ok(Existence::Done) => Ok(()),
            Ok(Existence::Absent) => Err(Fault::new(format!("Guest {name} has lost its drive {target}"))),
            Err(error) if is_locked(&error) => Err(Fault::new(format!(
                "Guest {name} has locked its CD-ROM drive: unmount the disc in the guest and try again, or force it"
            ))),
            Err(error) => Err(error.into()),
        }
    }
}

/// In QEMU's words.
fn is_locked(error: &HypervisorError) -> bool {
    error.fault().is_some_and(|fault| fault.message.contains("is locked"))
}

/// Unmounts the secondary storage that an image is on, unless a guest still reads from there. That it
/// cannot be unmounted is no failure of the command.
pub(super) async fn give_back(ctx: &Ctx, image: &Path) {
    match files::users(ctx, image).await {
        Ok(users) if users.is_empty() => {}
        Ok(_) => return,
        Err(fault) => return tracing::warn!("{} stays mounted: {fault}", image.display()),
    }
    match ctx.services.storage.pools.give_back(image).await {
        Ok(()) => {}
        // Another image of the same directory.
        Err(PoolError::Mount(MountError::Busy { target })) => {
            tracing::debug!(directory = %target.display(), "Stays mounted, it is in use");
        }
        Err(error) => tracing::warn!("{}", crate::errors::chain(&error)),
    }
}

/// Two guests, the first with a drive.
#[cfg(test)]
pub(super) const NODE: &str = r#"<node>
  <domain type='test'><name>i-2-3-VM</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>
    <devices><disk type='file' device='cdrom'><target dev='hdd' bus='ide'/><source file='/configdrive/i-2-3-VM.iso'/></disk>
    <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk></devices></domain>
  <domain type='test'><name>i-2-4-VM</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>
</node>"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use crate::storage::testing::Nfs;
    use std::time::Duration;

    const URL: &str = "nfs://10.0.0.1/export/template/tmpl/1/201";

    fn drive(target: &str, bus: &str) -> DiskDescription {
        let xml = format!(
            "<domain><devices><disk type='file' device='cdrom'><target dev='{target}' bus='{bus}'/></disk></devices></domain>"
        );
        crate::hypervisor::xml::domain(&xml).unwrap().disks.remove(0)
    }

    #[test]
    fn the_drive_is_found_on_any_bus() {
        let guest = |drives: &[(&str, &str)]| DomainDescription {
            disks: drives.iter().map(|(target, bus)| drive(target, bus)).collect(),
            ..DomainDescription::default()
        };
        let wanted = |number| Drive { guest: "g", number, force: false };
        for (drives, number, found) in [
            (&[("hdd", "ide"), ("hdc", "ide")][..], None, Some("hdc")),
            (&[("hdd", "ide"), ("hdc", "ide")], Some(4), Some("hdd")),
            (&[("sde", "sata"), ("sdd", "sata")], Some(3), Some("sdd")),
            (&[("sdd", "scsi")], Some(-1), Some("sdd")),
            (&[("hda", "ide")], None, Some("hda")),
            (&[("hdd", "ide")], None, None),
            (&[], None, None),
        ] {
            let guest = guest(drives);
            let drive = wanted(number).find(&guest).map(|drive| drive.target.as_str());
            assert_eq!(drive.ok(), found, "{drives:?} {number:?}");
        }
    }

    #[tokio::test]
    async fn a_mount_is_given_back_when_no_guest_reads_from_it() {
        let Some(nfs) = Nfs::new().await else { return };
        let bench = Bench::with_pool_and_nfs(&nfs).await;
        let missing = by_url(&bench.ctx, &format!("{URL}/x.iso")).await.unwrap_err();
        assert!(missing.text().contains("does not exist"), "{missing}");
        let mounted = bench.ctx.services.storage.pools.secondary(URL).await.unwrap();
        let path = mounted.path().join("x.iso");
        std::fs::write(&path, "iso").unwrap();
        let image = by_url(&bench.ctx, &format!("{URL}/x.iso")).await.unwrap();
        assert_eq!(image.path, path);
        image.mounted.unwrap().leave_mounted();
        mounted.leave_mounted();
        let guest = bench.guest("i-2-3-VM", &path).await;
        give_back(&bench.ctx, &path).await;
        assert!(path.exists());
        bench.ctx.services.hypervisor.destroy(&guest).await.unwrap();
        // Not a mount of an image.
        give_back(&bench.ctx, &bench.pool_dir().join("x.iso")).await;
        let open = std::fs::File::open(&path).unwrap();
        give_back(&bench.ctx, &path).await;
        assert!(path.exists(), "the kernel knows better than libvirt");
        drop(open);
        give_back(&bench.ctx, &path).await;
        assert!(!path.parent().unwrap().exists());
        give_back(&bench.ctx, &path).await;
        assert_eq!(
            bench.ctx.services.hypervisor.wait_until_stopped(&guest, Duration::from_secs(1)).await.unwrap(),
            crate::hypervisor::Waited::Reached
        );
    }
}
