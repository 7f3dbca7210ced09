//! `com.cloud.agent.api.GetVolumesOnStorageCommand`: images of a pool that may be imported as volumes: one
//! by its path, or all whose name has a keyword in it.

use super::image_details::{self, Details, Image};
use crate::commands::to::StorageFiler;
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::storage::disk::DEADLINE;
use crate::storage::names::VolumeName;
use crate::storage::pools::Pool;
use crate::storage::qemu_img::ImageFormat;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVolumesOnStorageCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pool: StorageFiler,
    #[serde(default)]
    volume_path: Option<String>,
    #[serde(default)]
    keyword: Option<String>,
}

#[derive(Debug, serde::Serialize)]
pub struct GetVolumesOnStorageAnswer {
    volumes: Vec<VolumeOnStorage>,
}

/// `org.apache.cloudstack.storage.volume.VolumeOnStorageTO`; sizes in bytes.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct VolumeOnStorage {
    hypervisor_type: &'static str,
    path: String,
    full_path: String,
    name: String,
    format: String,
    size: u64,
    virtual_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    qemu_encrypt_format: Option<&'static str>,
    details: Details,
}

impl VolumeOnStorage {
    /// `None` for what is no volume, such as an image of another hypervisor.
    fn new(pool: &Pool, name: &VolumeName, image: &Image) -> Option<VolumeOnStorage> {
        let format = match image.info.format.as_str() {
            // An encrypted image without a frame of its own.
            "luks" => ImageFormat::Raw,
            other => ImageFormat::named(other)?,
        };
        Some(VolumeOnStorage {
            hypervisor_type: "KVM",
            path: name.to_string(),
            full_path: pool.volume(name).to_string_lossy().into_owned(),
            name: name.to_string(),
            format: format.as_str().to_owned(),
            size: image.info.actual_size,
            virtual_size: image.info.virtual_size,
            qemu_encrypt_format: image.info.encrypted.then_some("luks"),
            details: image.details(),
        })
    }
}

impl Command for GetVolumesOnStorageCommand {
    type Answer = GetVolumesOnStorageAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetVolumesOnStorageAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetVolumesOnStorageAnswer>, Fault> {
        let pool = ctx.services.storage.pools.get(self.pool.reference()).await?;
        let volumes = match self.volume_path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => vec![one(&ctx, &pool, path).await?],
            None => all(&ctx, &pool, self.keyword.as_deref().unwrap_or_default()).await?,
        };
        Ok(Reply::ok(GetVolumesOnStorageAnswer { volumes }))
    }
}

async fn one(ctx: &Ctx, pool: &Pool, path: &str) -> Result<VolumeOnStorage, Fault> {
    let name = VolumeName::last_of(path)?;
    let file = pool.volume(&name);
    // A path in another directory would name another file than the one that is looked at.
    if path != name.as_str() && std::path::Path::new(path) != file {
        return Err(Fault::new(format!(
            "{path:?} is neither the name nor the path of a volume in {}",
            pool.uuid
        )));
    }
    if !names(ctx, pool, name.as_str()).await?.contains(&name) {
        return Err(Fault::new(format!("Volume {} was not found", file.display())));
    }
    let image = image_details::look(ctx, &file).await?;
    VolumeOnStorage::new(pool, &name, &image).ok_or_else(|| {
        Fault::new(format!("{} is of the format {}: only qcow2 and raw", file.display(), image.info.format))
    })
}

async fn all(ctx: &Ctx, pool: &Pool, keyword: &str) -> Result<Vec<VolumeOnStorage>, Fault> {
    let mut volumes = Vec::new();
    for name in names(ctx, pool, keyword).await? {
        match image_details::look(ctx, &pool.volume(&name)).await {
            Ok(image) => volumes.extend(VolumeOnStorage::new(pool, &name, &image)),
            // It may have been deleted meanwhile; one that is broken must not hide the others.
            Err(error) => tracing::debug!(volume = %name, %error, "Left out of the list of volumes"),
        }
    }
    Ok(volumes)
}

