//! `com.cloud.agent.api.storage.PrimaryStorageDownloadCommand`: a template from secondary storage into a
//! pool, under a name of the agent's own. Servers send `CopyCommand` in its place.

use super::files::{self, Fetch};
use crate::commands::to::StorageFiler;
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply};
use crate::storage::qemu_img::ImageFormat;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryStorageDownloadCommand {
    /// Of the file; the first qcow2 image in there if it ends with a slash.
    #[serde(default, deserialize_with = "lenient::or_default")]
    url: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    primary_pool: StorageFiler,
    #[serde(default)]
    format: Option<String>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryStorageDownloadAnswer {
    /// File name in the pool.
    install_path: String,
    /// Virtual size in bytes.
    template_size: u64,
}

impl Command for PrimaryStorageDownloadCommand {
    type Answer = PrimaryStorageDownloadAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.storage.PrimaryStorageDownloadAnswer";

    fn claims(&self) -> Claims {
        Claims::none().shared(Key::Pool(self.primary_pool.uuid.to_ascii_lowercase()))
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<PrimaryStorageDownloadAnswer>, Fault> {
        let (directory, file) = self
            .url
            .rsplit_once('/')
            .ok_or_else(|| Fault::new(format!("{:?} is not the URL of a template", self.url)))?;
        let pool = ctx.services.storage.pools.get(self.primary_pool.reference()).await?;
        let name = files::random_name(&ctx, "")?;
        let fetch = Fetch {
            directory,
            file,
            format: self.format.as_deref().and_then(ImageFormat::named),
            pool: &pool,
            name: &name,
            size: None,
            passphrase: None,
        };
        let facts = files::fetch(&ctx, fetch).await?;
        Ok(Reply::ok(PrimaryStorageDownloadAnswer {
            install_path: name.to_string(),
            template_size: facts.virtual_size,
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::storage::testing::{Secondary, filled, interruptions};
    use crate::commands::testing::Bench;
    use crate::journal::faults::Faults;
    use serde_json::{Value, json};

    async fn download(bench: &mut Bench, url: &str) -> Value {
        let class = "com.cloud.agent.api.storage.PrimaryStorageDownloadCommand";
        let command = json!({"url": url, "primaryPool": bench.filer(), "format": "QCOW2", "name": "202-1-x"});
        let (class, fields) = bench.answer(class, command).await;
        assert_eq!(class, "com.cloud.agent.api.storage.PrimaryStorageDownloadAnswer");
        fields
    }

    #[tokio::test]
    async fn a_template_comes_whole_or_not_at_all() {
        let Some(secondary) = Secondary::new().await else { return };
        filled(&secondary.content.path().join("x.qcow2"), "8M").await;
        let directory = "nfs://10.0.0.1/export/secondary/template/tmpl/1/3";
        let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
        for (file, words) in [("gone.qcow2", "was not found"), ("..", "is not a path inside")] {
            let answer = download(&mut bench, &format!("{directory}/{file}")).await;
            assert_eq!(answer["result"], false);
            assert!(answer["details"].as_str().unwrap().contains(words), "{answer}");
        }
        assert_eq!(download(&mut bench, "x").await["result"], false);
        // Steps of the journal: the file, the commit.
        for fault in interruptions(2) {
            let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, Faults::new(fault)).await;
            assert_eq!(download(&mut bench, &format!("{directory}/x.qcow2")).await["result"], false);
            bench.ctx.services.journal.recover().await;
            assert!(bench.pool_files().is_empty(), "{fault:?}");
        }
        for file in ["x.qcow2", ""] {
            let answer = download(&mut bench, &format!("{directory}/{file}")).await;
            assert_eq!(answer["templateSize"], 8 << 20, "{answer}");
            assert!(bench.pool_dir().join(answer["installPath"].as_str().unwrap()).exists());
        }
        assert!(secondary.is_unmounted());
    }
}
