//! `com.cloud.agent.api.GetStorageStatsCommand`: size and use of a pool, asked every minute or so.
//!
//! The fields have other names from 4.20 on; the answer has both, so it suits every server.

use crate::commands::{Command, Ctx, Fault, Reply};
use crate::hypervisor::{Object, Refresh};
use crate::storage::pools::PoolRef;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
pub struct GetStorageStatsCommand {
    /// Of the pool.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub id: String,
    #[serde(default, rename = "localPath")]
    pub local_path: Option<String>,
    #[serde(default)]
    pub pooltype: Option<String>,
}

/// Bytes.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetStorageStatsAnswer {
    /// Up to 4.19.
    used: u64,
    capacity: u64,
    /// From 4.20 on.
    used_bytes: u64,
    capacity_bytes: u64,
}

impl Command for GetStorageStatsCommand {
    type Answer = GetStorageStatsAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetStorageStatsAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetStorageStatsAnswer>, Fault> {
        // libvirt looks at the file system only when it refreshes.
        let mut pool = ctx.services.hypervisor.pool(&self.id, Refresh::Yes).await;
        if matches!(&pool, Err(error) if error.is_not_found(Object::StoragePool)) {
            // Pools are transient: libvirt forgets them with its restart.
            let (kind, path) = (self.pooltype.as_deref(), self.local_path.as_deref());
            let reference = PoolRef { uuid: &self.id, kind, path, ..PoolRef::default() };
            if ctx.services.storage.pools.get(reference).await.is_ok() {
                pool = ctx.services.hypervisor.pool(&self.id, Refresh::No).await;
            }
        }
        let pool = pool?;
        Ok(Reply::ok(GetStorageStatsAnswer {
            used: pool.allocation,
            capacity: pool.capacity,
            used_bytes: pool.allocation,
            capacity_bytes: pool.capacity,
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{Bench, POOL};
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.GetStorageStatsCommand";
    const ANSWER: &str = "com.cloud.agent.api.GetStorageStatsAnswer";

    #[tokio::test]
    async fn old_and_new_names_say_the_same() {
        let mut bench = Bench::new().await;
        let command = json!({"id": "default-pool", "localPath": "/default-pool", "pooltype": "Filesystem"});
        let (class, fields) = bench.answer(CLASS, command).await;
        assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(true)));
        assert!(fields["capacity"].as_u64().unwrap() > 0);
        assert_eq!(fields["capacity"], fields["capacityBytes"]);
        assert_eq!(fields["used"], fields["usedBytes"]);
    }

    #[tokio::test]
    async fn a_pool_that_libvirt_has_forgotten_is_made_again() {
        let mut bench = Bench::with_pool().await;
        bench.ctx.services.hypervisor.destroy_pool(POOL).await.unwrap();
        let command = json!({"id": POOL, "localPath": bench.pool_dir(), "pooltype": "Filesystem"});
        let (_, fields) = bench.answer(CLASS, command).await;
        assert!(fields["capacity"].as_u64().unwrap() > 0, "{fields}");
    }

    #[tokio::test]
    async fn an_unknown_pool_fails_by_name() {
        let mut bench = Bench::new().await;
        let (class, fields) = bench.answer(CLASS, json!({"id": "no-such-pool"})).await;
        assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(false)));
        assert!(fields["details"].as_str().unwrap().contains("no-such-pool"));
    }
}
