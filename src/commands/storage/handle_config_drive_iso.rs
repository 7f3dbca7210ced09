//! `com.cloud.agent.api.HandleConfigDriveIsoCommand`: writes or removes the disc on which a guest finds
//! its settings, made by the server.
//!
//! It is on the host itself, on primary storage if that is NFS, or on secondary storage. The new disc
//! takes the place of the old one at once: whoever reads it gets one of the two.

use super::files;
use crate::commands::to::Store;
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply, place, secret};
use crate::config::Secret;
use crate::journal::Action;
use crate::storage::disk::DEADLINE;
use crate::storage::names::RelativePath;
use crate::storage::pools::{Pool, PoolError, PoolKind};
use crate::storage::volumes::Partial;
use crate::wire::{base64, lenient};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// It has passwords in it; libvirt gives it to QEMU's user when the guest starts.
const MODE: u32 = 0o640;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleConfigDriveIsoCommand {
    /// The whole image in base64; none to remove it.
    #[serde(default = "secret::none", deserialize_with = "secret::text")]
    iso_data: Secret,
    /// `configdrive/i-2-5-VM.iso`
    #[serde(default, deserialize_with = "lenient::or_default")]
    iso_file: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    create: bool,
    #[serde(default)]
    dest_store: Option<Store>,
    #[serde(default, deserialize_with = "lenient::flag")]
    use_host_cache_on_unsupported_pool: bool,
    #[serde(default, deserialize_with = "lenient::flag")]
    prefer_host_cache: bool,
}

/// Constant of `com.cloud.network.element.NetworkElement.Location`. The server gives it back when it
/// starts the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Location {
    Host,
    Primary,
    Secondary,
}

#[derive(Debug, serde::Serialize)]
pub struct HandleConfigDriveIsoAnswer {
    location: Location,
}

impl Command for HandleConfigDriveIsoCommand {
    type Answer = HandleConfigDriveIsoAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.HandleConfigDriveIsoAnswer";

