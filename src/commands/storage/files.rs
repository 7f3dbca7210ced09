//! Steps that the commands about volumes have in common.

use crate::commands::to::{NfsStore, Passphrase, Store};
use crate::commands::{Ctx, Fault};
use crate::config::Secret;
use crate::hypervisor::{Flavour, PowerState, xml};
use crate::journal::{Action, Work};
use crate::storage::disk::DEADLINE;
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::pools::{Pool, Secondary};
use crate::storage::qemu_img::ImageFormat;
use crate::storage::volumes::{Copy, VolumeFacts};
use std::future::Future;
use std::path::{Path, PathBuf};
use uuid::Uuid;

pub(super) use super::direct_download::deadline;
pub(super) use crate::commands::place::split;

/// Makes a file so that an error, or the end of the agent, leaves no trace of it. One that was there
/// before is kept whatever happens.
pub(super) async fn new_file<T: Send>(
    ctx: &Ctx,
    operation: &str,
    path: &Path,
    make: impl Future<Output = Result<T, Fault>> + Send,
) -> Result<T, Fault> {
    let mut work = ctx.services.journal.begin(operation, &path.to_string_lossy(), &ctx.logid).await;
    let result = async {
        if !ctx.services.storage.disks.exists(path).await? {
            work.before(Action::RemoveFile { path: path.to_owned() }).await?;
        }
        make.await
    };
    let result = result.await;
    work.settle(result).await
}

/// Writes down that a directory, if it is about to be made, goes again.
pub(super) async fn before_directory(ctx: &Ctx, work: &mut Work, directory: &Path) -> Result<(), Fault> {
    if !ctx.services.storage.disks.exists(directory).await? {
        work.before(Action::RemoveDirectory { path: directory.to_owned() }).await?;
    }
    Ok(())
}

/// The passphrase of an encrypted volume.
pub(super) fn secret(passphrase: &Passphrase) -> Result<Option<Secret>, Fault> {
    if passphrase.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(passphrase.bytes());
    let text = text.map_err(|_| Fault::new("The passphrase of the volume is not text"))?;
    Ok(Some(Secret::new(text)))
}

/// What answers say of an encrypted volume.
pub(super) fn encrypt_format(secret: Option<&Secret>) -> Option<String> {
    secret.map(|_| "luks".to_owned())
}

/// CloudStack's name of the format.
pub(super) fn format_name(format: ImageFormat) -> String {
    format.as_str().to_ascii_uppercase()
}

/// Bytes as they are on the wire.
pub(super) fn size(bytes: i64, what: &str) -> Result<u64, Fault> {
    let size = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0);
    size.ok_or_else(|| Fault::new(format!("{what} cannot have a size of {bytes} bytes")))
}

/// A name that the agent makes up.
pub(super) fn random_name(ctx: &Ctx, extension: &str) -> Result<VolumeName, Fault> {
    let name = VolumeName::new(&format!("{}{extension}", Uuid::new_v4()))?;
    ctx.services.touched.note(name.as_str());
    Ok(name)
}

/// A disk of a guest that is not off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskUser {
    pub guest: String,
    /// Such as "vda".
    pub device: String,
    /// Whether the guest writes to the file itself, and not to one that is based on it.
    pub on_top: bool,
}

/// Who has the file open.
pub(super) async fn users(ctx: &Ctx, path: &Path) -> Result<Vec<DiskUser>, Fault> {
    let mut users = Vec::new();
    for guest in ctx.services.hypervisor.documents(Flavour::Live).await? {
        if guest.state.power() == PowerState::Off {
            continue;
        }
        let described = xml::domain(&guest.xml).map_err(|error| Fault::from_error(&error))?;
        for disk in described.disks {
            let on_top = disk.source.as_deref().is_some_and(|source| Path::new(source) == path);
            if on_top || disk.backing.iter().any(|layer| Path::new(layer) == path) {
                users.push(DiskUser { guest: guest.name.clone(), device: disk.target, on_top });
            }
        }
    }
    Ok(users)
}

/// Fails if a guest has the file open.
pub(super) async fn not_in_use(ctx: &Ctx, path: &Path) -> Result<(), Fault> {
    match users(ctx, path).await?.first() {
        None => Ok(()),
        Some(DiskUser { guest, device, .. }) => Err(Fault::new(format!(
            "{} is disk {device} of {guest}, which runs: stop the guest or detach the disk first",
            path.display()
        ))),
    }
}

/// Secondary storage that can be mounted.
pub(super) fn nfs<'a>(store: Option<&'a Store>, what: &str) -> Result<&'a NfsStore, Fault> {
    store.and_then(Store::nfs).ok_or_else(|| {
        Fault::new(format!(
            "{what} is not on NFS: unsupported protocol, this agent can only handle nfs storage"
        ))
    })
}

/// Gives secondary storage back. That it cannot be unmounted is no failure of the command.
pub(super) async fn give_back(mounted: Secondary) {
    if let Err(error) = mounted.release().await {
        tracing::warn!("{}", crate::errors::chain(&error));
    }
}

/// A file on secondary storage that becomes a volume or a template of a pool.
pub(super) struct Fetch<'a> {
    /// URL of the file's directory.
    pub directory: &'a str,
    /// The first qcow2 image in the directory if it is empty.
    pub file: &'a str,
    pub format: Option<ImageFormat>,
    pub pool: &'a Pool,
    pub name: &'a VolumeName,
    /// The volume is made larger if the file is smaller than this.
    pub size: Option<u64>,
    pub passphrase: Option<&'a Secret>,
}

/// Copies a file from secondary storage into a pool.
pub(super) async fn fetch(ctx: &Ctx, fetch: Fetch<'_>) -> Result<VolumeFacts, Fault> {
    let mounted = ctx.services.storage.pools.secondary(fetch.directory).await?;
    let target = fetch.pool.volume(fetch.name);
    let copied = new_file(ctx, "copy from secondary storage", &target, async {
        let source = find(ctx, mounted.path(), fetch.file).await?;
        let roots = [mounted.path()];
        let copy = Copy {
            format: fetch.format,
            size: fetch.size,
            source_passphrase: fetch.passphrase,
            target_passphrase: fetch.passphrase,
            ..Copy::new(&source, &roots, &target, fetch.pool.format)
        };
        Ok(ctx.services.storage.volumes.copy(copy, deadline(ctx)).await?)
    });
    let copied = copied.await;
    give_back(mounted).await;
    let copied = copied?;
    tracing::info!(volume = %target.display(), kept = copied.kept, "Copied from secondary storage");
    Ok(copied.facts)
}

async fn find(ctx: &Ctx, directory: &Path, file: &str) -> Result<PathBuf, Fault> {
    if !file.is_empty() {
        return Ok(RelativePath::new(file)?.under(directory));
    }
    let list = |path: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(path)?.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        Ok(names.into_iter().find(|name| name.to_string_lossy().ends_with("qcow2")))
    };
    let name = ctx.services.storage.disks.run("listing", directory, DEADLINE, list).await?;
    let name = name.ok_or_else(|| Fault::new("There is no qcow2 image in the template's directory"))?;
    Ok(directory.join(name))
}
