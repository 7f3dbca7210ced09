//! Running a stage of rolling maintenance: its script, inside the agent or as a systemd unit.
//!
//! Files and names are those of the reference agent, whose runner or its successor the unit starts:
//! the unit's instance name carries everything the runner has to know, its results come back in
//! files beside the scripts.

use crate::commands::Fault;
use crate::host::exec::{Output, Program};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Exit code of a script that wants the maintenance of this host skipped.
const AVOID_MAINTENANCE: i32 = 70;
/// Exit code of a script that was terminated (128 + SIGTERM).
const TERMINATED: i32 = 143;
const RESULTS_FILE: &str = "rolling-maintenance-results";
const OUTPUT_FILE: &str = "rolling-maintenance-output";
/// Output that goes to the server.
const LONGEST_OUTPUT: usize = 64 * 1024;
const SYSTEMCTL_DEADLINE: Duration = Duration::from_secs(30);
/// Taken off the time that a script in the agent may run, so that its end is seen before the command's.
const MARGIN: Duration = Duration::from_secs(1);
/// systemd refuses longer names of units.
const LONGEST_UNIT: usize = 255;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    PreFlight,
    PreMaintenance,
    Maintenance,
    PostMaintenance,
}

impl Stage {
    const ALL: [Stage; 4] =
        [Stage::PreFlight, Stage::PreMaintenance, Stage::Maintenance, Stage::PostMaintenance];

    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::PreFlight => "PreFlight",
            Stage::PreMaintenance => "PreMaintenance",
            Stage::Maintenance => "Maintenance",
            Stage::PostMaintenance => "PostMaintenance",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Stage, Fault> {
        Stage::ALL.into_iter().find(|stage| stage.name() == text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            let known = Stage::ALL.map(Stage::name).join(", ");
            Fault::new(format!("Unknown stage {shown:?}, expected one of {known}"))
        })
    }

    /// `<stage>`, else `<stage>.sh`, else `<stage>.py` in the directory of hooks.
    pub(super) fn script(self, hooks: &Path) -> Option<PathBuf> {
        ["", ".sh", ".py"]
            .iter()
            .map(|ending| hooks.join(format!("{}{ending}", self.name())))
            .find(|script| script.is_file())
    }
}

/// One run of a stage.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) stage: Stage,
    pub(super) script: PathBuf,
    pub(super) payload: String,
    pub(super) timeout: Duration,
}

/// How a stage ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) success: bool,
    /// This host should be left out of the maintenance.
    pub(super) avoid: bool,
    pub(super) output: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Running,
    Ended(Ended),
}

/// Runs the script to its end. A script that is not executable or too slow is a fault.
pub(super) async fn run_in_agent(job: &Job) -> Result<Ended, Fault> {
    let payload = Some(job.payload.as_str()).filter(|payload| !payload.is_empty());
    let deadline = job.timeout.saturating_sub(MARGIN).max(job.timeout / 2);
    let program = Program::new(&job.script).args(payload).deadline(deadline).max_output(LONGEST_OUTPUT);
    let output = program.run().await?;
    let text = both(&output);
    match output.code {
        Some(0) => Ok(Ended { success: true, avoid: false, output: text }),
        Some(AVOID_MAINTENANCE) => Ok(Ended { success: true, avoid: true, output: text }),
        None | Some(TERMINATED) => {
            let name = job.stage.name();
            Ok(Ended { success: false, avoid: false, output: format!("Stage {name} was terminated: {text}") })
        }
        Some(code) => {
            let output = format!("Stage {} failed with exit code {code}: {text}", job.stage.name());
            Ok(Ended { success: false, avoid: false, output })
        }
    }
}

fn both(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let texts = [output.text().trim().to_owned(), errors.trim().to_owned()];
    texts.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join("\n")
}

/// Runs stages as units of `cloudstack-rolling-maintenance@.service`, which outlive the agent.
#[derive(Debug)]
pub(super) struct ServiceExecutor<'a> {
    systemctl: &'a Path,
    results: PathBuf,
    output: PathBuf,
}

