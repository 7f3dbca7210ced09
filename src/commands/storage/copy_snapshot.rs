//! Steps of `CopyCommand` for snapshots: from a pool to secondary storage, and from either to a volume.

use super::copy::{CopyCmdAnswer, Options};
use super::files::{self, Fetch};
use super::stored::Away;
use crate::commands::to::answers::{NewSnapshot, NewVolume};
use crate::commands::to::{Data, SnapshotObject, Store, VolumeObject};
use crate::commands::{Ctx, Fault, Reply, place};
use crate::config::Secret;
use crate::journal::Action;
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::pools::Pool;
use crate::storage::qemu_img::ImageFormat;
use crate::storage::volumes::{Copy, VolumeFacts};
use crate::wire::Element;
use std::path::{Path, PathBuf};

pub(super) async fn copy(
    ctx: &Ctx,
    snapshot: &SnapshotObject,
    dest: &Data,
    options: &Options,
) -> Result<Reply<CopyCmdAnswer>, Fault> {
    let primary = matches!(snapshot.data_store, Some(Store::Primary(_)));
    let new_data = match dest {
        Data::Snapshot(backup) if primary => back_up(ctx, snapshot, backup, options).await?,
        Data::Volume(volume) if primary => to_volume(ctx, snapshot, volume).await?,
        Data::Volume(volume) => fetch_to_volume(ctx, snapshot, volume).await?,
        Data::Snapshot(_) | Data::Template(_) | Data::Other { .. } => {
            return Err(Fault::new("operation not supported"));
        }
    };
    Ok(Reply::ok(CopyCmdAnswer::new(new_data)))
}

/// A snapshot on primary storage.
struct Kept {
    pool: Pool,
    /// An image of its own, or the volume that the snapshot is inside of.
    file: PathBuf,
    /// Of a snapshot inside a volume, which came with one of the whole guest.
    inside: Option<String>,
    name: VolumeName,
    secret: Option<Secret>,
}

impl Kept {
    async fn find(ctx: &Ctx, snapshot: &SnapshotObject) -> Result<Kept, Fault> {
        let path = snapshot.path.as_deref().unwrap_or_default();
        let what = format!("Snapshot {path}");
        let pool = place::pool(ctx, snapshot.data_store.as_ref(), &what).await?;
        let volume = snapshot.volume.as_ref();
        let secret = volume.map(|volume| files::secret(&volume.passphrase)).transpose()?.flatten();
        let name = VolumeName::last_of(path)?;
        let (file, inside) = if path.contains('/') {
            (RelativePath::below(&pool.local_path, path)?.under(&pool.local_path), None)
        } else {
            let volume = volume.ok_or_else(|| Fault::new(format!("{what} is not said of which volume")))?;
            (place::volume_file(ctx, volume).await?, Some(path.to_owned()))
        };
        Ok(Kept { pool, file, inside, name, secret })
    }

    async fn copy_to(&self, ctx: &Ctx, target: &Path) -> Result<VolumeFacts, Fault> {
        let roots = [self.pool.local_path.as_path()];
        let copy = Copy {
            source_passphrase: self.secret.as_ref(),
            target_passphrase: self.secret.as_ref(),
            snapshot: self.inside.as_deref(),
            ..Copy::new(&self.file, &roots, target, ImageFormat::Qcow2)
        };
        Ok(ctx.services.storage.volumes.copy(copy, files::deadline(ctx)).await?.facts)
    }
}

/// Whether the copy on primary storage goes when the one on secondary storage is complete.
fn is_moved(options: &Options) -> bool {
    let kept = options.get("snapshot.backup.to.secondary").and_then(Option::as_deref) == Some("false");
    !kept && !options.contains_key("typeDescription")
}

