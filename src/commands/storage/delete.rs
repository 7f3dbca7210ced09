//! `org.apache.cloudstack.storage.command.DeleteCommand`: deletes a volume or a snapshot. One that is gone
//! already is a success.

use super::{delete_snapshot, files};
use crate::commands::to::{Data, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, NoFields, Reply, place};

#[derive(Debug, serde::Deserialize)]
pub struct DeleteCommand {
    #[serde(default)]
    data: Option<Data>,
}

impl Command for DeleteCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        self.data.as_ref().map_or_else(Claims::none, place::exclusive)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        match &self.data {
            Some(Data::Volume(volume)) => delete_volume(&ctx, volume).await,
            Some(Data::Snapshot(snapshot)) => delete_snapshot::delete(&ctx, snapshot).await,
            Some(Data::Template(_) | Data::Other { .. }) | None => {
                Err(Fault::new("Only volumes and snapshots are deleted this way: unsupported type"))
            }
        }
    }
}

async fn delete_volume(ctx: &Ctx, volume: &VolumeObject) -> Result<Reply<NoFields>, Fault> {
    let (pool, name) = place::volume(ctx, volume).await?;
    let path = pool.volume(&name);
    let storage = &ctx.services.storage;
    if storage.disks.exists(&path).await? {
        files::not_in_use(ctx, &path).await?;
        storage.volumes.delete(&pool.local_path, &path).await?;
        tracing::info!(volume = %path.display(), "Volume is deleted");
    }
    Ok(Reply::done())
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::{Value, json};

    const CLASS: &str = "org.apache.cloudstack.storage.command.DeleteCommand";

    async fn delete(bench: &mut Bench, data: Value) -> Value {
        let (class, fields) = bench.answer(CLASS, json!({"data": data})).await;
        assert_eq!(class, "com.cloud.agent.api.Answer");
        fields
    }

    #[tokio::test]
    async fn a_volume_is_deleted_and_a_repeat_does_no_harm() {
        let mut bench = Bench::with_pool().await;
        std::fs::write(bench.pool_dir().join("v"), "x").unwrap();
        for _ in 0..2 {
            let data = bench.volume("v");
            let answer = delete(&mut bench, data).await;
            assert_eq!(
                answer,
                json!({"result": true, "contextMap": {}, "wait": 0, "bypassHostMaintenance": false})
            );
            assert!(bench.pool_files().is_empty());
        }
    }

    #[tokio::test]
    async fn the_disk_of_a_running_guest_stays() {
        let mut bench = Bench::with_pool().await;
        let path = bench.pool_dir().join("v");
        std::fs::write(&path, "x").unwrap();
        let guest = bench.guest("i-2-3-VM", &path).await;
        let data = bench.volume("v");
        let answer = delete(&mut bench, data.clone()).await;
        assert_eq!(answer["result"], false);
        assert!(answer["details"].as_str().unwrap().contains("is disk vda of i-2-3-VM"), "{answer}");
        assert_eq!(bench.pool_files(), ["v"]);
        bench.ctx.services.hypervisor.destroy(&guest).await.unwrap();
        assert_eq!(delete(&mut bench, data).await["result"], true);
        assert!(bench.pool_files().is_empty());
    }

    #[tokio::test]
    async fn names_do_not_lead_elsewhere() {
        let mut bench = Bench::with_pool().await;
        let outside = bench.dir().join("outside");
        std::fs::write(&outside, "x").unwrap();
        for path in ["../outside", outside.to_str().unwrap(), "pool/../../outside"] {
            let data = bench.volume(path);
            // Only the last component counts.
            assert_eq!(delete(&mut bench, data).await["result"], true);
            assert!(outside.exists());
        }
        for path in ["..", "a/..", ".hidden", "a b", "x\u{0}"] {
            let data = bench.volume(path);
            let answer = delete(&mut bench, data).await;
            assert_eq!(answer["result"], false, "{path:?}");
            assert!(answer["details"].as_str().unwrap().contains("cannot name a volume"), "{answer}");
        }
    }

    #[tokio::test]
    async fn templates_and_unknown_things_are_not_deleted_this_way() {
        let mut bench = Bench::with_pool().await;
        let template = json!({"org.apache.cloudstack.storage.to.TemplateObjectTO": {"path": "t", "imageDataStore": bench.store()}});
        for data in [template, json!({"x.Y": {}}), Value::Null] {
            let answer = delete(&mut bench, data).await;
            assert_eq!(answer["result"], false);
            assert!(answer["details"].as_str().unwrap().contains("unsupported type"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_pool_that_is_gone_is_named() {
        let mut bench = Bench::with_pool().await;
        let mut data = bench.volume("v");
        let store = &mut data["org.apache.cloudstack.storage.to.VolumeObjectTO"]["dataStore"]["org.apache.cloudstack.storage.to.PrimaryDataStoreTO"];
        *store = json!({"uuid": "11111111-2222-3333-4444-555555555555"});
        let answer = delete(&mut bench, data).await;
        assert_eq!(answer["result"], false);
        let details = answer["details"].as_str().unwrap();
        assert!(details.contains("11111111-2222-3333-4444-555555555555 was not found"), "{details}");
    }
}