    fn claims(&self) -> Claims {
        let name = self.iso_file.rsplit('/').next().unwrap_or_default();
        Key::Guest(name.strip_suffix(".iso").unwrap_or(name).to_owned()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<HandleConfigDriveIsoAnswer>, Fault> {
        let file = self.file()?;
        let location = if self.create {
            self.write(&ctx, &file).await?
        } else {
            self.remove(&ctx, &file).await?;
            // What the reference agent says of every removal.
            Location::Secondary
        };
        Ok(Reply::ok(HandleConfigDriveIsoAnswer { location }))
    }
}

impl HandleConfigDriveIsoCommand {
    /// Only what is a config drive by its name: other files of a pool are not written this way.
    fn file(&self) -> Result<RelativePath, Fault> {
        let path = RelativePath::new(&self.iso_file)?;
        let named = path.as_str().starts_with("configdrive/") && path.as_str().ends_with(".iso");
        if named {
            return Ok(path);
        }
        Err(Fault::new(format!(
            "{:?} is not the path of a config drive: configdrive/GUEST.iso is",
            path.as_str()
        )))
    }

    fn image(&self) -> Result<Vec<u8>, Fault> {
        let image = base64::decode(self.iso_data.expose()).filter(|image| !image.is_empty());
        image.ok_or_else(|| Fault::new("Invalid config drive ISO data received"))
    }

    async fn write(&self, ctx: &Ctx, file: &RelativePath) -> Result<Location, Fault> {
        let cache = place::config_drives(&*ctx.config()?);
        if self.prefer_host_cache {
            put(ctx, &cache, None, file, self.image()?).await?;
            return Ok(Location::Host);
        }
        if let Some(Store::Nfs(store)) = &self.dest_store {
            let mounted = ctx.services.storage.pools.secondary(&store.url).await?;
            let written = match self.image() {
                Ok(image) => put(ctx, mounted.path(), Some(&store.url), file, image).await,
                Err(fault) => Err(fault),
            };
            files::give_back(mounted).await;
            return written.map(|()| Location::Secondary);
        }
        match self.pool(ctx).await? {
            Ok(pool) => {
                put(ctx, &pool.local_path, None, file, self.image()?).await?;
                Ok(Location::Primary)
            }
            Err(_) if self.use_host_cache_on_unsupported_pool => {
                put(ctx, &cache, None, file, self.image()?).await?;
                Ok(Location::Host)
            }
            Err(kind) => {
                Err(Fault::new(format!("Config drive for KVM is not supported for pool type: {kind}")))
            }
        }
    }

    /// The pool if it can have config drives, else its type.
    async fn pool(&self, ctx: &Ctx) -> Result<Result<Pool, String>, Fault> {
        let Some(Store::Primary(store)) = &self.dest_store else {
            let uuid = self.dest_store.as_ref().map_or("null", Store::uuid);
            return Err(Fault::new(format!("Unable to create config drive, Pool {uuid} not found")));
        };
        match ctx.services.storage.pools.get(store.reference()).await {
            Ok(pool) if pool.kind == PoolKind::NetworkFilesystem => Ok(Ok(pool)),
            Ok(pool) => Ok(Err(pool.kind.as_str().to_owned())),
            Err(PoolError::Unsupported { kind }) => Ok(Err(kind)),
            Err(error) => {
                let reason = Fault::from_error(&error);
                let text = format!("Unable to create config drive, Pool {} not found: {reason}", store.uuid);
                Err(Fault::new(text))
            }
        }
    }

    /// A disc that is not there, or a pool that cannot have any, is as good as removed.
    async fn remove(&self, ctx: &Ctx, file: &RelativePath) -> Result<(), Fault> {
        let disks = &ctx.services.storage.disks;
        let path = if self.prefer_host_cache {
            file.under(&place::config_drives(&*ctx.config()?))
        } else {
            match &self.dest_store {
                Some(Store::Nfs(store)) => {
                    let mounted = ctx.services.storage.pools.secondary(&store.url).await?;
                    let deleted = disks.delete(&file.under(mounted.path())).await;
                    files::give_back(mounted).await;
                    return Ok(deleted?);
                }
                Some(Store::Primary(store)) => {
                    match ctx.services.storage.pools.get(store.reference()).await {
                        Ok(pool) if pool.kind == PoolKind::NetworkFilesystem => file.under(&pool.local_path),
                        Ok(_) | Err(PoolError::Unknown { .. } | PoolError::Unsupported { .. }) => {
                            return Ok(());
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Some(Store::Other { .. }) | None => return Ok(()),
            }
        };
        disks.delete(&path).await?;
        tracing::info!(path = %path.display(), "Config drive is removed");
        Ok(())
    }
}

/// Writes the image beside its place, then puts it there. Secondary storage has its URL: after a restart
/// it is not mounted any more.
async fn put(
    ctx: &Ctx,
    directory: &Path,
    url: Option<&str>,
    file: &RelativePath,
    image: Vec<u8>,
) -> Result<(), Fault> {
    let path = file.under(directory);
    let disks = &ctx.services.storage.disks;
    let journal = &ctx.services.journal;
    let mut work = journal.begin("write a config drive", &path.to_string_lossy(), &ctx.logid).await;
    let result = async {
        let partial = Partial::beside(&path, disks).await?.with_mode(MODE);
        let unfinished = partial.path().to_owned();
        work.before(match url {
            None => Action::RemoveFile { path: unfinished },
            Some(url) => {
                let inside = unfinished.strip_prefix(directory).unwrap_or(&unfinished);
                let path = inside.to_string_lossy().into_owned();
                Action::RemoveStored { url: url.to_owned(), path, directory: false }
            }
        })
        .await?;
        let write = disks.run("writing", partial.path(), DEADLINE, move |path| {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
            file.write_all(&image)
        });
        write.await?;
        // Servers send it anew before each start of the guest.
        Ok::<(), Fault>(partial.commit_lazily(disks, DEADLINE).await?)
    };
    let result = result.await;
    work.settle(result).await?;
    tracing::info!(path = %path.display(), "Config drive is written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::MODE;
    use crate::commands::storage::testing::Secondary;
    use crate::commands::testing::{Bench, POOL};
    use crate::journal::faults::{Fault, Faults};
    use crate::storage::testing::{Nfs, Small, until_gone};
    use serde_json::{Value, json};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    const CLASS: &str = "com.cloud.agent.api.HandleConfigDriveIsoCommand";
    const ANSWER: &str = "com.cloud.agent.api.HandleConfigDriveIsoAnswer";
    const FILE: &str = "configdrive/i-2-5-VM.iso";

    /// On the host, with other members as given.
    fn command(members: &[(&str, Value)]) -> Value {
        let mut command = json!({"isoData": "Zm9vYmFy", "isoFile": FILE, "create": true,
            "useHostCacheOnUnsupportedPool": false, "preferHostCache": false});
        for (member, value) in members {
            command[*member] = value.clone();
        }
        command
    }

    async fn with_cache(bench: &Bench) -> PathBuf {
        let cache = bench.dir().join("cache");
        let line = format!("host.cache.location={}\n", cache.display());
        std::fs::write(bench.dir().join("agent.properties"), bench.properties() + &line).unwrap();
        bench.ctx.services.config.reload().await;
        cache
    }

    async fn ask(bench: &mut Bench, members: &[(&str, Value)]) -> Value {
        let (class, fields) = bench.answer(CLASS, command(members)).await;
        assert_eq!(class, ANSWER);
        fields
    }

    async fn location(bench: &mut Bench, members: &[(&str, Value)]) -> String {
        let answer = ask(bench, members).await;
        assert_eq!(answer["result"], true, "{answer}");
        answer["location"].as_str().unwrap().to_owned()
    }

    fn files(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_drive_on_the_host_is_written_replaced_and_removed() {
        let mut bench = Bench::with_pool().await;
        let cache = with_cache(&bench).await;
        let drive = cache.join("config").join(FILE);
        let host = [("preferHostCache", json!(true))];
        for (data, content) in [("Zm9v", "foo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            let members = [("preferHostCache", json!(true)), ("isoData", json!(data))];
            assert_eq!(location(&mut bench, &members).await, "HOST");
            assert_eq!(std::fs::read_to_string(&drive).unwrap(), content);
            assert_eq!(std::fs::metadata(&drive).unwrap().permissions().mode() & 0o7777, MODE);
            assert_eq!(files(drive.parent().unwrap()), ["i-2-5-VM.iso"]);
        }
        for _ in 0..2 {
            let members = [&host[..], &[("create", json!(false)), ("isoData", Value::Null)]].concat();
            assert_eq!(location(&mut bench, &members).await, "SECONDARY");
            assert!(!drive.exists());
        }
    }

    #[tokio::test]
    async fn a_pool_that_cannot_have_drives_leads_to_the_host_if_that_is_wanted() {
        let mut bench = Bench::with_pool().await;
        let cache = with_cache(&bench).await;
        let mut rbd = bench.store();
        rbd["org.apache.cloudstack.storage.to.PrimaryDataStoreTO"]["poolType"] = json!("RBD");
        for (store, kind) in [(bench.store(), "Filesystem"), (rbd, "RBD")] {
            let answer = ask(&mut bench, &[("destStore", store.clone())]).await;
            assert_eq!(answer["result"], false);
            assert_eq!(
                answer["details"],
                format!("Config drive for KVM is not supported for pool type: {kind}")
            );
            let members = [("destStore", store.clone()), ("useHostCacheOnUnsupportedPool", json!(true))];
            assert_eq!(location(&mut bench, &members).await, "HOST");
            assert!(cache.join("config").join(FILE).exists());
            let removal = [("destStore", store), ("create", json!(false))];
            assert_eq!(location(&mut bench, &removal).await, "SECONDARY");
        }
        assert!(bench.pool_files().is_empty());
    }

    #[tokio::test]
    async fn a_drive_on_secondary_storage() {
        let Some(nfs) = Nfs::with("/bin/mount --bind \"${5#*:}\" \"$6\"", "exec /bin/umount \"$@\"").await
        else {
            return;
        };
        let export = nfs.directory.path().join("export");
        std::fs::create_dir(&export).unwrap();
        let mut bench = Bench::with_pool_and_nfs(&nfs).await;
        let url = format!("nfs://10.0.0.9{}", export.display());
        let store = json!({"com.cloud.agent.api.to.NfsTO": {"_url": url, "_role": "Image", "uuid": POOL}});
        let members = [("destStore", store)];
        assert_eq!(location(&mut bench, &members).await, "SECONDARY");
        assert_eq!(std::fs::read_to_string(export.join(FILE)).unwrap(), "foobar");
        let removal = [&members[..], &[("create", json!(false))]].concat();
        assert_eq!(location(&mut bench, &removal).await, "SECONDARY");
        assert!(!export.join(FILE).exists());
    }

    #[tokio::test]
    async fn an_unfinished_drive_on_secondary_storage_goes_when_it_is_not_mounted_any_more() {
        let Some(secondary) = Secondary::new().await else { return };
        // Steps of the journal: the unfinished file, the end.
        let fault = Faults::new(Fault::Crash { at: 1 });
        let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, fault).await;
        let members = [("destStore", secondary.store())];
        assert_eq!(ask(&mut bench, &members).await["result"], false);
        assert!(secondary.is_unmounted());
        // What a killed agent leaves: no destructor has deleted it.
        let record = std::fs::read_dir(bench.dir().join("journal")).unwrap().next().unwrap().unwrap();
        let record: Value = serde_json::from_slice(&std::fs::read(record.path()).unwrap()).unwrap();
        let unfinished = record["undo"][0]["path"].as_str().unwrap();
        assert!(unfinished.starts_with("configdrive/.i-2-5-VM.iso.partial-"), "{unfinished}");
        let unfinished = secondary.content.path().join(unfinished);
        std::fs::create_dir_all(unfinished.parent().unwrap()).unwrap();
        std::fs::write(unfinished, "secret").unwrap();
        bench.ctx.services.journal.recover().await;
        assert_eq!(secondary.files(), [""; 0]);
        assert!(secondary.is_unmounted());
    }

    #[tokio::test]
    async fn what_cannot_be_leaves_nothing() {
        let mut bench = Bench::with_pool().await;
        let cache = with_cache(&bench).await;
        let host = ("preferHostCache", json!(true));
        let unknown = "11111111-2222-3333-4444-555555555555";
        let store = json!({"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": {"uuid": unknown}});
        let not_found = format!("Unable to create config drive, Pool {unknown} not found");
        for (members, words) in [
            (vec![host.clone(), ("isoData", Value::Null)], "Invalid config drive ISO data received"),
            (vec![host.clone(), ("isoData", json!("Zm9v!"))], "Invalid config drive ISO data received"),
            (vec![host.clone(), ("isoFile", json!("configdrive/../../x.iso"))], "is not a path inside"),
            (vec![host.clone(), ("isoFile", json!("/configdrive/x.iso"))], "is not a path inside"),
            (vec![host.clone(), ("isoFile", json!("volume"))], "is not the path of a config drive"),
            (
                vec![("create", json!(false)), ("isoFile", json!("x.iso"))],
                "is not the path of a config drive",
            ),
            (vec![("destStore", store)], not_found.as_str()),
            (vec![], "Pool null not found"),
        ] {
            let answer = ask(&mut bench, &members).await;
            assert_eq!(answer["result"], false, "{members:?}");
            assert!(answer["details"].as_str().unwrap().contains(words), "{answer}");
        }
        assert!(!cache.exists());
    }

    #[tokio::test]
    async fn a_full_disk_keeps_the_old_drive() {
        let Some(small) = Small::of("64k").await else { return };
        let mut bench = Bench::with_pool().await;
        let line = format!("host.cache.location={}\n", small.directory.path().display());
        std::fs::write(bench.dir().join("agent.properties"), bench.properties() + &line).unwrap();
        bench.ctx.services.config.reload().await;
        let host = ("preferHostCache", json!(true));
        assert_eq!(location(&mut bench, std::slice::from_ref(&host)).await, "HOST");
        let large = ("isoData", json!("AAAA".repeat(64 << 10)));
        let answer = ask(&mut bench, &[host, large]).await;
        assert!(answer["details"].as_str().unwrap().contains("no space is left"), "{answer}");
        let drive = small.directory.path().join("config").join(FILE);
        assert_eq!(std::fs::read_to_string(&drive).unwrap(), "foobar");
        for file in files(drive.parent().unwrap()).iter().filter(|file| file.starts_with('.')) {
            until_gone(&drive.with_file_name(file)).await;
        }
    }

    #[tokio::test]
    async fn an_interrupted_write_leaves_the_old_drive_or_the_new_one() {
        // Steps of the journal: the unfinished file, the end.
        for at in 1..=2 {
            for fault in [Fault::Error { at: at + 2 }, Fault::Crash { at: at + 2 }] {
                let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
                let cache = with_cache(&bench).await;
                let host = ("preferHostCache", json!(true));
                location(&mut bench, &[host.clone(), ("isoData", json!("Zm9v"))]).await;
                let answer = ask(&mut bench, &[host]).await;
                assert_eq!(answer["result"], false, "{fault:?}");
                bench.ctx.services.journal.recover().await;
                let drive = cache.join("config").join(FILE);
                let expected = if at == 1 { "foo" } else { "foobar" };
                assert_eq!(std::fs::read_to_string(&drive).unwrap(), expected, "{fault:?}");
                for file in files(drive.parent().unwrap()).iter().filter(|file| file.starts_with('.')) {
                    until_gone(&drive.with_file_name(file)).await;
                }
            }
        }
    }
}
