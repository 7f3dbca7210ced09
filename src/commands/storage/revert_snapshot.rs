//! `org.apache.cloudstack.storage.command.RevertSnapshotCommand`: a volume of a guest that does not run
//! becomes what it was. The volume is replaced in one step, so that a failure leaves it as it is.

use super::files;
use crate::commands::to::{Data, SnapshotObject, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply, place};
use crate::config::Secret;
use crate::storage::names::RelativePath;
use crate::storage::pools::Pool;
use crate::storage::volumes::{Copy, Existing};
use crate::wire::lenient;
use std::path::{Path, PathBuf};

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevertSnapshotCommand {
    /// Where the server keeps the snapshot.
    #[serde(default, deserialize_with = "lenient::or_default")]
    data: SnapshotObject,
    /// The same in the volume's pool, if it is there too.
    #[serde(default)]
    data_on_primary_storage: Option<SnapshotObject>,
}

impl Command for RevertSnapshotCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        let Some(volume) = &self.data.volume else { return Claims::none() };
        let guest = volume.vm_name.clone().or_else(|| self.data.vm_name.clone()).map(Key::Guest);
        let kept = self.data_on_primary_storage.clone().unwrap_or_else(|| self.data.clone());
        place::shared(&Data::Snapshot(Box::new(kept)))
            .and(place::exclusive(&Data::Volume(Box::new(volume.clone()))))
            .and(guest.map_or_else(Claims::none, Claims::from))
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let volume = self.data.volume.as_ref();
        let volume = volume.ok_or_else(|| Fault::new("The command does not say which volume to revert"))?;
        let (pool, name) = place::volume(&ctx, volume).await?;
        let target = Target { path: pool.volume(&name), secret: files::secret(&volume.passphrase)?, pool };
        files::not_in_use(&ctx, &target.path).await?;
        match self.on_primary(&ctx, volume, &target.pool).await? {
            Some(source) => target.revert_to(&ctx, &source, &target.pool.local_path).await?,
            None => {
                let store = files::nfs(self.data.data_store.as_ref(), &format!("The snapshot of {name}"))?;
                let path = self.data.path.as_deref().unwrap_or_default();
                let inside = RelativePath::new(path.trim_start_matches('/'))?;
                let mounted = ctx.services.storage.pools.secondary(&store.url).await?;
                let source = inside.under(mounted.path());
                let reverted = target.revert_to(&ctx, &source, mounted.path()).await;
                files::give_back(mounted).await;
                reverted?;
            }
        }
        tracing::info!(volume = %target.path.display(), snapshot = self.data.name, "Volume is reverted");
        Ok(Reply::done().details("RevertSnapshotCommand executes successfully"))
    }
}

impl RevertSnapshotCommand {
    /// The snapshot's file in a pool, if there is one.
    async fn on_primary(&self, ctx: &Ctx, of: &VolumeObject, pool: &Pool) -> Result<Option<PathBuf>, Fault> {
        for kept in self.data_on_primary_storage.iter().chain([&self.data]) {
            let store = kept.data_store.as_ref().or(of.data_store.as_ref());
            let Some(store) = store.and_then(|store| store.primary()) else { continue };
            let path = kept.path.as_deref().unwrap_or_default();
            if store.uuid.eq_ignore_ascii_case(&pool.uuid.to_string()) && path.contains('/') {
                let file = RelativePath::below(&pool.local_path, path)?.under(&pool.local_path);
                if ctx.services.storage.disks.exists(&file).await? {
                    return Ok(Some(file));
                }
            }
        }
        Ok(None)
    }
}

/// The volume that is reverted.
struct Target {
    pool: Pool,
    path: PathBuf,
    secret: Option<Secret>,
}

impl Target {
    async fn revert_to(&self, ctx: &Ctx, source: &Path, root: &Path) -> Result<(), Fault> {
        let roots = [root];
        let copy = Copy {
            source_passphrase: self.secret.as_ref(),
            target_passphrase: self.secret.as_ref(),
            existing: Existing::Replace,
            ..Copy::new(source, &roots, &self.path, self.pool.format)
        };
        let volumes = &ctx.services.storage.volumes;
        let copied = async { Ok(volumes.copy(copy, files::deadline(ctx)).await?) };
        files::new_file(ctx, "revert a volume", &self.path, copied).await.map(drop)
    }
}
