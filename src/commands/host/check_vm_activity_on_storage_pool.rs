//! `com.cloud.agent.api.CheckVMActivityOnStoragePoolCommand`: do the guests of another host, which the
//! server cannot reach, still write to a shared NFS pool?
//!
//! Mirrors `kvmvmactivity.sh`: a recent heartbeat of the host, or a volume that was written to since it
//! is suspected (asked for the first time) or since the last question, is activity. `result=true` says
//! that there is none, whereupon the server has the host fenced. What cannot be read is therefore a
//! failure.

use crate::commands::to::{HostTo, StorageFiler};
use crate::commands::{Command, Ctx, Fault, NoFields, Reply};
use crate::hypervisor::{PoolKind, Refresh};
use crate::storage::disk::{DEADLINE, DiskError, Disks};
use crate::storage::names::VolumeName;
use crate::wire::lenient;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds after which a heartbeat says nothing any more.
const HEARTBEAT: u64 = 61;
/// Of a file that has a few numbers in it.
const LONGEST: u64 = 1024;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckVMActivityOnStoragePoolCommand {
    /// The suspect.
    pub host: HostTo,
    pub pool: StorageFiler,
    /// Files of its guests, separated by commas.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub volume_list: String,
    /// Since when it is suspected, in seconds since 1970.
    #[serde(default, deserialize_with = "lenient::int")]
    pub suspect_time_seconds: i64,
}

/// What was found at one question; the next is compared with it. Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    suspected: i64,
    /// When the last of the volumes was written to.
    written: i64,
}

impl Seen {
    /// `suspected:written:now`.
    fn parse(text: &str) -> Option<Seen> {
        let mut numbers = text.trim().split(':').map(str::parse::<i64>);
        Some(Seen { suspected: numbers.next()?.ok()?, written: numbers.next()?.ok()? })
    }

    fn is_activity(self, before: Option<Seen>) -> bool {
        match before {
            // A suspicion older than the last one is a new case.
            Some(before) if self.suspected >= before.suspected => self.written > before.written,
            Some(_) | None => self.written > self.suspected,
        }
    }
}

