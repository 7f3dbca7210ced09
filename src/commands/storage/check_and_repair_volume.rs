//! `com.cloud.agent.api.storage.CheckAndRepairVolumeCommand`: looks for errors in the image of a volume
//! that no guest has open, and repairs what it was told to.

use super::files;
use crate::commands::to::{Passphrase, StorageFiler};
use crate::commands::{Claims, Command, Ctx, Fault, Reply, place};
use crate::storage::names::VolumeName;
use crate::storage::qemu_img::{ImageFormat, Repair, Source};
use crate::wire::lenient;
use serde_json::{Value, json};

const NO_RAW: &str = "Volume format RAW is not supported to check and repair";
const NO_LEAKS: &str = "No leaks found while checking on the volume, so skipping repair";

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckAndRepairVolumeCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    path: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pool: StorageFiler,
    /// `leaks` or `all`; only looks without.
    #[serde(default)]
    repair: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    passphrase: Passphrase,
}

/// JSON as text: what `qemu-img` reports, or an object with a `message`.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckAndRepairVolumeAnswer {
    volume_check_execution_result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_repair_execution_result: Option<String>,
}

impl Command for CheckAndRepairVolumeCommand {
    type Answer = CheckAndRepairVolumeAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.storage.CheckAndRepairVolumeAnswer";

