//! `com.cloud.agent.api.DeleteStoragePoolCommand`: takes a pool off this host; its files stay.
//!
//! A local pool stays in agent.properties, as up to 4.19, and is announced again with the next start: only
//! who set up the host knows whether the directory is to serve on.

use crate::commands::to::StorageFiler;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::wire::lenient;
use uuid::Uuid;

#[derive(Debug, serde::Deserialize)]
pub struct DeleteStoragePoolCommand {
    #[serde(default, deserialize_with = "lenient::or_default", rename = "_pool")]
    pool: StorageFiler,
    /// Of VMware.
    #[serde(default, deserialize_with = "lenient::flag", rename = "_removeDatastore")]
    remove_datastore: bool,
}

impl Command for DeleteStoragePoolCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        Key::Pool(self.pool.uuid.to_ascii_lowercase()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        if self.remove_datastore {
            return Ok(Reply::done());
        }
        let uuid = Uuid::try_parse(&self.pool.uuid)
            .map_err(|_| Fault::new(format!("{:?} is not the UUID of a storage pool", self.pool.uuid)))?;
        ctx.services.storage.pools.remove(uuid).await?;
        tracing::info!(pool = %uuid, "Storage pool is taken off this host");
        Ok(Reply::done())
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{Bench, POOL};
    use crate::hypervisor::Refresh;
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.DeleteStoragePoolCommand";

    #[tokio::test]
    async fn a_pool_leaves_the_host_and_its_files_stay() {
        let mut bench = Bench::with_pool().await;
        std::fs::write(bench.pool_dir().join("v"), "x").unwrap();
        for _ in 0..2 {
            let command = json!({"_pool": bench.filer(), "_localPath": "/mnt//x", "_removeDatastore": false});
            let (class, fields) = bench.answer(CLASS, command).await;
            assert_eq!(class, "com.cloud.agent.api.Answer");
            assert_eq!((&fields["result"], fields.get("details")), (&json!(true), None));
            assert!(bench.ctx.services.hypervisor.pool(POOL, Refresh::No).await.is_err());
            assert_eq!(bench.pool_files(), ["v"]);
        }
        let odd = json!({"_pool": {"uuid": "../x"}});
        assert_eq!(bench.answer(CLASS, odd).await.1["result"], false);
    }

    #[tokio::test]
    async fn datastores_are_none_of_its_business() {
        let mut bench = Bench::with_pool().await;
        let command = json!({"_pool": bench.filer(), "_removeDatastore": true});
        assert_eq!(bench.answer(CLASS, command).await.1["result"], true);
        assert!(bench.ctx.services.hypervisor.pool(POOL, Refresh::No).await.is_ok());
    }
}
