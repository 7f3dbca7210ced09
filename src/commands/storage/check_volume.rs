//! `com.cloud.agent.api.CheckVolumeCommand`: size and make of a file in a pool that is to be imported.

use super::image_details::{self, Details};
use crate::commands::to::StorageFiler;
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::storage::names::VolumeName;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckVolumeCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    src_file: String,
    #[serde(default, deserialize_with = "lenient::or_default", rename = "storageFilerTO")]
    pool: StorageFiler,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckVolumeAnswer {
    /// Virtual size in bytes.
    size: u64,
    /// Read by servers from 4.20 on.
    volume_details: Details,
}

impl Command for CheckVolumeCommand {
    type Answer = CheckVolumeAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.CheckVolumeAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<CheckVolumeAnswer>, Fault> {
        let name = VolumeName::last_of(&self.src_file)?;
        let pool = ctx.services.storage.pools.get(self.pool.reference()).await?;
        let path = pool.volume(&name);
        // Says in words if it is missing, or neither qcow2 nor raw.
        let facts = ctx.services.storage.volumes.inspect(&path, None).await?;
        let volume_details = image_details::look(&ctx, &path).await?.details();
        Ok(Reply::ok(CheckVolumeAnswer { size: facts.virtual_size, volume_details }))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use crate::storage::testing::{qemu_img, run};
    use serde_json::{Value, json};

    async fn check(bench: &mut Bench, file: &str) -> Value {
        let class = "com.cloud.agent.api.CheckVolumeCommand";
        let command = json!({"srcFile": file, "storageFilerTO": bench.filer()});
        let (class, fields) = bench.answer(class, command).await;
        assert_eq!(class, "com.cloud.agent.api.CheckVolumeAnswer");
        fields
    }

    #[tokio::test]
    async fn a_file_is_described_or_named() {
        if qemu_img().is_none() {
            return;
        }
        let mut bench = Bench::with_pool().await;
        for (name, format) in [("v", "qcow2"), ("foreign", "vmdk")] {
            let path = bench.pool_dir().join(name);
            run(&["qemu-img", "create", "-q", "-f", format, path.to_str().unwrap(), "8M"]).await.unwrap();
        }
        let answer = check(&mut bench, "v").await;
        assert_eq!((&answer["result"], &answer["size"]), (&json!(true), &json!(8 << 20)), "{answer}");
        let details = json!({"CLUSTER_SIZE": "65536", "FILE_FORMAT": "qcow2", "IS_LOCKED": "false"});
        assert_eq!(answer["volumeDetails"], details);
        for (name, words) in [
            ("gone", "was not found"),
            ("foreign", "which is neither qcow2 nor raw"),
            ("..", "cannot name a volume"),
        ] {
            let answer = check(&mut bench, name).await;
            assert_eq!(answer["result"], false);
            assert!(answer["details"].as_str().unwrap().contains(words), "{answer}");
        }
    }
}
