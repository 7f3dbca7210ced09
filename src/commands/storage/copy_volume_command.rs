//! `com.cloud.agent.api.storage.CopyVolumeCommand`: a volume to secondary storage or back, where
//! `CopyCommand` does not serve.

use super::files::{self, Fetch};
use super::stored::{Stored, store_away};
use crate::commands::to::{Data, StorageFiler};
use crate::commands::{Claims, Command, Ctx, Fault, Reply, place};
use crate::storage::names::{RelativePath, VolumeName};
use crate::storage::pools::Pool;
use crate::storage::qemu_img::ImageFormat;
use crate::wire::lenient;
use std::collections::BTreeMap;

const QCOW2: &str = ".qcow2";

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyVolumeCommand {
    #[serde(default, deserialize_with = "lenient::int")]
    volume_id: i64,
    /// In the pool; on secondary storage without its `.qcow2`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    volume_path: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pool: StorageFiler,
    #[serde(default, deserialize_with = "lenient::or_default", rename = "secondaryStorageURL")]
    secondary_storage_url: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    to_secondary_storage: bool,
    #[serde(default)]
    src_data: Option<Data>,
    /// May have the secrets of managed storage.
    #[serde(default, deserialize_with = "lenient::or_default")]
    src_details: BTreeMap<String, Option<String>>,
}

impl std::fmt::Debug for CopyVolumeCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("CopyVolumeCommand");
        shown.field("volume_path", &self.volume_path).field("pool", &self.pool).finish_non_exhaustive()
    }
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyVolumeAnswer {
    /// Name of the copy; on secondary storage without its `.qcow2`.
    volume_path: String,
}

impl Command for CopyVolumeCommand {
    type Answer = CopyVolumeAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.storage.CopyVolumeAnswer";

    fn claims(&self) -> Claims {
        if self.to_secondary_storage {
            Claims::none().shared(place::key(&self.pool.uuid, &self.volume_path))
        } else {
            Claims::none()
        }
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<CopyVolumeAnswer>, Fault> {
        if self.src_details.contains_key("iqn") {
            return Err(Fault::new("Managed storage is not supported by this agent: iqn"));
        }
        if self.volume_id <= 0 {
            return Err(Fault::new("The command does not say which volume to copy"));
        }
        let pool = ctx.services.storage.pools.get(self.pool.reference()).await?;
        let directory = RelativePath::new(&format!("volumes/{}", self.volume_id))?;
        let volume_path = if self.to_secondary_storage {
            self.store(&ctx, &pool, &directory).await?
        } else {
            self.fetch(&ctx, &pool, &directory).await?
        };
        Ok(Reply::ok(CopyVolumeAnswer { volume_path }))
    }
}

impl CopyVolumeCommand {
    async fn store(&self, ctx: &Ctx, pool: &Pool, directory: &RelativePath) -> Result<String, Fault> {
        let source = VolumeName::last_of(&self.volume_path)?;
        let (secret, format) = match &self.src_data {
            Some(Data::Volume(volume)) => {
                let format = volume.format.as_deref().and_then(ImageFormat::named);
                (files::secret(&volume.passphrase)?, format)
            }
            _ => (None, None),
        };
        let volume = Stored { pool, name: &source, format, passphrase: secret.as_ref() };
        let name = files::random_name(ctx, QCOW2)?;
        store_away(ctx, volume, &self.secondary_storage_url, directory, &name).await?;
        Ok(name.as_str().trim_end_matches(QCOW2).to_owned())
    }

