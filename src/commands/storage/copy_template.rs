//! Steps of `CopyCommand` for templates: from secondary storage into a pool, and from there to the root
//! disk of a guest.

use super::files::{self, Fetch};
use crate::commands::to::answers::{NewTemplate, NewVolume};
use crate::commands::to::{Data, TemplateObject, VolumeObject};
use crate::commands::{Ctx, Fault, place};
use crate::storage::names::VolumeName;
use crate::storage::qemu_img::{ImageFormat, Provisioning};
use crate::storage::volumes::{self, Copy, VolumeFacts};
use crate::wire::Element;

/// Where root disks of type thin are not to depend on their template (4.21).
const FULL_CLONE: &str = "create.full.clone";

/// The name that a template gets in a pool.
pub(super) fn name(template: &TemplateObject) -> &str {
    &template.uuid
}

/// Copies a template from secondary storage into a pool, as a template or at once as a volume.
pub(super) async fn to_primary(ctx: &Ctx, template: &TemplateObject, dest: &Data) -> Result<Element, Fault> {
    let what = format!("Template {}", template.name);
    let store = files::nfs(template.image_data_store.as_ref(), &what)?;
    let path = template.path.as_deref().unwrap_or_default();
    let (directory, file) = files::split(&store.url, path)?;
    let (target, size) = match dest {
        Data::Template(dest) => (VolumeName::new(name(dest))?, None),
        Data::Volume(volume) => (VolumeName::new(&volume.uuid)?, u64::try_from(volume.size).ok()),
        Data::Snapshot(_) | Data::Other { .. } => return Err(Fault::new("operation not supported")),
    };
    let pool = place::pool(ctx, dest.store(), &what).await?;
    let fetch = Fetch {
        directory: &directory,
        file: &file,
        format: template.format.as_deref().and_then(ImageFormat::named),
        pool: &pool,
        name: &target,
        size,
        passphrase: None,
    };
    let facts = files::fetch(ctx, fetch).await?;
    let (path, format) = (target.to_string(), Some(files::format_name(facts.format)));
    let size = Some(facts.virtual_size);
    Ok(match dest {
        Data::Volume(_) => NewVolume { path, size, format, ..NewVolume::default() }.to_element()?,
        _ => NewTemplate { path, size, format, ..NewTemplate::default() }.to_element()?,
    })
}

/// Makes the root disk of a guest from a template in a pool.
pub(super) async fn clone(
    ctx: &Ctx,
    template: &TemplateObject,
    volume: &VolumeObject,
) -> Result<Element, Fault> {
    let base = VolumeName::last_of(template.path.as_deref().unwrap_or_default())?;
    let name = VolumeName::new(&volume.uuid)?;
    let pools = (
        place::pool(ctx, template.image_data_store.as_ref(), &format!("Template {base}")).await?,
        place::pool(ctx, volume.data_store.as_ref(), &format!("Volume {name}")).await?,
    );
    let (from, pool) = (&pools.0, &pools.1);
    let secret = files::secret(&volume.passphrase)?;
    let new = volumes::NewVolume {
        pool,
        name: &name,
        format: pool.format,
        size: u64::try_from(volume.size).unwrap_or_default(),
        provisioning: Provisioning::named(volume.provisioning_type.as_deref().unwrap_or_default()),
        passphrase: secret.as_ref(),
    };
    let full = ctx.config()?.boolean(FULL_CLONE).unwrap_or(false);
    let target = pool.volume(&name);
    let made = files::new_file(ctx, "make a volume from a template", &target, async {
        let volumes = &ctx.services.storage.volumes;
        if from.uuid == pool.uuid {
            return Ok(volumes.clone_from_template(&base, new, full, files::deadline(ctx)).await?);
        }
        // An overlay must not depend on another pool.
        let (source, roots) = (from.volume(&base), [from.local_path.as_path()]);
        let copy = Copy {
            provisioning: new.provisioning,
            target_passphrase: new.passphrase,
            size: Some(new.size),
            ..Copy::new(&source, &roots, &target, new.format)
        };
        Ok::<VolumeFacts, Fault>(volumes.copy(copy, files::deadline(ctx)).await?.facts)
    });
    let facts = made.await?;
    tracing::info!(volume = %facts.path.display(), template = %base, "Volume is made from its template");
    let new = NewVolume {
        path: name.to_string(),
        // Smaller than asked for where the header of an encrypted image is counted.
        size: Some(facts.virtual_size.max(new.size)),
        format: Some(files::format_name(facts.format)),
        encrypt_format: files::encrypt_format(secret.as_ref()),
    };
    Ok(new.to_element()?)
}
