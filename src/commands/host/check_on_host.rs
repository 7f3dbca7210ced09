//! `com.cloud.agent.api.CheckOnHostCommand`: is another host, which the server cannot reach, dead?
//!
//! Judged by the heartbeats that hosts leave on shared NFS pools (`KVMHA/hb-<address>`, the time of
//! the last one in seconds since 1970; `kvmheartbeat.sh`). `result=true` vouches for the death: the
//! server then starts the guests of that host elsewhere. Where there is no evidence the answer is
//! therefore false; the reference agent says true without any NFS pool. Running guests twice
//! destroys their disks; leaving them down costs an operator's attention.

use crate::commands::to::HostTo;
use crate::commands::{Command, Ctx, Fault, NoFields, Reply};
use crate::host::exec::Program;
use crate::wire::lenient;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A heartbeat is a number of ten digits and a line break.
const LONGEST_HEARTBEAT: usize = 64;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckOnHostCommand {
    /// The suspect.
    pub host: HostTo,
    /// One pool without heartbeat is enough.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub report_check_failure_if_one_storage_is_down: bool,
}

/// What one pool says about the suspect.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Evidence {
    Alive,
    /// There is a heartbeat, but it is old.
    Dead,
    /// No heartbeat was ever written there, or it cannot be read.
    None(String),
}

/// How many of the pools must lack a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quorum {
    All,
    One,
}

/// `beat`: content of the file. A heartbeat from the future is that of a clock that is ahead.
fn judge(beat: &str, now: Duration, interval: Duration) -> Evidence {
    match beat.trim().parse::<u64>() {
        Ok(at) if now.as_secs().saturating_sub(at) > interval.as_secs() => Evidence::Dead,
        Ok(_) => Evidence::Alive,
        Err(_) => Evidence::None("the heartbeat is not a time".into()),
    }
}

/// `Some(true)` is dead; `None` if no pool has anything to say.
fn verdict(evidence: &[Evidence], quorum: Quorum) -> Option<bool> {
    let dead = evidence.contains(&Evidence::Dead);
    let alive = evidence.contains(&Evidence::Alive);
    match (dead, alive, quorum) {
        (false, false, _) => None,
        (true, true, Quorum::All) => Some(false),
        (dead, _, _) => Some(dead),
    }
}

/// By a process of its own: reading from a dead NFS server cannot be interrupted.
async fn read_heartbeat(cat: &Path, file: &Path, deadline: Duration) -> Result<String, String> {
    let run = Program::new(cat).arg(file).deadline(deadline).max_output(LONGEST_HEARTBEAT).run();
    match run.await {
        Ok(output) if output.success() => Ok(output.text()),
        Ok(_) => Err("no heartbeat there".into()),
        Err(error) => Err(error.to_string()),
    }
}

impl Command for CheckOnHostCommand {
    type Answer = NoFields;

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let unclear = |why: &str| Fault::new(format!("CheckOnHostCommand: can't get status of host: {why}"));
        let no_address = || unclear("the command has no valid private address");
        let suspect = self.host.private_ip().ok_or_else(no_address)?;
        let config = ctx.config()?;
        let milliseconds =
            |key| config.number(key).and_then(|n| u64::try_from(n).ok()).map(Duration::from_millis);
        let interval = milliseconds("kvm.heartbeat.update.frequency").unwrap_or(Duration::from_secs(60));
        let deadline = milliseconds("kvm.heartbeat.checker.timeout")
            .unwrap_or(Duration::from_secs(360))
            .min(ctx.deadline);
        let pools = ctx.services.hypervisor.net_pools().await?;
        if pools.is_empty() {
            return Err(unclear("this host has no NFS pool to judge by"));
        }
        let Some(cat) = crate::host::exec::find_program("cat") else {
            return Err(unclear("cat is not installed"));
        };
        // All pools at once, and ended a little before the command is: a dead server must not keep
        // the others from being heard.
        let deadline = deadline.mul_f32(0.9);
        let mut reads = tokio::task::JoinSet::new();
        for pool in pools {
            let cat = cat.clone();
            let file = Path::new(&pool.path).join("KVMHA").join(format!("hb-{suspect}"));
            reads.spawn(async move {
                match read_heartbeat(&cat, &file, deadline).await {
                    Ok(beat) => judge(&beat, since_1970(), interval),
                    Err(why) => Evidence::None(format!("pool {}: {why}", pool.name)),
                }
            });
        }
        let evidence = reads.join_all().await;
        let quorum = if self.report_check_failure_if_one_storage_is_down { Quorum::One } else { Quorum::All };
        match verdict(&evidence, quorum) {
            Some(true) => Ok(Reply::done()),
            Some(false) => Ok(Reply::failed(NoFields {}, "Heart is beating...")),
            None => {
                let first = evidence.iter().find_map(|one| match one {
                    Evidence::None(why) => Some(why.as_str()),
                    Evidence::Alive | Evidence::Dead => None,
                });
                Err(unclear(first.unwrap_or("no pool has a heartbeat of it")))
            }
        }
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::{Value, json};

