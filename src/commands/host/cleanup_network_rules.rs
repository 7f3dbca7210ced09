//! `com.cloud.agent.api.CleanupNetworkRulesCmd`: remove the firewall rules of guests that are gone,
//! now and then.
//!
//! The command is answered once, at once. (The reference agent answers it again after each run, with
//! the sequence number of the one request; servers drop that.) The repetition ends with the
//! connection: each registration orders it anew.

use crate::commands::ctx::CronJob;
use crate::commands::{Command, Ctx, Fault, NoFields, Reply, SessionRequest};
use crate::config::{Config, Properties};
use crate::host::exec::{Program, is_executable};
use crate::wire::lenient;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where the server's packages put the scripts that hosts run.
const SCRIPTS: &str = "/usr/share/cloudstack-common";
const SCRIPT: &str = "scripts/vm/network/security_group.py";
/// Bounds of the interval from the wire, in seconds.
const SHORTEST: i64 = 60;
const LONGEST: i64 = 24 * 3_600;
const SCRIPT_DEADLINE: Duration = Duration::from_secs(600);

#[derive(Debug, serde::Deserialize)]
pub struct CleanupNetworkRulesCmd {
    /// Seconds.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub interval: Option<i64>,
}

impl CleanupNetworkRulesCmd {
    fn interval(&self) -> Duration {
        const USUAL: i64 = 600;
        let seconds = self.interval.unwrap_or(USUAL).clamp(SHORTEST, LONGEST);
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }
}

impl Command for CleanupNetworkRulesCmd {
    type Answer = NoFields;

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let script = script(&*ctx.config()?);
        let interval = self.interval();
        let job = job(script, SCRIPT_DEADLINE.min(interval));
        ctx.session.ask(SessionRequest::Every { name: "cleanup_rules", interval, job }).await;
        Ok(Reply::done())
    }
}

/// The script below `paths.script` of environment.properties, which lies beside agent.properties.
fn script(config: &Config) -> PathBuf {
    let environment = std::fs::read(config.dir().join("environment.properties")).unwrap_or_default();
    let base =
        Properties::parse(&environment).ok().and_then(|file| file.get("paths.script").map(PathBuf::from));
    base.filter(|base| base.is_absolute()).unwrap_or_else(|| SCRIPTS.into()).join(SCRIPT)
}

fn job(script: PathBuf, deadline: Duration) -> CronJob {
    let failures = Arc::new(AtomicU32::new(0));
    Box::new(move || {
        let (script, failures) = (script.clone(), failures.clone());
        Box::pin(async move {
            match clean_up(&script, deadline).await {
                Ok(()) => failures.store(0, Ordering::Relaxed),
                Err(fault) => {
                    // The 1st, 2nd, 4th, 8th ... in a row.
                    let count = failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                    if count.is_power_of_two() {
                        tracing::warn!(script = %script.display(), count, "Firewall rules are not cleaned up: {fault}");
                    }
                }
            }
        })
    })
}

/// Hosts without security groups have no such script, and nothing to clean up.
async fn clean_up(script: &Path, deadline: Duration) -> Result<(), Fault> {
    if !is_executable(script) {
        return Ok(());
    }
    let output = Program::new(script).arg("cleanup_rules").deadline(deadline).run().await?;
    if output.success() {
        return Ok(());
    }
    Err(Fault::new(format!("exit code {:?}: {}", output.code, String::from_utf8_lossy(&output.stderr))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{self, Bench};
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.CleanupNetworkRulesCmd";

    #[tokio::test]
    async fn one_answer_and_a_repetition_that_runs_the_script() {
        let mut bench = Bench::new().await;
        let base = bench.dir().join("common");
        let directory = base.join("scripts/vm/network");
        std::fs::create_dir_all(&directory).unwrap();
        let trace = bench.dir().join("trace");
        testing::script(&directory, "security_group.py", &format!("echo \"$@\" >> {}", trace.display()))
            .await;
        let environment = format!("paths.script={}\n", base.display());
        std::fs::write(bench.dir().join("environment.properties"), environment).unwrap();

        let (class, fields) = bench.answer(CLASS, json!({"interval": 2546, "contextMap": {}})).await;
        assert_eq!((class.as_str(), &fields["result"]), ("com.cloud.agent.api.Answer", &json!(true)));
        let Some(SessionRequest::Every { interval, job, .. }) = bench.request() else {
            panic!("no repetition")
        };
        assert!(bench.request().is_none());
        assert_eq!(interval, Duration::from_secs(2_546));
        assert!(!trace.exists(), "the command itself runs nothing");
        job().await;
        job().await;
        assert_eq!(std::fs::read_to_string(trace).unwrap(), "cleanup_rules\ncleanup_rules\n");
    }

    #[tokio::test]
    async fn a_host_without_the_script_has_nothing_to_do() {
        assert_eq!(clean_up(Path::new("/no/such/script"), SCRIPT_DEADLINE).await, Ok(()));
        let directory = tempfile::tempdir().unwrap();
        let failing = testing::script(directory.path(), "failing", "echo broken >&2; exit 3").await;
        let fault = clean_up(&failing, SCRIPT_DEADLINE).await.unwrap_err();
        assert!(fault.text().contains("broken") && fault.text().contains('3'), "{fault}");
    }

    #[test]
    fn intervals_from_the_wire_are_bounded() {
        let interval = |interval| CleanupNetworkRulesCmd { interval }.interval().as_secs();
        assert_eq!(
            [Some(0), Some(-1), Some(i64::MAX), Some(600), None].map(interval),
            [60, 60, 86_400, 600, 600]
        );
    }
}
