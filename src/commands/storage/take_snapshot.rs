//! Steps of `CreateObjectCommand` for snapshots: what a volume holds now, as a file of its own without a
//! backing file, in the pool or at once on secondary storage.
//!
//! The volume of a guest that runs is frozen while it is copied: the guest goes on in an overlay, which
//! is merged back whatever becomes of the copy.

use super::create_object::CreateObjectAnswer;
use super::files::{self, DiskUser};
use super::overlays::{self, Frozen, Overlay};
use super::stored::Away;
use crate::commands::to::answers::NewSnapshot;
use crate::commands::to::{SnapshotObject, VolumeObject};
use crate::commands::{Ctx, Fault, Reply, place};
use crate::config::Secret;
use crate::journal::{Action, Work};
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::pools::Pool;
use crate::storage::qemu_img::ImageFormat;
use crate::storage::volumes::{Copy, VolumeFacts};
use std::path::{Path, PathBuf};

pub(super) async fn take(ctx: &Ctx, snapshot: &SnapshotObject) -> Result<Reply<CreateObjectAnswer>, Fault> {
    let volume = snapshot.volume.as_ref();
    let volume = volume.ok_or_else(|| Fault::new("The command does not say of which volume"))?;
    let guest = snapshot.vm_name.as_deref().or(volume.vm_name.as_deref()).unwrap_or("none");
    take_of(ctx, snapshot, volume).await.map_err(|fault| {
        let name = if volume.name.is_empty() { &volume.uuid } else { &volume.name };
        Fault::new(format!(
            "Failed take snapshot for volume [{name}], in VM [{guest}], due to [{}].",
            fault.text()
        ))
    })
}

async fn take_of(
    ctx: &Ctx,
    snapshot: &SnapshotObject,
    volume: &VolumeObject,
) -> Result<Reply<CreateObjectAnswer>, Fault> {
    if snapshot.kvm_incremental_snapshot {
        return Err(Fault::new(
            "this agent takes full snapshots only: set kvm.incremental.snapshot to false",
        ));
    }
    let (pool, name) = place::volume(ctx, volume).await?;
    let id = files::random_name(ctx, "")?;
    let secret = files::secret(&volume.passphrase)?;
    let directory = match &snapshot.image_store {
        None => "snapshots".to_owned(),
        Some(_) => format!("snapshots/{}/{}", snapshot.account_id, volume.volume_id),
    };
    let directory = RelativePath::new(&directory)?;
    let target = match &snapshot.image_store {
        None => Target::Pool(directory.under(&pool.local_path)),
        Some(store) => {
            let store = files::nfs(Some(store), "The snapshot")?;
            Target::Secondary(Away::open(ctx, &store.url, &directory).await?)
        }
    };
    let source = Source { pool: &pool, path: pool.volume(&name), secret: secret.as_ref() };
    let written = source.write_to(ctx, &target, &id).await;
    let path = match target {
        Target::Pool(directory) => directory.join(id.as_str()).to_string_lossy().into_owned(),
        Target::Secondary(away) => {
            away.close().await;
            format!("{directory}/{id}")
        }
    };
    let facts = written?;
    tracing::info!(volume = %name, snapshot = path, bytes = facts.length, "Snapshot is taken");
    let new = NewSnapshot { path, physical_size: Some(facts.length), ..NewSnapshot::default() };
    Ok(Reply::ok(CreateObjectAnswer::new(new.to_element()?)))
}

/// The directory that the snapshot is written to.
enum Target<'a> {
    Pool(PathBuf),
    Secondary(Away<'a>),
}

