//! What `cloudstack-rolling-maintenance@.service` runs: one stage of rolling maintenance, in a process
//! of its own that outlives the agent.
//!
//! Mirrors the runner of the reference agent (`rolling-maintenance`): the same instance name, the same
//! two files of results.

use super::maintenance_stage::{Ended, Job, Stage, run_in_agent};
use crate::commands::Fault;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs what `instance` says, `STAGE,SCRIPT,SECONDS,RESULTS,OUTPUT[,PAYLOAD]`, and writes how it ended to
/// RESULTS and OUTPUT. A script that fails is a result, not an error.
pub async fn run(instance: &str) -> Result<(), Fault> {
    let (job, results, output) = parse(instance)?;
    let ended = run_in_agent(&job).await.unwrap_or_else(|fault| Ended {
        success: false,
        avoid: false,
        output: fault.text().to_owned(),
    });
    // Whoever sees the results finds the output complete.
    write(&output, &ended.output)?;
    let line = format!("{},{},{}\n", job.stage.name(), flag(ended.success), flag(ended.avoid));
    write(&results, &line)
}

fn parse(instance: &str) -> Result<(Job, PathBuf, PathBuf), Fault> {
    let wrong = || {
        let shown: String = instance.chars().take(200).collect();
        Fault::new(format!(
            "{shown:?} is not STAGE,SCRIPT,SECONDS,RESULTS,OUTPUT[,PAYLOAD]: let the agent start this unit"
        ))
    };
    // The payload may have commas of its own.
    let fields: Vec<&str> = instance.splitn(6, ',').collect();
    let [stage, script, seconds, results, output, payload @ ..] = fields.as_slice() else {
        return Err(wrong());
    };
    let path = |text: &str| Some(PathBuf::from(text)).filter(|path| path.is_absolute()).ok_or_else(wrong);
    let job = Job {
        stage: Stage::parse(stage)?,
        script: path(script)?,
        payload: payload.first().copied().unwrap_or_default().to_owned(),
        timeout: Duration::from_secs(seconds.parse().map_err(|_| wrong())?),
    };
    Ok((job, path(results)?, path(output)?))
}

fn flag(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn write(file: &Path, text: &str) -> Result<(), Fault> {
    std::fs::write(file, text)
        .map_err(|error| Fault::new(format!("Cannot write {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::script;

    async fn outcome(body: &str, tail: &str) -> (String, String) {
        let dir = tempfile::tempdir().unwrap();
        let stage = script(dir.path(), "Maintenance", body).await;
        let (results, output) = (dir.path().join("results"), dir.path().join("output"));
        let instance =
            format!("Maintenance,{},30,{},{}{tail}", stage.display(), results.display(), output.display());
        run(&instance).await.unwrap();
        (std::fs::read_to_string(results).unwrap(), std::fs::read_to_string(output).unwrap())
    }

    #[tokio::test]
    async fn each_end_of_a_script_is_a_result() {
        let (results, output) = outcome("echo \"$# $1\"", ",a b, c").await;
        assert_eq!((results.as_str(), output.as_str()), ("Maintenance,True,False\n", "1 a b, c"));
        let (results, output) = outcome("echo $#; exit 70", "").await;
        assert_eq!((results.as_str(), output.as_str()), ("Maintenance,True,True\n", "0"));
        let (results, output) = outcome("echo broken; exit 3", "").await;
        assert_eq!(results, "Maintenance,False,False\n");
        assert!(output.contains("broken"), "{output}");
    }

    #[tokio::test]
    async fn what_is_no_job_is_refused() {
        for instance in [
            "",
            "Maintenance",
            "Other,/bin/true,1,/a,/b",
            "Maintenance,true,1,/a,/b",
            "Maintenance,/bin/true,x,/a,/b",
        ] {
            assert!(run(instance).await.is_err(), "{instance}");
        }
    }
}
