//! `com.cloud.agent.api.RollingMaintenanceCommand`: run one stage of the operator's maintenance of
//! this host, or say how it goes.
//!
//! ```text
//!                        ┌── agent: run the script to its end ──────────────▶ finished
//!   stage ─▶ its script ─┤
//!                        └── service: start a unit ─▶ running ─▶ (asked again) ─▶ finished
//! ```
//!
//! The scripts are the operator's, in `rolling.maintenance.hooks.dir`. From the wire come only the
//! stage, one of four, and a payload that is passed to the script as one argument.

use super::maintenance_stage::{Ended, Job, Progress, ServiceExecutor, Stage, run_in_agent};
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::host::exec::find_program;
use crate::wire::lenient;
use std::path::Path;

const LONGEST_PAYLOAD: usize = 1_000;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RollingMaintenanceCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub stage: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub payload: String,
    /// The stage was begun by an earlier command.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub started: bool,
    /// Run nothing, only say whether there is a script for the main stage.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub check_maintenance_script: bool,
}

#[derive(Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollingMaintenanceAnswer {
    finished: bool,
    avoid_maintenance: bool,
    /// Spelled so on the wire.
    #[serde(rename = "maintenaceScriptDefined")]
    maintenance_script_defined: bool,
}

type Outcome = Result<Reply<RollingMaintenanceAnswer>, Fault>;

impl Command for RollingMaintenanceCommand {
    type Answer = RollingMaintenanceAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.RollingMaintenanceAnswer";

    async fn handle(self, ctx: Ctx) -> Outcome {
        let config = ctx.config()?;
        let Some(hooks) = config.rolling_maintenance_hooks_dir.as_deref().filter(|dir| dir.is_absolute())
        else {
            return Err(Fault::new(
                "Set rolling.maintenance.hooks.dir in agent.properties to an absolute path",
            ));
        };
        if self.check_maintenance_script {
            let maintenance_script_defined = Stage::Maintenance.script(hooks).is_some();
            let answer = RollingMaintenanceAnswer { maintenance_script_defined, ..Default::default() };
            return Ok(Reply::ok(answer).details(""));
        }
        let stage = Stage::parse(&self.stage)?;
        if self.payload.len() > LONGEST_PAYLOAD || self.payload.chars().any(char::is_control) {
            return Err(Fault::new("The payload is too long or has control characters"));
        }
        let Some(script) = stage.script(hooks) else {
            return finished(Ended {
                success: true,
                avoid: false,
                output: format!("Skipped stage {}", stage.name()),
            });
        };
        // Servers repeat the time with every question, and it is part of the unit's name.
        let job = Job { stage, script, payload: self.payload, timeout: ctx.deadline };
        if config.rolling_maintenance_executor_disabled {
            in_agent(&job, self.started).await
        } else {
            let Some(systemctl) = find_program("systemctl") else {
                let remedy = "set rolling.maintenance.service.executor.disabled=true in agent.properties";
                return Err(Fault::new(format!("systemctl is not installed: {remedy}")));
            };
            by_service(&systemctl, hooks, &job, self.started).await
        }
    }
}

/// A stage that was begun here ended with its answer, or with the agent's restart.
async fn in_agent(job: &Job, started: bool) -> Outcome {
    if started {
        let output = format!("Stage {} finished", job.stage.name());
        return finished(Ended { success: true, avoid: false, output });
    }
    finished(run_in_agent(job).await?)
}

async fn by_service(systemctl: &Path, hooks: &Path, job: &Job, started: bool) -> Outcome {
    let executor = ServiceExecutor::new(systemctl, hooks);
    if !started {
        executor.start(job).await?;
        tracing::info!(stage = job.stage.name(), script = %job.script.display(), "Maintenance stage started");
    }
    match executor.progress(job).await? {
        Progress::Running => {
            let details = format!("Stage {} still running", job.stage.name());
            Ok(Reply::ok(RollingMaintenanceAnswer::default()).details(details))
        }
        Progress::Ended(ended) => finished(ended),
    }
}

