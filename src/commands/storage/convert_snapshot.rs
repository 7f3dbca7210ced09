//! `com.cloud.agent.api.ConvertSnapshotCommand` (4.21): a snapshot on secondary storage that is based on
//! others becomes a file of its own beside it. Agents that take incremental snapshots made those.

use super::files;
use crate::commands::to::SnapshotObject;
use crate::commands::to::answers::NewSnapshot;
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::journal::Action;
use crate::storage::names::RelativePath;
use crate::storage::qemu_img::ImageFormat;
use crate::storage::volumes::{Copy, Existing};
use crate::wire::lenient;
use serde_json::Value;

/// What the server expects at the end of the new path.
const SUFFIX: &str = "_temp";

#[derive(Debug, serde::Deserialize)]
pub struct ConvertSnapshotCommand {
    #[serde(default, rename = "snapshotObjectTO", deserialize_with = "lenient::or_default")]
    snapshot: SnapshotObject,
}

#[derive(Debug, serde::Serialize)]
pub struct ConvertSnapshotAnswer {
    #[serde(rename = "snapshotObjectTO")]
    snapshot: Value,
}

impl Command for ConvertSnapshotCommand {
    type Answer = ConvertSnapshotAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.ConvertSnapshotAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<ConvertSnapshotAnswer>, Fault> {
        let snapshot = &self.snapshot;
        let store = snapshot.data_store.as_ref().and_then(|store| store.nfs());
        let store = store.ok_or_else(|| Fault::new("Image Store must be NFS."))?;
        let path = snapshot.path.as_deref().unwrap_or_default().trim_start_matches('/');
        let inside = RelativePath::new(path)?;
        let new = RelativePath::new(&format!("{inside}{SUFFIX}"))?;
        let secret = snapshot.volume.as_ref().map(|volume| files::secret(&volume.passphrase)).transpose()?;
        let secret = secret.flatten();
        let mounted = ctx.services.storage.pools.secondary(&store.url).await?;
        let (source, target) = (inside.under(mounted.path()), new.under(mounted.path()));
        let roots = [mounted.path()];
        let copy = Copy {
            source_passphrase: secret.as_ref(),
            target_passphrase: secret.as_ref(),
            existing: Existing::Replace,
            ..Copy::new(&source, &roots, &target, ImageFormat::Qcow2)
        };
        let storage = &ctx.services.storage;
        let subject = target.to_string_lossy();
        let mut work = ctx.services.journal.begin("convert a snapshot", &subject, &ctx.logid).await;
        let copied = async {
            if !storage.disks.exists(&target).await? {
                // By its URL: after a restart it is not mounted any more.
                let (url, path) = (store.url.clone(), new.to_string());
                work.before(Action::RemoveStored { url, path, directory: false }).await?;
            }
            Ok::<_, Fault>(storage.volumes.copy(copy, files::deadline(&ctx)).await?)
        };
        let copied = copied.await;
        let copied = work.settle(copied).await;
        files::give_back(mounted).await;
        let facts = copied?.facts;
        tracing::info!(snapshot = %inside, "Snapshot is converted to a file of its own");
        let new = NewSnapshot {
            path: new.to_string(),
            physical_size: Some(facts.length),
            ..NewSnapshot::default()
        };
        Ok(Reply::ok(ConvertSnapshotAnswer { snapshot: new.to_element()?.read()? }))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::storage::testing::Secondary;
    use crate::commands::testing::Bench;
    use crate::journal::faults::{Fault, Faults};
    use crate::storage::testing::run;
    use serde_json::{Value, json};

    const CLASS: &str = "com.cloud.agent.api.ConvertSnapshotCommand";

    async fn ask(bench: &mut Bench, snapshot: Value) -> Value {
        let (class, answer) = bench.answer(CLASS, json!({"snapshotObjectTO": snapshot})).await;
        assert_eq!(class, "com.cloud.agent.api.ConvertSnapshotAnswer");
        answer
    }

    #[tokio::test]
    async fn a_snapshot_over_another_becomes_one_of_its_own() {
        let Some(secondary) = Secondary::new().await else { return };
        // Steps of the journal: file, commit.
        for fault in
            [1, 2].map(|at| Fault::Error { at }).into_iter().chain([Fault::Crash { at: 2 }, Fault::None])
        {
            let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, Faults::new(fault)).await;
            // As a name below the mount point, which is the same for all agents.
            let content = secondary.content.path();
            let [base, top] = ["p", "s"].map(|name| content.join(name).to_str().unwrap().to_owned());
            run(&["qemu-img", "create", "-q", "-f", "qcow2", &base, "1M"]).await.unwrap();
            run(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "p", &top]).await.unwrap();
            let snapshot = json!({"path": "s", "dataStore": secondary.store()});
            let answer = ask(&mut bench, snapshot.clone()).await;
            if fault != Fault::None {
                assert_eq!(answer["result"], false, "{answer}");
                // As after a restart, when it is not mounted any more.
                assert!(secondary.is_unmounted());
                bench.ctx.services.journal.recover().await;
                assert_eq!(secondary.files(), ["p", "s"], "{fault:?}");
                continue;
            }
            assert_eq!(answer["result"], true, "{answer}");
            assert_eq!(secondary.files(), ["p", "s", "s_temp"]);
            let size = std::fs::metadata(content.join("s_temp")).unwrap().len();
            let new = &answer["snapshotObjectTO"];
            assert_eq!((&new["path"], &new["physicalSize"]), (&json!("s_temp"), &json!(size)));
            let elsewhere = json!({"path": "../x", "dataStore": secondary.store()});
            assert_eq!(ask(&mut bench, elsewhere).await["result"], false);
            let on_primary = json!({"path": "s", "dataStore": bench.store()});
            assert_eq!(ask(&mut bench, on_primary).await["details"], "Image Store must be NFS.");
            assert!(secondary.is_unmounted());
        }
    }
}
