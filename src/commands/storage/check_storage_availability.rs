//! `com.cloud.agent.api.storage.CheckStorageAvailabilityCommand`: are these pools usable here? One that
//! libvirt has forgotten is made again.

use crate::commands::{Command, Ctx, Fault, NoFields, Reply};
use crate::storage::pools::PoolRef;
use crate::wire::lenient;
use std::collections::BTreeMap;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckStorageAvailabilityCommand {
    /// Types by UUID.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pools_map: BTreeMap<String, Option<String>>,
}

impl Command for CheckStorageAvailabilityCommand {
    type Answer = NoFields;

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        for (uuid, kind) in &self.pools_map {
            let reference = PoolRef { uuid, kind: kind.as_deref(), ..PoolRef::default() };
            let pool = ctx.services.storage.pools.get(reference).await?;
            ctx.services.storage.disks.free(&pool.local_path).await?;
        }
        Ok(Reply::done())
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{Bench, POOL};
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.storage.CheckStorageAvailabilityCommand";
    const OTHER: &str = "9572a059-c161-4d90-8fb4-2cc51dcc2325";

    #[tokio::test]
    async fn every_pool_has_to_be_there() {
        let mut bench = Bench::with_pool().await;
        let (class, fields) = bench.answer(CLASS, json!({"poolsMap": {POOL: "Filesystem"}})).await;
        assert_eq!((class.as_str(), &fields["result"]), ("com.cloud.agent.api.Answer", &json!(true)));
        assert_eq!(bench.answer(CLASS, json!({})).await.1["result"], true);
        for (pools, words) in [
            (json!({POOL: "Filesystem", OTHER: "Filesystem"}), "was not found"),
            (json!({OTHER: "RBD"}), "Storage pools of type RBD are not supported"),
            (json!({"x": null}), "is not the UUID"),
        ] {
            let fields = bench.answer(CLASS, json!({"poolsMap": pools})).await.1;
            assert_eq!(fields["result"], false);
            assert!(fields["details"].as_str().unwrap().contains(words), "{fields}");
        }
        std::fs::remove_dir(bench.pool_dir()).unwrap();
        let fields = bench.answer(CLASS, json!({"poolsMap": {POOL: "Filesystem"}})).await.1;
        assert_eq!(fields["result"], false);
    }
}