fn finished(ended: Ended) -> Outcome {
    let answer =
        RollingMaintenanceAnswer { finished: true, avoid_maintenance: ended.avoid, ..Default::default() };
    Ok(if ended.success {
        Reply::ok(answer).details(ended.output)
    } else {
        Reply::failed(answer, ended.output)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{Bench, script};
    use serde_json::{Value, json};
    use std::time::Duration;

    const CLASS: &str = "com.cloud.agent.api.RollingMaintenanceCommand";

    /// A host that runs the scripts itself, and their directory.
    async fn bench() -> (Bench, tempfile::TempDir) {
        let hooks = tempfile::tempdir().unwrap();
        let lines = format!(
            "rolling.maintenance.hooks.dir={}\nrolling.maintenance.service.executor.disabled=true\n",
            hooks.path().display()
        );
        (Bench::with_properties(&lines).await, hooks)
    }

    async fn run(bench: &mut Bench, stage: &str) -> Value {
        let command =
            json!({"stage": stage, "payload": "a b", "started": false, "checkMaintenanceScript": false});
        let (class, fields) = bench.answer(CLASS, command).await;
        assert_eq!(class, "com.cloud.agent.api.RollingMaintenanceAnswer");
        fields
    }

    #[tokio::test]
    async fn exit_codes_of_scripts_have_their_meaning() {
        let (mut bench, hooks) = bench().await;
        script(hooks.path(), "PreFlight", "echo \"$# $1\"").await;
        script(hooks.path(), "PreMaintenance.sh", "exit 70").await;
        script(hooks.path(), "Maintenance.py", "echo broken; exit 3").await;
        let done = run(&mut bench, "PreFlight").await;
        assert_eq!(
            (&done["result"], &done["finished"], &done["avoidMaintenance"]),
            (&json!(true), &json!(true), &json!(false))
        );
        assert_eq!(done["details"], "1 a b", "the payload is one argument");
        let avoid = run(&mut bench, "PreMaintenance").await;
        assert_eq!((&avoid["result"], &avoid["avoidMaintenance"]), (&json!(true), &json!(true)));
        let failed = run(&mut bench, "Maintenance").await;
        assert_eq!((&failed["result"], &failed["finished"]), (&json!(false), &json!(true)));
        assert!(failed["details"].as_str().unwrap().contains("broken"));
        let skipped = run(&mut bench, "PostMaintenance").await;
        assert_eq!(
            (&skipped["result"], &skipped["details"]),
            (&json!(true), &json!("Skipped stage PostMaintenance"))
        );
    }

    #[tokio::test]
    async fn only_the_four_stages_exist() {
        let (mut bench, hooks) = bench().await;
        script(hooks.path(), "Other", "touch $0.ran").await;
        for stage in ["Other", "", "../Other", "PreFlight/../Other", "preflight"] {
            let fields = run(&mut bench, stage).await;
            assert_eq!(fields["result"], false, "{stage}");
        }
        assert!(!hooks.path().join("Other.ran").exists());
    }

    #[tokio::test]
    async fn the_check_tells_of_the_main_script_only() {
        let (mut bench, hooks) = bench().await;
        let check = json!({"checkMaintenanceScript": true, "started": false});
        assert_eq!(bench.answer(CLASS, check.clone()).await.1["maintenaceScriptDefined"], false);
        script(hooks.path(), "Maintenance.sh", "exit 1").await;
        let (_, fields) = bench.answer(CLASS, check).await;
        assert_eq!((&fields["maintenaceScriptDefined"], &fields["result"]), (&json!(true), &json!(true)));
        assert_eq!((&fields["finished"], &fields["details"]), (&json!(false), &json!("")));
    }

    #[tokio::test]
    async fn without_a_directory_the_setting_is_named() {
        let fields = run(&mut Bench::new().await, "PreFlight").await;
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().contains("rolling.maintenance.hooks.dir"));
    }

    #[tokio::test]
    async fn a_service_is_started_once_and_then_asked() {
        let hooks = tempfile::tempdir().unwrap();
        let stage_script = script(hooks.path(), "Maintenance", "exit 0").await;
        // Stands for systemd: remembers its calls; a started unit is active until told otherwise.
        let trace = hooks.path().join("trace");
        let state = hooks.path().join("state");
        let body = format!(
            "echo \"$*\" >> {trace}; case $1 in start) echo active > {state};; is-active) cat {state}; grep -q ^active {state};; esac",
            trace = trace.display(),
            state = state.display()
        );
        let systemctl = script(hooks.path(), "systemctl", &body).await;
        let job = Job {
            stage: Stage::Maintenance,
            script: stage_script,
            payload: String::new(),
            timeout: Duration::from_secs(60),
        };
        let first = by_service(&systemctl, hooks.path(), &job, false).await.unwrap();
        assert!(first.result && !first.fields.finished);
        assert_eq!(first.details.as_deref(), Some("Stage Maintenance still running"));
        std::fs::write(&state, "inactive\n").unwrap();
        std::fs::write(hooks.path().join("rolling-maintenance-results"), "Maintenance,True,True\n").unwrap();
        std::fs::write(hooks.path().join("rolling-maintenance-output"), "well done\n").unwrap();
        let second = by_service(&systemctl, hooks.path(), &job, true).await.unwrap();
        assert!(second.result && second.fields.finished && second.fields.avoid_maintenance);
        assert_eq!(second.details.as_deref(), Some("well done"));
        std::fs::write(&state, "failed\n").unwrap();
        let third = by_service(&systemctl, hooks.path(), &job, true).await.unwrap();
        assert!(!third.result && third.fields.finished);
        let trace = std::fs::read_to_string(trace).unwrap();
        assert_eq!(trace.matches("start cloudstack-rolling-maintenance@Maintenance").count(), 1, "{trace}");
    }
}
