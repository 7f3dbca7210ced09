//! Steps of `CreateObjectCommand` for volumes: an empty one, or the file that the disk of a guest is
//! migrated onto.

use super::files;
use crate::commands::to::VolumeObject;
use crate::commands::to::answers::NewVolume;
use crate::commands::to::data::MigrationOptions;
use crate::commands::{Ctx, Fault, place};
use crate::journal::Action;
use crate::storage::names::VolumeName;
use crate::storage::pools::{Pool, PoolRef};
use crate::storage::qemu_img::{ImageFormat, Provisioning};
use crate::storage::volumes::{self, Copy, VolumeFacts};
use crate::wire::Element;

pub(super) async fn create(ctx: &Ctx, volume: &VolumeObject) -> Result<Element, Fault> {
    let name = VolumeName::new(&volume.uuid)?;
    let what = format!("Volume {name}");
    let size = files::size(volume.size, &what)?;
    let pool = place::pool(ctx, volume.data_store.as_ref(), &what).await?;
    let secret = files::secret(&volume.passphrase)?;
    let format = match volume.format.as_deref().filter(|format| !format.is_empty()) {
        None => pool.format,
        Some(format) => ImageFormat::named(format)
            .ok_or_else(|| Fault::new(format!("{what} cannot be of format {format:?}: use QCOW2 or RAW")))?,
    };
    let new = volumes::NewVolume {
        pool: &pool,
        name: &name,
        format,
        size,
        provisioning: Provisioning::named(volume.provisioning_type.as_deref().unwrap_or_default()),
        passphrase: secret.as_ref(),
    };
    let facts = match &volume.migration_options {
        Some(options) if options.kind.eq_ignore_ascii_case("LinkedClone") => {
            linked(ctx, new, options).await?
        }
        Some(_) | None => {
            let create = async { Ok(ctx.services.storage.volumes.create_empty(new).await?) };
            files::new_file(ctx, "create a volume", &pool.volume(&name), create).await?
        }
    };
    tracing::info!(volume = %facts.path.display(), size, "Volume is created");
    let new = NewVolume {
        path: name.to_string(),
        size: Some(size),
        format: Some(files::format_name(facts.format)),
        encrypt_format: files::encrypt_format(secret.as_ref()),
    };
    Ok(new.to_element()?)
}

/// An overlay over the template that the disk of the migrated guest is based on. A template that the pool
/// does not have comes along.
async fn linked(
    ctx: &Ctx,
    new: volumes::NewVolume<'_>,
    options: &MigrationOptions,
) -> Result<VolumeFacts, Fault> {
    let template = VolumeName::last_of(&options.src_backing_file_path)?;
    let (base, target) = (new.pool.volume(&template), new.pool.volume(new.name));
    let mut work = ctx
        .services
        .journal
        .begin("create a volume to migrate to", &target.to_string_lossy(), &ctx.logid)
        .await;
    let storage = &ctx.services.storage;
    let result = async {
        if !storage.disks.exists(&base).await? {
            let from = source_pool(ctx, new.pool, options).await?;
            work.before(Action::RemoveFile { path: base.clone() }).await?;
            let (source, roots) = (from.volume(&template), [from.local_path.as_path()]);
            let copy = Copy::new(&source, &roots, &base, ImageFormat::Qcow2);
            storage.volumes.copy(copy, files::deadline(ctx)).await?;
        }
        if !storage.disks.exists(&target).await? {
            work.before(Action::RemoveFile { path: target.clone() }).await?;
        }
        Ok(storage.volumes.clone_from_template(&template, new, false, files::deadline(ctx)).await?)
    };
    let result = result.await;
    work.settle(result).await
}

async fn source_pool(ctx: &Ctx, own: &Pool, options: &MigrationOptions) -> Result<Pool, Fault> {
    let missing = |why: &str| {
        let template = &options.src_backing_file_path;
        Fault::new(format!("Storage pool {} lacks the template {template:?}, {why}", own.uuid))
    };
    if options.scope_type.eq_ignore_ascii_case("HOST") {
        return Err(missing("and the other host's pool cannot be read here: copy the template first"));
    }
    if options.src_pool_uuid.eq_ignore_ascii_case(&own.uuid.to_string()) {
        return Err(missing("where it should be: deploy a guest from the template there first"));
    }
    let kind = Some(options.src_pool_type.as_str());
    Ok(ctx
        .services
        .storage
        .pools
        .get(PoolRef { uuid: &options.src_pool_uuid, kind, ..PoolRef::default() })
        .await?)
}
