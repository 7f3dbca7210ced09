//! `com.cloud.agent.api.storage.DestroyCommand`: evicts a template that nothing uses any more from a pool.
//! One that is gone already is a success; the reference agent fails then.

use super::files;
use crate::commands::{Claims, Command, Ctx, Fault, NoFields, Reply, place};
use crate::storage::names::VolumeName;
use crate::storage::pools::PoolRef;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
pub struct DestroyCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    volume: VolumeTo,
}

/// `com.cloud.agent.api.to.VolumeTO`
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeTo {
    #[serde(default, deserialize_with = "lenient::or_default")]
    path: String,
    /// Path of the pool.
    #[serde(default)]
    mount_point: Option<String>,
    #[serde(default)]
    storage_pool_type: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    storage_pool_uuid: String,
}

impl Command for DestroyCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        place::key(&self.volume.storage_pool_uuid, &self.volume.path).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let name = VolumeName::last_of(&self.volume.path)?;
        let storage = &ctx.services.storage;
        let reference = PoolRef {
            uuid: &self.volume.storage_pool_uuid,
            kind: self.volume.storage_pool_type.as_deref(),
            path: self.volume.mount_point.as_deref(),
            ..PoolRef::default()
        };
        let pool = storage.pools.get(reference).await?;
        let path = pool.volume(&name);
        if storage.disks.exists(&path).await? {
            files::not_in_use(&ctx, &path).await?;
            storage.volumes.delete(&pool.local_path, &path).await?;
            tracing::info!(volume = %path.display(), "Removed from its pool");
        }
        Ok(Reply::done().details("Success"))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::storage::testing::{filled, guest_over};
    use crate::commands::testing::{Bench, POOL};
    use crate::storage::testing::{qemu_img, run};
    use serde_json::{Value, json};
    use std::path::Path;

    async fn evict(bench: &mut Bench, name: &str) -> Value {
        let volume = json!({"id": 1, "mountPoint": bench.pool_dir(), "path": name, "size": 200704,
            "storagePoolType": "Filesystem", "storagePoolUuid": POOL, "deviceId": 0});
        let class = "com.cloud.agent.api.storage.DestroyCommand";
        let (class, fields) = bench.answer(class, json!({"volume": volume})).await;
        assert_eq!(class, "com.cloud.agent.api.Answer");
        fields
    }

    #[tokio::test]
    async fn a_template_goes_when_the_last_disk_over_it_has_gone() {
        if qemu_img().is_none() {
            return;
        }
        let mut bench = Bench::with_pool().await;
        let path = |name: &str| bench.pool_dir().join(name).to_str().unwrap().to_owned();
        let (template, root) = (path("template"), path("root"));
        run(&["qemu-img", "create", "-q", "-f", "qcow2", &template, "1M"]).await.unwrap();
        let over = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &template, &root];
        run(&over).await.unwrap();
        let answer = evict(&mut bench, "template").await;
        assert_eq!(answer["result"], false);
        assert!(answer["details"].as_str().unwrap().contains("is still the backing file of"), "{answer}");
        assert_eq!(bench.pool_files(), ["root", "template"]);
        std::fs::remove_file(root).unwrap();
        for _ in 0..2 {
            let answer = evict(&mut bench, "template").await;
            assert_eq!((&answer["result"], &answer["details"]), (&json!(true), &json!("Success")));
            assert!(bench.pool_files().is_empty());
        }
    }

    #[tokio::test]
    async fn what_a_guest_runs_from_stays() {
        if qemu_img().is_none() {
            return;
        }
        let mut bench = Bench::with_pool().await;
        filled(&bench.pool_dir().join("template"), "8M").await;
        filled(&bench.pool_dir().join("iso"), "8M").await;
        guest_over(&bench, "i-2-3-VM", Path::new("/elsewhere"), &bench.pool_dir().join("template")).await;
        bench.guest("i-2-4-VM", &bench.pool_dir().join("iso")).await;
        for (name, guest) in [("template", "i-2-3-VM"), ("iso", "i-2-4-VM")] {
            let answer = evict(&mut bench, name).await;
            assert_eq!(answer["result"], false);
            assert!(answer["details"].as_str().unwrap().contains(guest), "{answer}");
            bench.ctx.services.hypervisor.destroy(guest).await.unwrap();
            assert_eq!(evict(&mut bench, name).await["result"], true);
        }
        assert!(bench.pool_files().is_empty());
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_refused() {
        let mut bench = Bench::with_pool().await;
        for name in ["", "..", "x/"] {
            assert_eq!(evict(&mut bench, name).await["result"], false, "{name}");
        }
    }
}