async fn back_up(
    ctx: &Ctx,
    snapshot: &SnapshotObject,
    backup: &SnapshotObject,
    options: &Options,
) -> Result<Element, Fault> {
    let kept = Kept::find(ctx, snapshot).await?;
    let store = files::nfs(backup.data_store.as_ref(), &format!("The copy of snapshot {}", kept.name))?;
    let directory = RelativePath::new(backup.path.as_deref().unwrap_or_default().trim_start_matches('/'))?;
    // The name of a snapshot of the guest is the same for all of its volumes.
    let name = if kept.inside.is_some() { files::random_name(ctx, "")? } else { kept.name.clone() };
    let away = Away::open(ctx, &store.url, &directory).await?;
    let target = away.file(name.as_str());
    let subject = target.to_string_lossy().into_owned();
    let mut work = ctx.services.journal.begin("copy to secondary storage", &subject, &ctx.logid).await;
    let result = async {
        away.before_directory(ctx, &mut work).await?;
        if !ctx.services.storage.disks.exists(&target).await? {
            work.before(away.remove(name.as_str())).await?;
        }
        let facts = kept.copy_to(ctx, &target).await?;
        if kept.inside.is_none() && is_moved(options) {
            // Others may be based on it, if an agent that takes incremental ones has made it.
            match ctx.services.storage.volumes.unused(&kept.pool.local_path, &kept.file).await {
                Ok(()) => work.after_commit(Action::RemoveFile { path: kept.file.clone() }).await?,
                Err(error) => tracing::warn!("The snapshot stays: {}", crate::errors::chain(&error)),
            }
        }
        Ok::<VolumeFacts, Fault>(facts)
    };
    let result = result.await;
    let result = work.settle(result).await;
    away.close().await;
    let facts = result?;
    let path = format!("{directory}/{name}");
    tracing::info!(snapshot = %kept.name, path, "Snapshot is on secondary storage");
    let new = NewSnapshot { path, physical_size: Some(facts.length), ..NewSnapshot::default() };
    Ok(new.to_element()?)
}

async fn to_volume(ctx: &Ctx, snapshot: &SnapshotObject, volume: &VolumeObject) -> Result<Element, Fault> {
    let kept = Kept::find(ctx, snapshot).await?;
    let name = target_name(ctx, volume)?;
    let pool = place::pool(ctx, volume.data_store.as_ref(), &format!("Volume {name}")).await?;
    let target = pool.volume(&name);
    let copy = kept.copy_to(ctx, &target);
    let facts = files::new_file(ctx, "make a volume of a snapshot", &target, copy).await?;
    new_volume(&name, &facts, kept.secret.as_ref())
}

async fn fetch_to_volume(
    ctx: &Ctx,
    snapshot: &SnapshotObject,
    volume: &VolumeObject,
) -> Result<Element, Fault> {
    let path = snapshot.path.as_deref().unwrap_or_default();
    let store = files::nfs(snapshot.data_store.as_ref(), &format!("Snapshot {path}"))?;
    let (directory, file) = files::split(&store.url, path)?;
    if file.is_empty() {
        return Err(Fault::new(format!("{path:?} is not the path of a snapshot")));
    }
    let of = snapshot.volume.as_ref();
    let secret = of.map(|of| files::secret(&of.passphrase)).transpose()?.flatten();
    let name = target_name(ctx, volume)?;
    let pool = place::pool(ctx, volume.data_store.as_ref(), &format!("Volume {name}")).await?;
    let fetch = Fetch {
        directory: &directory,
        file: &file,
        format: of.and_then(|of| of.format.as_deref()).and_then(ImageFormat::named),
        pool: &pool,
        name: &name,
        size: None,
        passphrase: secret.as_ref(),
    };
    let facts = files::fetch(ctx, fetch).await?;
    new_volume(&name, &facts, secret.as_ref())
}

fn target_name(ctx: &Ctx, volume: &VolumeObject) -> Result<VolumeName, Fault> {
    match volume.path.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => Ok(VolumeName::last_of(path)?),
        None => files::random_name(ctx, ""),
    }
}

fn new_volume(name: &VolumeName, facts: &VolumeFacts, secret: Option<&Secret>) -> Result<Element, Fault> {
    tracing::info!(volume = %facts.path.display(), "Volume is made of a snapshot");
    let new = NewVolume {
        path: name.to_string(),
        size: Some(facts.virtual_size),
        format: Some(files::format_name(facts.format)),
        encrypt_format: files::encrypt_format(secret),
    };
    Ok(new.to_element()?)
}
