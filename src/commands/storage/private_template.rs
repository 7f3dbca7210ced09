//! Steps of `CopyCommand` that make a template of a volume: an image without a backing file on secondary
//! storage, and `template.properties` beside it, from which secondary storage knows it.

use super::files;
use super::stored::{Away, Stored};
use crate::commands::to::answers::NewTemplate;
use crate::commands::to::{TemplateObject, VolumeObject};
use crate::commands::{Ctx, Fault, place};
use crate::storage::disk::DEADLINE;
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::qemu_img::ImageFormat;
use crate::storage::volumes::VolumeFacts;
use crate::wire::Element;
use std::io;
use std::path::Path;
use uuid::Uuid;

const PROPERTIES: &str = "template.properties";
/// A larger file is none of CloudStack's.
const LARGEST: u64 = 64 * 1024;

pub(super) async fn from_volume(
    ctx: &Ctx,
    volume: &VolumeObject,
    template: &TemplateObject,
) -> Result<Element, Fault> {
    let (pool, source) = place::volume(ctx, volume).await?;
    let store = files::nfs(template.image_data_store.as_ref(), &format!("Template {}", template.name))?;
    let directory = RelativePath::new(template.path.as_deref().unwrap_or_default().trim_start_matches('/'))?;
    let secret = files::secret(&volume.passphrase)?;
    let format = volume.format.as_deref().and_then(ImageFormat::named);
    let volume = Stored { pool: &pool, name: &source, format, passphrase: secret.as_ref() };
    make(ctx, volume, &store.url, &directory).await
}

/// Makes the template `directory`/UUID.qcow2 and tells it as new data.
pub(super) async fn make(
    ctx: &Ctx,
    volume: Stored<'_>,
    url: &str,
    directory: &RelativePath,
) -> Result<Element, Fault> {
    let unique = Uuid::new_v4().to_string();
    ctx.services.touched.note(&unique);
    let file = VolumeName::new(&format!("{unique}.qcow2"))?;
    let away = Away::open(ctx, url, directory).await?;
    let result = write(ctx, &volume, &away, &unique, &file).await;
    away.close().await;
    let facts = result?;
    tracing::info!(volume = %volume.name, template = %unique, "Made a template of a volume");
    let new = NewTemplate {
        path: format!("{directory}/{file}"),
        size: Some(facts.virtual_size),
        physical_size: Some(facts.length),
        format: Some(files::format_name(ImageFormat::Qcow2)),
        name: Some(unique),
    };
    Ok(new.to_element()?)
}

async fn write(
    ctx: &Ctx,
    volume: &Stored<'_>,
    away: &Away<'_>,
    unique: &str,
    file: &VolumeName,
) -> Result<VolumeFacts, Fault> {
    let (target, properties) = (away.file(file.as_str()), away.file(PROPERTIES));
    let subject = target.to_string_lossy().into_owned();
    let mut work = ctx.services.journal.begin("make a template", &subject, &ctx.logid).await;
    let result = async {
        away.before_directory(ctx, &mut work).await?;
        work.before(away.remove(file.as_str())).await?;
        let facts = volume.copy_to(ctx, &target, ImageFormat::Qcow2, None).await?;
        let disks = &ctx.services.storage.disks;
        if !disks.exists(&properties).await? {
            work.before(away.remove(PROPERTIES)).await?;
        }
        let lines = lines(unique, file, &facts);
        disks.run("writing", &properties, DEADLINE, move |path| merge(path, &lines)).await?;
        Ok(facts)
    };
    let result = result.await;
    work.settle(result).await
}

fn lines(unique: &str, file: &VolumeName, facts: &VolumeFacts) -> Vec<(&'static str, String)> {
    vec![
        ("id", "1".to_owned()),
        ("public", "true".to_owned()),
        ("filename", file.to_string()),
        ("uniquename", unique.to_owned()),
        ("qcow2", "true".to_owned()),
        ("qcow2.filename", file.to_string()),
        ("qcow2.size", facts.length.to_string()),
        ("qcow2.virtualsize", facts.virtual_size.to_string()),
        ("virtualsize", facts.virtual_size.to_string()),
        ("size", facts.length.to_string()),
    ]
}

/// Replaces the lines that it has, adds the others. The file changes in one step.
fn merge(path: &Path, lines: &[(&str, String)]) -> io::Result<()> {
    let old = match path.symlink_metadata() {
        Ok(facts) if facts.len() > LARGEST || !facts.is_file() => {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(_) => std::fs::read_to_string(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let known = |line: &&str| {
        let key = line.split(['=', ':']).next().unwrap_or_default().trim();
        !lines.iter().any(|(name, _)| *name == key)
    };
    let mut text: String = old.lines().filter(known).map(|line| format!("{line}\n")).collect();
    text.extend(lines.iter().map(|(key, value)| format!("{key}={value}\n")));
    let beside = path.with_file_name(format!(".{PROPERTIES}.new"));
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}
