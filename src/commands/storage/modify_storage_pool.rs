//! `com.cloud.agent.api.ModifyStoragePoolCommand`: makes a pool available on this host and tells its size.
//! Servers send it for each pool after each connect.
//!
//! With `add=false` servers up to 4.20 announce the maintenance of a pool, and 4.21 takes it from the host.
//! Both is served by giving the pool up unless it is in use: a command that names it later makes it again.

use crate::commands::to::StorageFiler;
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply};
use crate::hypervisor::Refresh;
use crate::storage::pools::PoolRef;
use crate::wire::lenient;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModifyStoragePoolCommand {
    #[serde(default, deserialize_with = "lenient::flag")]
    add: bool,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pool: StorageFiler,
    #[serde(default)]
    local_path: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    details: BTreeMap<String, Option<String>>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModifyStoragePoolAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_info: Option<StoragePoolInfo>,
    /// Always empty.
    template_info: BTreeMap<String, ()>,
    /// Always empty.
    datastore_cluster_children: Vec<()>,
}

/// `com.cloud.agent.api.StoragePoolInfo`; sizes in bytes.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct StoragePoolInfo {
    host: String,
    /// As the command has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    local_path: Option<String>,
    host_path: String,
    pool_type: String,
    capacity_bytes: u64,
    available_bytes: u64,
}

impl ModifyStoragePoolCommand {
    fn info(&self, capacity_bytes: u64, available_bytes: u64) -> StoragePoolInfo {
        StoragePoolInfo {
            host: self.pool.host.clone(),
            local_path: self.local_path.clone(),
            host_path: self.pool.path.clone(),
            pool_type: self.pool.kind.clone(),
            capacity_bytes,
            available_bytes,
        }
    }

    async fn give_up(&self, ctx: &Ctx) -> Result<Option<StoragePoolInfo>, Fault> {
        let services = &ctx.services;
        let uuid = Uuid::try_parse(&self.pool.uuid)
            .map_err(|_| Fault::new(format!("{:?} is not the UUID of a storage pool", self.pool.uuid)))?;
        // A pool whose server is dead can be given up, too.
        let facts = services.hypervisor.pool(&self.pool.uuid, Refresh::No).await.ok();
        services.storage.pools.remove(uuid).await.map_err(|error| {
            Fault::new(format!("Failed to delete storage pool: {}", crate::errors::chain(&error)))
        })?;
        Ok(facts.map(|facts| self.info(facts.capacity, facts.available)))
    }
}

impl Command for ModifyStoragePoolCommand {
    type Answer = ModifyStoragePoolAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.ModifyStoragePoolAnswer";

