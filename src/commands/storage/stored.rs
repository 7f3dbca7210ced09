//! Volumes of pools on their way to secondary storage or to another pool.

use super::files;
use crate::commands::{Ctx, Fault};
use crate::config::Secret;
use crate::journal::{Action, Work};
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::pools::{Pool, Secondary};
use crate::storage::qemu_img::ImageFormat;
use crate::storage::volumes::{Copy, VolumeFacts};
use std::path::{Path, PathBuf};

/// A volume of a pool.
pub(super) struct Stored<'a> {
    pub pool: &'a Pool,
    pub name: &'a VolumeName,
    /// Its header decides if there is none.
    pub format: Option<ImageFormat>,
    pub passphrase: Option<&'a Secret>,
}

impl Stored<'_> {
    /// Copies all that the volume has, its template included, into one file. A running guest would go on
    /// writing meanwhile, so there must not be one.
    pub async fn copy_to(
        &self,
        ctx: &Ctx,
        target: &Path,
        format: ImageFormat,
        passphrase: Option<&Secret>,
    ) -> Result<VolumeFacts, Fault> {
        let source = self.pool.volume(self.name);
        files::not_in_use(ctx, &source).await?;
        let roots = [self.pool.local_path.as_path()];
        let copy = Copy {
            format: self.format,
            source_passphrase: self.passphrase,
            target_passphrase: passphrase,
            ..Copy::new(&source, &roots, target, format)
        };
        Ok(ctx.services.storage.volumes.copy(copy, files::deadline(ctx)).await?.facts)
    }
}

/// A directory of secondary storage, mounted. What goes wrong in it is undone by its URL: after a restart
/// of the agent it is not mounted any more.
pub(super) struct Away<'a> {
    url: &'a str,
    directory: &'a RelativePath,
    mounted: Secondary,
}

impl<'a> Away<'a> {
    pub async fn open(ctx: &Ctx, url: &'a str, directory: &'a RelativePath) -> Result<Away<'a>, Fault> {
        let mounted = ctx.services.storage.pools.secondary(url).await?;
        Ok(Away { url, directory, mounted })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.under(self.mounted.path()).join(name)
    }

    /// Undoes the making of a file.
    pub fn remove(&self, name: &str) -> Action {
        let path = format!("{}/{name}", self.directory);
        Action::RemoveStored { url: self.url.to_owned(), path, directory: false }
    }

    /// Writes down that the directory, if it is about to be made, goes again. Those above it stay: others
    /// may put theirs beside it.
    pub async fn before_directory(&self, ctx: &Ctx, work: &mut Work) -> Result<(), Fault> {
        if !ctx.services.storage.disks.exists(&self.directory.under(self.mounted.path())).await? {
            let path = self.directory.to_string();
            work.before(Action::RemoveStored { url: self.url.to_owned(), path, directory: true }).await?;
        }
        Ok(())
    }

    pub async fn close(self) {
        files::give_back(self.mounted).await;
    }
}

/// Copies a volume to a directory of secondary storage, which is made if it is missing.
pub(super) async fn store_away(
    ctx: &Ctx,
    volume: Stored<'_>,
    url: &str,
    directory: &RelativePath,
    name: &VolumeName,
) -> Result<VolumeFacts, Fault> {
    let away = Away::open(ctx, url, directory).await?;
    let target = away.file(name.as_str());
    let subject = target.to_string_lossy().into_owned();
    let mut work = ctx.services.journal.begin("copy to secondary storage", &subject, &ctx.logid).await;
    let result = async {
        away.before_directory(ctx, &mut work).await?;
        work.before(away.remove(name.as_str())).await?;
        volume.copy_to(ctx, &target, ImageFormat::Qcow2, volume.passphrase).await
    };
    let result = result.await;
    let result = work.settle(result).await;
    away.close().await;
    result
}