    async fn fetch(&self, ctx: &Ctx, pool: &Pool, directory: &RelativePath) -> Result<String, Fault> {
        let name = files::random_name(ctx, "")?;
        let file = VolumeName::last_of(&self.volume_path)?;
        let fetch = Fetch {
            directory: &format!("{}/{directory}", self.secondary_storage_url.trim_end_matches('/')),
            file: &format!("{file}{QCOW2}"),
            format: None,
            pool,
            name: &name,
            size: None,
            passphrase: None,
        };
        files::fetch(ctx, fetch).await?;
        Ok(name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::storage::testing::{Secondary, filled, interruptions, overlay};
    use crate::commands::testing::Bench;
    use crate::journal::faults::Faults;
    use crate::storage::testing::qemu_img;
    use serde_json::{Value, json};

    const CLASS: &str = "com.cloud.agent.api.storage.CopyVolumeCommand";

    async fn copy(bench: &mut Bench, path: &str, away: bool, more: &[(&str, Value)]) -> Value {
        let mut command = json!({"volumeId": 5, "volumePath": path, "pool": bench.filer(),
            "secondaryStorageURL": "nfs://10.0.0.1/export/secondary", "toSecondaryStorage": away});
        for (member, value) in more {
            command[*member] = value.clone();
        }
        let (class, fields) = bench.answer(CLASS, command).await;
        assert_eq!(class, "com.cloud.agent.api.storage.CopyVolumeAnswer");
        fields
    }

    #[tokio::test]
    async fn a_volume_goes_away_whole_and_comes_back() {
        let Some(secondary) = Secondary::new().await else { return };
        let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
        filled(&bench.pool_dir().join("t"), "8M").await;
        overlay(&bench.pool_dir().join("v"), &bench.pool_dir().join("t")).await;
        let away = copy(&mut bench, "v", true, &[]).await;
        assert_eq!(away["result"], true, "{away}");
        let name = away["volumePath"].as_str().unwrap();
        assert_eq!(secondary.files(), [format!("volumes/5/{name}.qcow2")]);
        secondary.flatten(&format!("volumes/5/{name}.qcow2"));
        let back = copy(&mut bench, name, false, &[]).await;
        assert_eq!(back["result"], true, "{back}");
        let path = bench.pool_dir().join(back["volumePath"].as_str().unwrap());
        let chain = qemu_img().unwrap().backing_chain(&path).await.unwrap();
        assert_eq!((chain.len(), chain[0].virtual_size), (1, 8 << 20));
        assert!(secondary.is_unmounted());
    }

    #[tokio::test]
    async fn what_cannot_be_copied_leaves_nothing() {
        let Some(secondary) = Secondary::new().await else { return };
        let mut bench = Bench::with_pool_and_nfs(&secondary.nfs).await;
        for (away, member, value, words) in [
            (true, "volumePath", json!("gone"), "was not found"),
            (false, "volumePath", json!("gone"), "was not found"),
            (false, "volumePath", json!("../.."), "cannot name a volume"),
            (true, "secondaryStorageURL", json!("cifs://h/x"), "cifs://h/x"),
            (true, "volumeId", json!(0), "does not say which volume"),
            (true, "srcDetails", json!({"iqn": "/iqn/0"}), "Managed storage"),
        ] {
            std::fs::write(bench.pool_dir().join("v"), "x").unwrap();
            let answer = copy(&mut bench, "v", away, &[(member, value)]).await;
            assert_eq!(answer["result"], false, "{member}");
            assert!(answer["details"].as_str().unwrap().contains(words), "{member}: {answer}");
            assert!(secondary.files().is_empty() && secondary.is_unmounted(), "{member}");
            assert_eq!(bench.pool_files(), ["v"]);
        }
    }

    #[tokio::test]
    async fn an_interrupted_copy_is_none() {
        let Some(secondary) = Secondary::new().await else { return };
        // Steps of the journal: directory, file, commit.
        for fault in interruptions(3) {
            let mut bench = Bench::with_pool_and_nfs_and_faults(&secondary.nfs, Faults::new(fault)).await;
            filled(&bench.pool_dir().join("v"), "8M").await;
            assert_eq!(copy(&mut bench, "v", true, &[]).await["result"], false);
            bench.ctx.services.journal.recover().await;
            assert!(secondary.is_empty() && secondary.is_unmounted(), "{fault:?}");
        }
    }
}