impl<'a> ServiceExecutor<'a> {
    pub(super) fn new(systemctl: &'a Path, hooks: &Path) -> ServiceExecutor<'a> {
        ServiceExecutor { systemctl, results: hooks.join(RESULTS_FILE), output: hooks.join(OUTPUT_FILE) }
    }

    /// Starts the unit; the results of an earlier run are deleted, lest they be taken for its own.
    pub(super) async fn start(&self, job: &Job) -> Result<(), Fault> {
        let unit = self.unit(job)?;
        for file in [&self.results, &self.output] {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Fault::new(format!("Cannot delete {}: {error}", file.display())));
                }
                _ => {}
            }
        }
        let output = self.systemctl(&["start", &unit]).await?;
        if output.success() {
            return Ok(());
        }
        let reason = both(&output);
        Err(Fault::new(format!(
            "Cannot start {unit}: {reason}; is cloudstack-rolling-maintenance@.service installed?"
        )))
    }

    pub(super) async fn progress(&self, job: &Job) -> Result<Progress, Fault> {
        let unit = self.unit(job)?;
        let state = self.systemctl(&["is-active", &unit]).await?.text();
        match state.trim() {
            "active" | "activating" | "reloading" | "deactivating" => Ok(Progress::Running),
            "failed" => {
                let output = format!("Stage {} failed: see journalctl -u '{unit}'", job.stage.name());
                Ok(Progress::Ended(Ended { success: false, avoid: false, output }))
            }
            _ => self.results(job.stage).map(Progress::Ended),
        }
    }

    async fn systemctl(&self, arguments: &[&str]) -> Result<Output, Fault> {
        Ok(Program::new(self.systemctl).args(arguments).deadline(SYSTEMCTL_DEADLINE).run().await?)
    }

    /// The results file is one line: stage, success, avoid maintenance.
    fn results(&self, stage: Stage) -> Result<Ended, Fault> {
        let read = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
        let line = read(&self.results);
        let fields: Vec<&str> = line.trim().split(',').map(str::trim).collect();
        let [ran, success, avoid] = fields.as_slice() else {
            let file = self.results.display();
            return Err(Fault::new(format!("Stage {} ended without results in {file}", stage.name())));
        };
        if *ran != stage.name() {
            return Err(Fault::new(format!("The results are of stage {ran}, not of {}", stage.name())));
        }
        let yes = |text: &str| text.eq_ignore_ascii_case("true");
        let output: String = read(&self.output).trim().chars().take(LONGEST_OUTPUT).collect();
        Ok(Ended { success: yes(success), avoid: yes(avoid), output })
    }

    /// Name of the unit, with everything that the runner has to know.
    fn unit(&self, job: &Job) -> Result<String, Fault> {
        let mut instance = format!(
            "{},{},{},{},{}",
            job.stage.name(),
            job.script.display(),
            job.timeout.as_secs(),
            self.results.display(),
            self.output.display()
        );
        if !job.payload.is_empty() {
            instance.push(',');
            instance.push_str(&job.payload);
        }
        let unit = format!("cloudstack-rolling-maintenance@{}.service", escape(&instance));
        if unit.len() > LONGEST_UNIT {
            let remedy = "shorten the payload or rolling.maintenance.hooks.dir, or set rolling.maintenance.service.executor.disabled=true";
            return Err(Fault::new(format!("The unit name would be too long for systemd: {remedy}")));
        }
        Ok(unit)
    }
}

/// As `systemd-escape` does it, which the runner undoes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => out.push('-'),
            b'.' if at > 0 => out.push('.'),
            b':' | b'_' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            byte => drop(write!(out, "\\x{byte:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(payload: &str) -> Job {
        Job {
            stage: Stage::PreFlight,
            script: "/etc/hooks/PreFlight.sh".into(),
            payload: payload.into(),
            timeout: Duration::from_secs(600),
        }
    }

    #[test]
    fn instance_names_are_escaped_as_systemd_does() {
        assert_eq!(escape("a/b-c,d e.f"), r"a-b\x2dc\x2cd\x20e.f");
        assert_eq!(escape(".hidden:x_1"), r"\x2ehidden:x_1");
        assert_eq!(escape("é\\"), r"\xc3\xa9\x5c");
    }

    #[test]
    fn the_unit_carries_the_job() {
        let executor = ServiceExecutor::new(Path::new("/bin/systemctl"), Path::new("/h"));
        let expected = r"cloudstack-rolling-maintenance@PreFlight\x2c-etc-hooks-PreFlight.sh\x2c600\x2c-h-rolling\x2dmaintenance\x2dresults\x2c-h-rolling\x2dmaintenance\x2doutput";
        assert_eq!(executor.unit(&job("")).unwrap(), format!("{expected}.service"));
        assert_eq!(executor.unit(&job("p")).unwrap(), format!(r"{expected}\x2cp.service"));
        assert!(executor.unit(&job(&"p".repeat(200))).unwrap_err().text().contains("too long"));
    }

    #[test]
    fn results_must_be_complete_and_of_the_stage() {
        let hooks = tempfile::tempdir().unwrap();
        let executor = ServiceExecutor::new(Path::new("/bin/systemctl"), hooks.path());
        let results = |text: &str| {
            std::fs::write(hooks.path().join(RESULTS_FILE), text).unwrap();
            executor.results(Stage::PreFlight)
        };
        assert!(executor.results(Stage::PreFlight).is_err());
        assert!(results("PreFlight,True").is_err());
        assert!(results("Maintenance,True,False").is_err());
        let ended = results("PreFlight,False,True\n").unwrap();
        assert_eq!(ended, Ended { success: false, avoid: true, output: String::new() });
    }

    #[tokio::test]
    async fn a_slow_script_is_ended() {
        let hooks = tempfile::tempdir().unwrap();
        let script = crate::commands::testing::script(hooks.path(), "PreFlight", "exec sleep 600").await;
        let job = Job { script, timeout: Duration::from_millis(50), ..job("") };
        assert!(run_in_agent(&job).await.unwrap_err().text().contains("was killed"));
    }
}