/// Files of the pool whose name has `keyword` in it, sorted.
async fn names(ctx: &Ctx, pool: &Pool, keyword: &str) -> Result<Vec<VolumeName>, Fault> {
    let keyword = keyword.to_owned();
    let list = move |path: &std::path::Path| {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            // A link could lead anywhere.
            let file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let name = entry.file_name().to_str().and_then(|name| VolumeName::new(name).ok());
            names.extend(name.filter(|name| file && name.as_str().contains(&keyword)));
        }
        names.sort();
        Ok(names)
    };
    Ok(ctx.services.storage.disks.run("listing", &pool.local_path, DEADLINE, list).await?)
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use crate::storage::testing::{qemu_img, run};
    use serde_json::{Value, json};
    use std::path::Path;

    const CLASS: &str = "com.cloud.agent.api.GetVolumesOnStorageCommand";
    const MIB: u64 = 1 << 20;

    async fn ask(bench: &mut Bench, more: &[(&str, Value)]) -> Value {
        let mut command = json!({"pool": bench.filer()});
        for (member, value) in more {
            command[*member] = value.clone();
        }
        let (class, fields) = bench.answer(CLASS, command).await;
        assert_eq!(class, "com.cloud.agent.api.GetVolumesOnStorageAnswer");
        fields
    }

    async fn image(path: &Path, options: &[&str]) {
        let words = [&["qemu-img", "create", "-q", "-f"], options, &[path.to_str().unwrap()]].concat();
        run(&words).await.unwrap();
    }

    async fn filled() -> Bench {
        let bench = Bench::with_pool().await;
        let at = |name: &str| bench.pool_dir().join(name);
        run(&["qemu-img", "create", "-q", "-f", "qcow2", at("base").to_str().unwrap(), "8M"]).await.unwrap();
        let base = at("base");
        image(&at("over"), &["qcow2", "-F", "qcow2", "-b", base.to_str().unwrap()]).await;
        run(&["qemu-img", "create", "-q", "-f", "raw", at("raw").to_str().unwrap(), "1M"]).await.unwrap();
        run(&["qemu-img", "create", "-q", "-f", "vmdk", at("foreign").to_str().unwrap(), "1M"])
            .await
            .unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        std::fs::write(at(".hidden"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        bench
    }

    #[tokio::test]
    async fn volumes_are_listed_with_what_an_import_depends_on() {
        if qemu_img().is_none() {
            return;
        }
        let mut bench = filled().await;
        let answer = ask(&mut bench, &[]).await;
        let names: Vec<&str> = answer["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|volume| volume["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["base", "over", "raw"], "{answer}");
        let base = bench.pool_dir().join("base");
        let over = &answer["volumes"][1];
        assert_eq!(
            over["details"],
            json!({"BACKING_FILE": base, "BACKING_FILE_FORMAT": "qcow2", "CLUSTER_SIZE": "65536",
            "FILE_FORMAT": "qcow2", "IS_LOCKED": "false"})
        );
        assert_eq!((&over["hypervisorType"], &over["path"]), (&json!("KVM"), &json!("over")));
        assert_eq!((&over["format"], &over["virtualSize"]), (&json!("qcow2"), &json!(8 * MIB)));
        assert_eq!(over["fullPath"], json!(bench.pool_dir().join("over")));
        assert!(over["size"].as_u64().unwrap() < MIB && over.get("qemuEncryptFormat").is_none(), "{over}");
        let found = ask(&mut bench, &[("keyword", json!("as"))]).await;
        assert_eq!(found["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(ask(&mut bench, &[("keyword", json!("nothing"))]).await["volumes"], json!([]));
    }

    #[tokio::test]
    async fn one_volume_is_found_by_name_or_path_and_nothing_else_is() {
        if qemu_img().is_none() {
            return;
        }
        let mut bench = filled().await;
        let full = bench.pool_dir().join("raw");
        for path in ["raw", full.to_str().unwrap()] {
            let answer = ask(&mut bench, &[("volumePath", json!(path))]).await;
            assert_eq!(answer["volumes"][0]["name"], "raw");
            assert_eq!(answer["volumes"].as_array().unwrap().len(), 1);
        }
        for (path, words) in [
            ("gone", "was not found"),
            ("/etc/passwd", "is neither the name nor the path"),
            ("/etc/raw", "is neither the name nor the path"),
            ("../raw", "is neither the name nor the path"),
            ("link", "was not found"),
            ("directory", "was not found"),
            (".hidden", "cannot name a volume"),
            ("foreign", "is of the format vmdk"),
        ] {
            let answer = ask(&mut bench, &[("volumePath", json!(path))]).await;
            assert_eq!(answer["result"], false, "{path}");
            assert!(answer["details"].as_str().unwrap().contains(words), "{path}: {answer}");
        }
    }
}