impl Target<'_> {
    fn file(&self, id: &VolumeName) -> PathBuf {
        match self {
            Target::Pool(directory) => directory.join(id.as_str()),
            Target::Secondary(away) => away.file(id.as_str()),
        }
    }

    /// Writes down that the file goes again, and the directory, if it is about to be made.
    async fn before(&self, ctx: &Ctx, work: &mut Work, id: &VolumeName) -> Result<(), Fault> {
        let remove = match self {
            Target::Pool(directory) => {
                files::before_directory(ctx, work, directory).await?;
                Action::RemoveFile { path: self.file(id) }
            }
            Target::Secondary(away) => {
                away.before_directory(ctx, work).await?;
                away.remove(id.as_str())
            }
        };
        Ok(work.before(remove).await?)
    }
}

/// The volume that the snapshot is of.
struct Source<'a> {
    pool: &'a Pool,
    path: PathBuf,
    secret: Option<&'a Secret>,
}

impl Source<'_> {
    async fn write_to(&self, ctx: &Ctx, target: &Target<'_>, id: &VolumeName) -> Result<VolumeFacts, Fault> {
        let user = self.user(ctx).await?;
        let overlays: Vec<Overlay> = user
            .iter()
            .map(|user| Overlay {
                device: user.device.clone(),
                base: self.path.clone(),
                path: self.pool.volume(id),
            })
            .collect();
        let frozen =
            user.as_ref().map(|user| Frozen { guest: &user.guest, overlays: &overlays, quiesce: false });
        // Of the guest, if there is one: it must not start anew before its overlay is merged.
        let subject = match &user {
            Some(user) => user.guest.clone(),
            None => self.path.to_string_lossy().into_owned(),
        };
        let mut work = ctx.services.journal.begin("take a snapshot", &subject, &ctx.logid).await;
        let result = async {
            target.before(ctx, &mut work, id).await?;
            let file = target.file(id);
            match frozen {
                None => self.copy_to(ctx, &file).await,
                Some(frozen) => self.copy_frozen(ctx, frozen, &mut work, &file).await,
            }
        };
        let result = result.await;
        match (work.settle(result).await, frozen) {
            (Err(fault), Some(frozen)) => Err(frozen.explained(ctx, fault).await),
            (result, _) => result,
        }
    }

    /// The guest that writes to the volume.
    async fn user(&self, ctx: &Ctx) -> Result<Option<DiskUser>, Fault> {
        let shown = self.path.display();
        let mut users = files::users(ctx, &self.path).await?;
        let user = users.pop();
        match &user {
            None if ctx.services.storage.images.is_locked(&self.path).await? => {
                Err(Fault::new(format!("{shown} is in use by another process, on another host perhaps")))
            }
            None => Ok(None),
            Some(user) if !user.on_top => Err(Fault::new(format!(
                "disk {} of {} writes to an overlay over {shown}: merge it with `virsh blockcommit {1} {0} --active --pivot`",
                user.device, user.guest
            ))),
            Some(_) if !users.is_empty() => {
                Err(Fault::new(format!("{shown} is a disk of more than one guest")))
            }
            Some(_) if self.secret.is_some() => {
                Err(Fault::new("VM is running, encrypted volume snapshots aren't supported"))
            }
            Some(_) => Ok(user),
        }
    }

    async fn copy_to(&self, ctx: &Ctx, target: &Path) -> Result<VolumeFacts, Fault> {
        let roots = [self.pool.local_path.as_path()];
        let copy = Copy {
            source_passphrase: self.secret,
            target_passphrase: self.secret,
            ..Copy::new(&self.path, &roots, target, ImageFormat::Qcow2)
        };
        Ok(ctx.services.storage.volumes.copy(copy, files::deadline(ctx)).await?.facts)
    }

    async fn copy_frozen(
        &self,
        ctx: &Ctx,
        frozen: Frozen<'_>,
        work: &mut Work,
        target: &Path,
    ) -> Result<VolumeFacts, Fault> {
        let before = overlays::state(ctx, frozen.guest).await?;
        frozen.begin(ctx, work).await?;
        let copied = self.copy_to(ctx, target).await?;
        frozen.end(ctx, before).await?;
        Ok(copied)
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
