//! `com.cloud.agent.api.GetVolumeStatCommand`: sizes of one volume.

use crate::commands::{Command, Ctx, Fault, Reply};
use crate::storage::names::VolumeName;
use crate::storage::pools::PoolRef;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVolumeStatCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    volume_path: String,
    #[serde(default)]
    pool_type: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pool_uuid: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVolumeStatAnswer {
    pool_uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_type: Option<String>,
    volume_path: String,
    /// Bytes that the volume takes on disk.
    size: u64,
    /// Bytes that the guest sees.
    virtual_size: u64,
}

impl Command for GetVolumeStatCommand {
    type Answer = GetVolumeStatAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetVolumeStatAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetVolumeStatAnswer>, Fault> {
        let name = VolumeName::last_of(&self.volume_path)?;
        let storage = &ctx.services.storage;
        let reference =
            PoolRef { uuid: &self.pool_uuid, kind: self.pool_type.as_deref(), ..PoolRef::default() };
        let pool = storage.pools.get(reference).await?;
        let facts = storage.volumes.inspect(&pool.volume(&name), None).await?;
        Ok(Reply::ok(GetVolumeStatAnswer {
            pool_uuid: self.pool_uuid,
            pool_type: self.pool_type,
            volume_path: self.volume_path,
            size: facts.allocated,
            virtual_size: facts.virtual_size,
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{Bench, POOL};
    use crate::storage::testing::{qemu_img, run};
    use serde_json::json;

    #[tokio::test]
    async fn a_volume_has_sizes() {
        if qemu_img().is_none() {
            return;
        }
        let class = "com.cloud.agent.api.GetVolumeStatCommand";
        let mut bench = Bench::with_pool().await;
        let path = bench.pool_dir().join("v");
        run(&["qemu-img", "create", "-q", "-f", "qcow2", path.to_str().unwrap(), "8M"]).await.unwrap();
        let command = json!({"volumePath": "v", "poolType": "Filesystem", "poolUuid": POOL});
        let (name, fields) = bench.answer(class, command.clone()).await;
        assert_eq!(name, "com.cloud.agent.api.GetVolumeStatAnswer");
        assert_eq!((&fields["virtualSize"], &fields["poolUuid"]), (&json!(8 << 20), &json!(POOL)));
        assert_eq!((&fields["volumePath"], &fields["poolType"]), (&json!("v"), &json!("Filesystem")));
        assert!(fields["size"].as_u64().unwrap() < 8 << 20);
        std::fs::remove_file(path).unwrap();
        let fields = bench.answer(class, command).await.1;
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().contains("was not found"), "{fields}");
    }
}
