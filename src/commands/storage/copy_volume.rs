//! Steps of the commands that copy volumes: from and to secondary storage, and between pools.

use super::files::{self, Fetch};
use super::stored::{Stored, store_away};
use crate::commands::to::VolumeObject;
use crate::commands::to::answers::NewVolume;
use crate::commands::{Ctx, Fault, place};
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::qemu_img::ImageFormat;
use crate::storage::volumes::VolumeFacts;
use crate::wire::Element;

const QCOW2: &str = ".qcow2";

pub(super) async fn from_secondary(
    ctx: &Ctx,
    from: &VolumeObject,
    to: &VolumeObject,
) -> Result<Element, Fault> {
    let what = format!("Volume {}", from.uuid);
    let store = files::nfs(from.data_store.as_ref(), &what)?;
    let (directory, mut file) = files::split(&store.url, from.path.as_deref().unwrap_or_default())?;
    if file.is_empty() {
        return Err(Fault::new(format!("{what} has no path on secondary storage")));
    }
    let format = from.format.as_deref().and_then(ImageFormat::named);
    if format == Some(ImageFormat::Qcow2) && !file.ends_with(QCOW2) {
        file.push_str(QCOW2);
    }
    let pool = place::pool(ctx, to.data_store.as_ref(), &what).await?;
    let name = files::random_name(ctx, "")?;
    let secret = files::secret(&from.passphrase)?;
    let fetch = Fetch {
        directory: &directory,
        file: &file,
        format,
        pool: &pool,
        name: &name,
        size: None,
        passphrase: secret.as_ref(),
    };
    let facts = files::fetch(ctx, fetch).await?;
    let format = Some(files::format_name(facts.format));
    let encrypt_format = files::encrypt_format(secret.as_ref());
    Ok(NewVolume { path: name.to_string(), size: None, format, encrypt_format }.to_element()?)
}

pub(super) async fn to_secondary(
    ctx: &Ctx,
    from: &VolumeObject,
    to: &VolumeObject,
) -> Result<Element, Fault> {
    let (pool, source) = place::volume(ctx, from).await?;
    let store = files::nfs(to.data_store.as_ref(), &format!("The copy of volume {source}"))?;
    let directory = RelativePath::new(to.path.as_deref().unwrap_or_default().trim_start_matches('/'))?;
    let name = files::random_name(ctx, QCOW2)?;
    let secret = files::secret(&from.passphrase)?;
    let format = from.format.as_deref().and_then(ImageFormat::named);
    let volume = Stored { pool: &pool, name: &source, format, passphrase: secret.as_ref() };
    store_away(ctx, volume, &store.url, &directory, &name).await?;
    let new = NewVolume {
        path: format!("{directory}/{name}"),
        format: Some(files::format_name(ImageFormat::Qcow2)),
        encrypt_format: files::encrypt_format(secret.as_ref()),
        size: None,
    };
    Ok(new.to_element()?)
}

/// Moves a volume of a guest that does not run to another pool; the server deletes the old one.
pub(super) async fn between_pools(
    ctx: &Ctx,
    from: &VolumeObject,
    to: &VolumeObject,
) -> Result<Element, Fault> {
    let name = files::random_name(ctx, QCOW2)?;
    let facts = move_to(ctx, from, to, &name).await?;
    let encrypt_format = if from.passphrase.is_empty() {
        None
    } else {
        from.encrypt_format.clone().or_else(|| Some("luks".to_owned()))
    };
    let new = NewVolume {
        path: name.to_string(),
        format: Some(files::format_name(facts.format)),
        encrypt_format,
        size: None,
    };
    Ok(new.to_element()?)
}

/// Copies a volume to another pool, under `name`.
pub(super) async fn move_to(
    ctx: &Ctx,
    from: &VolumeObject,
    to: &VolumeObject,
    name: &VolumeName,
) -> Result<VolumeFacts, Fault> {
    let (pool, source) = place::volume(ctx, from).await?;
    let dest = place::pool(ctx, to.data_store.as_ref(), &format!("The copy of volume {source}")).await?;
    let secret = files::secret(&from.passphrase)?;
    let format = from.format.as_deref().and_then(ImageFormat::named);
    let volume = Stored { pool: &pool, name: &source, format, passphrase: secret.as_ref() };
    let target = dest.volume(name);
    let copy = volume.copy_to(ctx, &target, dest.format, secret.as_ref());
    let facts = files::new_file(ctx, "copy to another pool", &target, copy).await?;
    tracing::info!(from = %source, to = %target.display(), "Volume is copied to another pool");
    Ok(facts)
}