    const CLASS: &str = "com.cloud.agent.api.CheckOnHostCommand";
    const INTERVAL: Duration = Duration::from_secs(60);

    fn node(mount: &Path) -> String {
        format!(
            "<node><cpu><mhz>1</mhz><model>x86_64</model><active>1</active><nodes>1</nodes><sockets>1</sockets>\
             <cores>1</cores><threads>1</threads></cpu><memory>1024</memory><pool type='netfs'><name>nfs</name>\
             <source><host name='nfs1'/><dir path='/export'/></source>\
             <target><path>{}</path></target></pool></node>",
            mount.display()
        )
    }

    fn suspect(ip: &str) -> Value {
        json!({"host": {"guid": "g", "privateNetwork": {"ip": ip, "isSecurityGroupEnabled": false}},
            "reportCheckFailureIfOneStorageIsDown": false})
    }

    #[tokio::test]
    async fn only_an_old_heartbeat_proves_death() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::create_dir(mount.path().join("KVMHA")).unwrap();
        let now = since_1970().as_secs();
        for (ip, beat) in [("10.0.0.1", now - 3_600), ("10.0.0.2", now), ("10.0.0.3", now + 3_600)] {
            std::fs::write(mount.path().join(format!("KVMHA/hb-{ip}")), format!("{beat}\n")).unwrap();
        }
        std::fs::write(mount.path().join("KVMHA/hb-10.0.0.4"), "x".repeat(1_000)).unwrap();
        let mut bench = Bench::with_node(&node(mount.path())).await;
        let expected = [
            ("10.0.0.1", true, ""),
            ("10.0.0.2", false, "Heart is beating"),
            ("10.0.0.3", false, "Heart is beating"),
            ("10.0.0.4", false, "not a time"),
            ("10.0.0.5", false, "no heartbeat there"),
            ("../../etc/passwd", false, "no valid private address"),
        ];
        for (ip, result, details) in expected {
            let (class, fields) = bench.answer(CLASS, suspect(ip)).await;
            assert_eq!(
                (class.as_str(), &fields["result"]),
                ("com.cloud.agent.api.Answer", &json!(result)),
                "{ip}"
            );
            assert!(fields["details"].as_str().unwrap_or_default().contains(details), "{ip}: {fields}");
        }
    }

    #[tokio::test]
    async fn without_a_pool_nobody_is_declared_dead() {
        let (_, fields) = Bench::new().await.answer(CLASS, suspect("10.0.0.1")).await;
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().contains("no NFS pool to judge by"));
    }

    #[test]
    fn heartbeats_age_in_seconds_beyond_eight_bits() {
        let now = Duration::from_secs(1_000_000);
        assert_eq!(judge("999940\n", now, INTERVAL), Evidence::Alive);
        assert_eq!(judge("999939", now, INTERVAL), Evidence::Dead);
        // An exit code would have cut this age to 0.
        assert_eq!(judge(&(1_000_000 - 256).to_string(), now, INTERVAL), Evidence::Dead);
        assert!(matches!(judge("", now, INTERVAL), Evidence::None(_)));
    }

    #[test]
    fn one_living_pool_outweighs_unless_told_otherwise() {
        let silent = Evidence::None(String::new());
        for (evidence, all, one) in [
            (vec![], None, None),
            (vec![silent.clone()], None, None),
            (vec![Evidence::Dead, silent.clone()], Some(true), Some(true)),
            (vec![Evidence::Alive, silent], Some(false), Some(false)),
            (vec![Evidence::Alive, Evidence::Dead], Some(false), Some(true)),
        ] {
            assert_eq!(verdict(&evidence, Quorum::All), all, "{evidence:?}");
            assert_eq!(verdict(&evidence, Quorum::One), one, "{evidence:?}");
        }
    }
}