impl Command for CheckVMActivityOnStoragePoolCommand {
    type Answer = NoFields;

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let suspect = self.host.private_ip();
        let suspect = suspect.ok_or_else(|| Fault::new("The suspected host has no valid private address"))?;
        let names = self.volume_list.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<VolumeName> = names.map(VolumeName::last_of).collect::<Result<_, _>>()?;
        let pool = ctx.services.hypervisor.pool(&self.pool.uuid, Refresh::No).await?;
        let Some(mount) = pool.path.filter(|_| pool.kind == PoolKind::NetFs).map(PathBuf::from) else {
            return Err(Fault::new("Unsupported Storage"));
        };
        let disks = &ctx.services.storage.disks;
        let file = |kind: &str| mount.join("KVMHA").join(format!("{kind}-{suspect}"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let active = || Reply::failed(NoFields {}, "VMHA disk activity detected ...");

        let beat = read(disks, &file("hb")).await?;
        let beat = beat.trim().parse::<u64>();
        let beat = beat.map_err(|_| Fault::new(format!("The heartbeat of host {suspect} is not a time")))?;
        if now.saturating_sub(beat) < HEARTBEAT {
            return Ok(active());
        }
        if names.is_empty() {
            return Ok(Reply::done());
        }
        let paths = names.iter().map(|name| mount.join(name.as_str())).collect();
        let seen = Seen { suspected: self.suspect_time_seconds, written: last_write(disks, paths).await? };
        let record = file("ac");
        let before = match read(disks, &record).await {
            Ok(text) => Seen::parse(&text),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let line = format!("{}:{}:{now}\n", seen.suspected, seen.written);
        disks.run("writing", &record, DEADLINE, move |path| std::fs::write(path, line)).await?;
        Ok(if seen.is_activity(before) { active() } else { Reply::done() })
    }
}

async fn read(disks: &Disks, path: &Path) -> Result<String, DiskError> {
    let read = |path: &Path| {
        let mut text = String::new();
        std::io::Read::read_to_string(
            &mut std::io::Read::take(std::fs::File::open(path)?, LONGEST),
            &mut text,
        )?;
        Ok(text)
    };
    disks.run("reading", path, DEADLINE, read).await
}

/// The latest of all times; volumes that are not there say nothing. 0 if none is.
async fn last_write(disks: &Disks, paths: Vec<PathBuf>) -> Result<i64, DiskError> {
    let Some(first) = paths.first().cloned() else { return Ok(0) };
    let look = move |_: &Path| {
        let mut latest = 0;
        for path in &paths {
            match std::fs::metadata(path) {
                Ok(facts) => latest = latest.max(std::os::unix::fs::MetadataExt::mtime(&facts)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(latest)
    };
    disks.run("looking at", &first, DEADLINE, look).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::{Value, json};
    use std::time::Duration;

    const CLASS: &str = "com.cloud.agent.api.CheckVMActivityOnStoragePoolCommand";
    const POOL: &str = "9572a059-c161-4d90-8fb4-2cc51dcc2325";
    const LOCAL: &str = "3a9b1a62-6e7d-4e8c-9b79-2e3a7d2fa0c2";

    /// A host with an NFS pool and a local one at the same place.
    async fn bench(mount: &Path) -> Bench {
        let pool = |kind: &str, uuid: &str, source: &str| {
            format!(
                "<pool type='{kind}'><name>{uuid}</name><uuid>{uuid}</uuid>{source}<target><path>{}</path></target></pool>",
                mount.display()
            )
        };
        let source = "<source><host name='nfs1'/><dir path='/export'/></source>";
        Bench::with_node(&format!("<node>{}{}</node>", pool("netfs", POOL, source), pool("dir", LOCAL, "")))
            .await
    }

    async fn ask(bench: &mut Bench, pool: &str, volumes: &str, suspected: u64) -> Value {
        let fields = json!({"host": {"privateNetwork": {"ip": "10.0.0.1"}}, "pool": {"uuid": pool, "type": "NetworkFilesystem"},
            "volumeList": volumes, "suspectTimeSeconds": suspected});
        let (class, fields) = bench.answer(CLASS, fields).await;
        assert_eq!(class, "com.cloud.agent.api.Answer");
        fields
    }

    /// Sets when the file was written to.
    fn write(path: &Path, at: u64) {
        let file = std::fs::File::create(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(at)).unwrap();
    }

    #[tokio::test]
    async fn volumes_that_are_written_to_are_activity() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::create_dir(mount.path().join("KVMHA")).unwrap();
        let heartbeat = mount.path().join("KVMHA/hb-10.0.0.1");
        std::fs::write(&heartbeat, "1000\n").unwrap();
        let mut bench = bench(mount.path()).await;
        let (one, two) = (mount.path().join("one"), mount.path().join("two"));
        write(&one, 2_000);
        // Silent since long before; then the other writes, and is silent again.
        assert_eq!(ask(&mut bench, POOL, "one,two", 5_000).await["result"], true);
        write(&two, 5_005);
        let answer = ask(&mut bench, POOL, "one, two", 5_000).await;
        assert_eq!(
            (&answer["result"], &answer["details"]),
            (&json!(false), &json!("VMHA disk activity detected ..."))
        );
        assert_eq!(ask(&mut bench, POOL, "one,two", 5_000).await["result"], true);
        // An earlier suspicion is another case, which begins with its own time.
        assert_eq!(ask(&mut bench, POOL, "one,two", 4_000).await["result"], false);
        assert_eq!(ask(&mut bench, POOL, "", 5_000).await["result"], true);
        std::fs::write(&heartbeat, u64::MAX.to_string()).unwrap();
        assert_eq!(ask(&mut bench, POOL, "", 5_000).await["result"], false);
    }

    #[tokio::test]
    async fn without_evidence_nobody_is_fenced() {
        let mount = tempfile::tempdir().unwrap();
        let mut bench = bench(mount.path()).await;
        assert!(ask(&mut bench, POOL, "one", 5).await["details"].as_str().unwrap().contains("hb-10.0.0.1"));
        std::fs::create_dir(mount.path().join("KVMHA")).unwrap();
        std::fs::write(mount.path().join("KVMHA/hb-10.0.0.1"), "soon\n").unwrap();
        for (pool, volumes, why) in [
            (POOL, "one", "not a time"),
            (POOL, "one,x y", "cannot name a volume"),
            (LOCAL, "one", "Unsupported Storage"),
            ("gone", "one", "No storage pool named gone"),
        ] {
            let answer = ask(&mut bench, pool, volumes, 5).await;
            assert_eq!(answer["result"], false);
            assert!(answer["details"].as_str().unwrap().contains(why), "{answer}");
        }
    }
}