    fn claims(&self) -> Claims {
        place::key(&self.pool.uuid, &self.path).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<CheckAndRepairVolumeAnswer>, Fault> {
        let repair = match self.repair.as_deref().filter(|repair| !repair.is_empty()) {
            None => None,
            Some("leaks") => Some(Repair::Leaks),
            Some("all") => Some(Repair::All),
            Some(other) => return Err(Fault::new(format!("Repair of {other:?} is not known: leaks or all"))),
        };
        let name = VolumeName::last_of(&self.path)?;
        let storage = &ctx.services.storage;
        let path = storage.pools.get(self.pool.reference()).await?.volume(&name);
        let format = storage.volumes.inspect(&path, None).await?.format;
        if format == ImageFormat::Raw {
            return Ok(reply(message(NO_RAW), None));
        }
        // What a guest is about to write looks like an error.
        files::not_in_use(&ctx, &path).await?;
        let secret = files::secret(&self.passphrase)?;
        let image = Source { passphrase: secret.as_ref(), ..Source::new(&path, format) };
        storage.volumes.contained(image).await?;
        let check = |repair| storage.images.check(image, repair, files::deadline(&ctx));
        let found = check(None).await?;
        let repaired = match repair {
            None => None,
            Some(Repair::Leaks) if found.leaks == 0 => Some(message(NO_LEAKS)),
            Some(repair) => {
                let report = check(Some(repair)).await?;
                tracing::info!(volume = %path.display(), leaks = report.leaks_fixed, errors = report.corruptions_fixed, "Volume is repaired");
                Some(compact(&report.json))
            }
        };
        Ok(reply(compact(&found.json), repaired))
    }
}

fn reply(checked: String, repaired: Option<String>) -> Reply<CheckAndRepairVolumeAnswer> {
    let details =
        [Some(checked.as_str()), repaired.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(",");
    let answer = CheckAndRepairVolumeAnswer {
        volume_check_execution_result: checked,
        volume_repair_execution_result: repaired,
    };
    Reply::ok(answer).details(details)
}

fn message(text: &str) -> String {
    json!({ "message": text }).to_string()
}

/// On one line.
fn compact(report: &str) -> String {
    serde_json::from_str::<Value>(report).map_or_else(|_| report.to_owned(), |report| report.to_string())
}

#[cfg(test)]
mod tests {
    use crate::commands::storage::testing::filled;
    use crate::commands::testing::Bench;
    use crate::storage::testing::{qemu_img, run};
    use serde_json::{Value, json};
    use std::io::{Seek, SeekFrom, Write};
    use std::path::Path;

    const CLASS: &str = "com.cloud.agent.api.storage.CheckAndRepairVolumeCommand";

    async fn check(bench: &mut Bench, more: &[(&str, Value)]) -> Value {
        let mut command = json!({"path": "v", "pool": bench.filer(), "passphrase": []});
        for (member, value) in more {
            command[*member] = value.clone();
        }
        let (class, fields) = bench.answer(CLASS, command).await;
        assert_eq!(class, "com.cloud.agent.api.storage.CheckAndRepairVolumeAnswer");
        fields
    }

    fn report(answer: &Value, kind: &str) -> Value {
        let text = answer[format!("volume{kind}ExecutionResult")].as_str();
        serde_json::from_str(text.unwrap_or_else(|| panic!("no {kind}: {answer}"))).unwrap()
    }

    /// Takes the reference to the first cluster of data away, so that its cluster leaks. Tables begin at
    /// 3 * 64 KiB with default settings.
    fn leak(path: &Path) {
        let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut header = [0; 48];
        std::io::Read::read_exact(&mut file, &mut header).unwrap();
        let table = u64::from_be_bytes(header[40..48].try_into().unwrap());
        file.seek(SeekFrom::Start(table)).unwrap();
        let mut entry = [0; 8];
        std::io::Read::read_exact(&mut file, &mut entry).unwrap();
        let second = u64::from_be_bytes(entry) & 0x00ff_ffff_ffff_fe00;
        file.seek(SeekFrom::Start(second)).unwrap();
        file.write_all(&[0; 8]).unwrap();
    }

    #[tokio::test]
    async fn a_sound_volume_is_left_alone() {
        if qemu_img().is_none() {
            return;
        }
        let mut bench = Bench::with_pool().await;
        let path = bench.pool_dir().join("v");
        filled(&path, "8M").await;
        let answer = check(&mut bench, &[]).await;
        let found = report(&answer, "Check");
        assert_eq!((&found["check-errors"], found.get("leaks")), (&json!(0), None), "{answer}");
        assert!(answer.get("volumeRepairExecutionResult").is_none());
        assert_eq!(answer["details"], answer["volumeCheckExecutionResult"]);
        let before = std::fs::read(&path).unwrap();
        let answer = check(&mut bench, &[("repair", json!("leaks"))]).await;
        assert!(report(&answer, "Repair")["message"].as_str().unwrap().starts_with("No leaks found"));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[tokio::test]
    async fn leaks_are_found_and_repaired_on_request() {
        if qemu_img().is_none() {
            return;
        }
        for repair in ["leaks", "all"] {
            let mut bench = Bench::with_pool().await;
            let path = bench.pool_dir().join("v");
            filled(&path, "8M").await;
            leak(&path);
            let answer = check(&mut bench, &[("repair", Value::Null)]).await;
            assert_eq!(report(&answer, "Check")["leaks"], 1, "{answer}");
            let answer = check(&mut bench, &[("repair", json!(repair))]).await;
            assert_eq!(report(&answer, "Check")["leaks"], 1, "{answer}");
            assert_eq!(report(&answer, "Repair")["leaks-fixed"], 1, "{answer}");
            let answer = check(&mut bench, &[]).await;
            assert_eq!(report(&answer, "Check").get("leaks"), None, "{answer}");
        }
    }

    #[tokio::test]
    async fn an_encrypted_volume_is_checked_with_its_passphrase() {
        if qemu_img().is_none() {
            return;
        }
        let mut bench = Bench::with_pool().await;
        let mut data = bench.volume("v");
        data["org.apache.cloudstack.storage.to.VolumeObjectTO"]["passphrase"] = json!(b"canary".to_vec());
        let create = "org.apache.cloudstack.storage.command.CreateObjectCommand";
        assert_eq!(bench.answer(create, json!({"data": data})).await.1["result"], true);
        let answer = check(&mut bench, &[("passphrase", json!(b"canary".to_vec()))]).await;
        assert_eq!(report(&answer, "Check")["check-errors"], 0, "{answer}");
        let answer = check(&mut bench, &[("passphrase", json!(b"wrong".to_vec()))]).await;
        assert_eq!(answer["result"], false);
    }

    #[tokio::test]
    async fn what_is_not_checked_is_said() {
        if qemu_img().is_none() {
            return;
        }
        let mut bench = Bench::with_pool().await;
        let path = bench.pool_dir().join("v");
        run(&["qemu-img", "create", "-q", "-f", "raw", path.to_str().unwrap(), "1M"]).await.unwrap();
        let answer = check(&mut bench, &[("repair", json!("all"))]).await;
        assert_eq!(answer["result"], true);
        let words = report(&answer, "Check")["message"].clone();
        assert_eq!(words, "Volume format RAW is not supported to check and repair");
        std::fs::remove_file(&path).unwrap();
        filled(&path, "8M").await;
        let guest = bench.guest("i-2-3-VM", &path).await;
        for (member, value, words) in [
            ("path", json!("v"), "is disk vda of i-2-3-VM"),
            ("path", json!("gone"), "was not found"),
            ("repair", json!("everything"), "is not known"),
        ] {
            let answer = check(&mut bench, &[(member, value)]).await;
            assert_eq!(answer["result"], false);
            assert!(answer["details"].as_str().unwrap().contains(words), "{answer}");
        }
        bench.ctx.services.hypervisor.destroy(&guest).await.unwrap();
        assert_eq!(check(&mut bench, &[]).await["result"], true);
    }
}