    fn claims(&self) -> Claims {
        Key::Pool(self.pool.uuid.to_ascii_lowercase()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<ModifyStoragePoolAnswer>, Fault> {
        let pool_info = if self.add {
            let options = self.details.get("nfsmountopts").and_then(Option::as_deref);
            let reference = PoolRef { options, ..self.pool.reference() };
            let storage = &ctx.services.storage;
            let created = storage.pools.create(reference).await?;
            // What an earlier life of the agent has left unfinished; the pool serves with it, too.
            if let Err(error) = storage.volumes.sweep(&created.pool.local_path).await {
                tracing::warn!("{}", crate::errors::chain(&error));
            }
            Some(self.info(created.capacity, created.available))
        } else {
            self.give_up(&ctx).await?
        };
        Ok(Reply::ok(ModifyStoragePoolAnswer {
            pool_info,
            template_info: BTreeMap::new(),
            datastore_cluster_children: Vec::new(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{Bench, POOL};
    use crate::storage::testing::Nfs;
    use crate::storage::volumes::testing::{leftover, unfinished};
    use serde_json::{Value, json};

    const OTHER: &str = "9572a059-c161-4d90-8fb4-2cc51dcc2325";

    async fn modify(bench: &mut Bench, add: bool, pool: Value) -> Value {
        let command = json!({"add": add, "pool": pool, "localPath": "/mnt//x"});
        let (class, fields) = bench.answer("com.cloud.agent.api.ModifyStoragePoolCommand", command).await;
        assert_eq!(class, "com.cloud.agent.api.ModifyStoragePoolAnswer");
        fields
    }

    fn shared(path: &str) -> Value {
        json!({"id": 2, "uuid": OTHER, "host": "127.0.0.1", "path": path, "port": 0, "type": "SharedMountPoint"})
    }

    #[tokio::test]
    async fn a_pool_is_made_repeated_given_up_and_made_again() {
        let mut bench = Bench::with_pool().await;
        for _ in 0..2 {
            let answer = modify(&mut bench, true, shared("/mnt/smp/")).await;
            let info = &answer["poolInfo"];
            assert!(info["capacityBytes"].as_u64().unwrap() > 0, "{answer}");
            let expected = json!({"host": "127.0.0.1", "localPath": "/mnt//x", "hostPath": "/mnt/smp/",
                "poolType": "SharedMountPoint", "capacityBytes": info["capacityBytes"], "availableBytes": info["availableBytes"]});
            assert_eq!((info, &answer["templateInfo"]), (&expected, &json!({})));
            assert_eq!(answer["datastoreClusterChildren"], json!([]));
        }
        let answer = modify(&mut bench, false, shared("/mnt/smp/")).await;
        assert_eq!((&answer["result"], answer["poolInfo"].is_object()), (&json!(true), true));
        assert!(bench.ctx.services.hypervisor.pool(OTHER, Refresh::No).await.is_err());
        let again = modify(&mut bench, false, shared("/mnt/smp/")).await;
        assert_eq!((&again["result"], again.get("poolInfo")), (&json!(true), None));
        assert_eq!(modify(&mut bench, true, shared("/mnt/smp/")).await["result"], true);
    }

    #[tokio::test]
    async fn what_a_dead_agent_left_in_a_pool_goes() {
        let mut bench = Bench::with_pool().await;
        for name in [leftover("v"), unfinished("w")] {
            std::fs::write(bench.pool_dir().join(name), "x").unwrap();
        }
        let pool = bench.filer();
        assert_eq!(modify(&mut bench, true, pool).await["result"], true);
        assert_eq!(bench.pool_files(), [unfinished("w")]);
    }

    #[tokio::test]
    async fn pools_that_cannot_be_are_refused_in_words() {
        let mut bench = Bench::with_pool().await;
        let ceph = json!({"uuid": OTHER, "type": "RBD", "host": "h", "path": "p", "userInfo": "u:canary"});
        for (pool, words) in [
            (ceph, "Storage pools of type RBD are not supported"),
            (shared("/mnt/../etc"), "cannot be at"),
            (json!({"uuid": "../x", "type": "Filesystem", "path": "/x"}), "is not the UUID"),
            (json!({"uuid": POOL, "type": "Filesystem"}), "was not found"),
        ] {
            let answer = modify(&mut bench, true, pool).await;
            assert_eq!(answer["result"], false);
            let details = answer["details"].as_str().unwrap();
            assert!(details.contains(words) && !details.contains("canary"), "{details}");
        }
    }

    #[tokio::test]
    async fn an_nfs_pool_in_use_is_not_given_up() {
        let Some(nfs) = Nfs::new().await else { return };
        let mut bench = Bench::with_pool_and_nfs(&nfs).await;
        let pool = json!({"uuid": OTHER, "host": "10.0.0.1", "path": "/export", "type": "NetworkFilesystem"});
        assert_eq!(modify(&mut bench, true, pool.clone()).await["result"], true);
        let open = std::fs::File::create(nfs.root().join(OTHER).join("disk")).unwrap();
        let answer = modify(&mut bench, false, pool.clone()).await;
        assert_eq!(answer["result"], false);
        assert!(answer["details"].as_str().unwrap().starts_with("Failed to delete storage pool"), "{answer}");
        drop(open);
        assert_eq!(modify(&mut bench, true, pool.clone()).await["result"], true);
        assert_eq!(modify(&mut bench, false, pool).await["result"], true);
        assert!(!nfs.root().join(OTHER).exists());
    }
}
