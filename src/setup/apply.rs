//! Carries a plan out, one step after the other. Each step is recorded with its backup before it is done;
//! when one fails, those before it are taken back. Blocks for disk syncs; meant for short-lived programs.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::planning::{Edit, Plan, Step};
use super::record::{Done, Entry, RecordError, Records, Run, Value};
use super::root::{ReadError, Root};
use super::undo::{self, Restored};
use crate::config::Properties;
use crate::config::properties::PropertiesError;
use crate::files::{AtomicError, Permissions, StagedFile, write_atomically};
use crate::host::exec::ExecError;

/// For a program that changes something; libvirt takes its time to start.
const DEADLINE: Duration = Duration::from_secs(120);
/// Edits of agent.properties are given up after this many edits by others at the same moment.
const ATTEMPTS: usize = 5;
/// What is shown of a program's error output.
const MOST_ERROR: usize = 500;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("Cannot write {}", path.display())]
    Write { path: PathBuf, source: AtomicError },
    #[error("Cannot use {}", path.display())]
    Properties { path: PathBuf, source: PropertiesError },
    #[error("{} is edited by another program all the time: try again", .0.display())]
    Contended(PathBuf),
    #[error("Cannot make the link {}: check its directory", path.display())]
    Link { path: PathBuf, source: io::Error },
    #[error("{0} is not installed: install it")]
    NoProgram(String),
    #[error("Cannot run a program")]
    Start(#[source] ExecError),
    #[error("{command} failed: {output}")]
    Failed { command: String, output: String },
}

/// A plan that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("The plan has problems that must be solved first")]
    Problems,
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("Failed to {what}")]
    Step {
        what: String,
        source: Box<StepError>,
        /// What became of the steps before it.
        restored: Restored,
    },
}

/// What was done. `record` is where it is written down, if there was anything to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Applied {
    pub steps: usize,
    pub record: Option<PathBuf>,
}

/// Does all steps, or none.
pub async fn apply(root: &Root, plan: &Plan) -> Result<Applied, ApplyError> {
    if !plan.problems.is_empty() {
        return Err(ApplyError::Problems);
    }
    if plan.steps.is_empty() {
        return Ok(Applied { steps: 0, record: None });
    }
    let records = Records::open(root)?;
    let mut run = records.begin()?;
    for step in &plan.steps {
        if let Err(source) = do_step(root, &mut run, step).await {
            let restored = undo::undo_run(root, &mut run).await;
            return Err(ApplyError::Step { what: step.what.clone(), source: Box::new(source), restored });
        }
    }
    Ok(Applied { steps: plan.steps.len(), record: Some(run.directory().to_owned()) })
}

async fn do_step(root: &Root, run: &mut Run, step: &Step) -> Result<(), StepError> {
    match &step.edit {
        Edit::Write { path, content, mode } => write(root, run, step, path, content, *mode),
        Edit::Properties { path, values } => properties(root, run, step, path, values),
        Edit::Link { path, target } => link(root, run, step, path, target),
        Edit::Run { program, arguments, undo } => {
            let (program, arguments) = (program.clone(), arguments.clone());
            let done =
                Done::Ran { program: program.clone(), arguments: arguments.clone(), undo: undo.clone() };
            note(run, step, done)?;
            execute(root, &program, &arguments).await
        }
    }
}

fn note(run: &mut Run, step: &Step, done: Done) -> Result<(), StepError> {
    Ok(run.note(Entry { topic: step.topic, what: step.what.clone(), done })?)
}

fn write(
    root: &Root,
    run: &mut Run,
    step: &Step,
    path: &Path,
    content: &str,
    mode: u32,
) -> Result<(), StepError> {
    let before = root.bytes(path)?;
    if let Some(before) = &before {
        run.keep_before(path, before)?;
    }
    run.keep_after(path, content.as_bytes())?;
    note(run, step, Done::Wrote { path: path.to_owned(), existed: before.is_some() })?;
    let place = root.at(path);
    make_parent(&place)?;
    write_atomically(&place, content.as_bytes(), Permissions::KeepOr(mode))
        .map_err(|source| StepError::Write { path: place, source })
}

fn properties(
    root: &Root,
    run: &mut Run,
    step: &Step,
    path: &Path,
    values: &[(String, String)],
) -> Result<(), StepError> {
    let before = root.bytes(path)?;
    if let Some(before) = &before {
        run.keep_before(path, before)?;
    }
    let old = parse(path, before.as_deref().unwrap_or_default())?;
    let recorded = values.iter().map(|(key, after)| Value {
        key: key.clone(),
        before: old.get(key).map(str::to_owned),
        after: after.clone(),
    });
    let done =
        Done::Properties { path: path.to_owned(), values: recorded.collect(), existed: before.is_some() };
    note(run, step, done)?;
    edit_properties(root, path, |file| {
        values.iter().fold(false, |changed, (key, value)| file.set(key, value) || changed)
    })
}

/// Edits a properties file without loss, also while the agent does. `edit` says whether it changed anything.
pub(super) fn edit_properties(
    root: &Root,
    path: &Path,
    edit: impl Fn(&mut Properties) -> bool,
) -> Result<(), StepError> {
    let place = root.at(path);
    for _ in 0..ATTEMPTS {
        let before = root.bytes(path)?;
        let mut file = parse(path, before.as_deref().unwrap_or_default())?;
        if !edit(&mut file) {
            return Ok(());
        }
        make_parent(&place)?;
        let failed = |source| StepError::Write { path: place.clone(), source };
        let staged =
            StagedFile::write(&place, &file.to_bytes(), Permissions::KeepOr(0o600)).map_err(failed)?;
        if root.bytes(path)? == before {
            return staged.commit().map_err(failed);
        }
    }
    Err(StepError::Contended(place))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Properties, StepError> {
    Properties::parse(bytes).map_err(|source| StepError::Properties { path: path.to_owned(), source })
}

fn link(root: &Root, run: &mut Run, step: &Step, path: &Path, target: &Path) -> Result<(), StepError> {
    let place = root.at(path);
    let before = fs::read_link(&place).ok();
    // A file in the link's place is an operator's own certificate.
    let file = if before.is_none() { root.bytes(path)? } else { None };
    if let Some(bytes) = &file {
        run.keep_before(path, bytes)?;
    }
    let done =
        Done::Linked { path: path.to_owned(), target: target.to_owned(), before, existed: file.is_some() };
    note(run, step, done)?;
    put_link(&place, target)
}

/// Replaces whatever is at `place` by a link, in one step.
pub(super) fn put_link(place: &Path, target: &Path) -> Result<(), StepError> {
    let failed = |source| StepError::Link { path: place.to_owned(), source };
    make_parent(place)?;
    let mut temporary = place.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let _ = fs::remove_file(&temporary);
    symlink(target, &temporary).map_err(failed)?;
    fs::rename(&temporary, place).map_err(failed)
}

fn make_parent(place: &Path) -> Result<(), StepError> {
    let Some(parent) = place.parent() else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)
        .map_err(|source| StepError::Link { path: parent.to_owned(), source })
}

/// Runs a program to its end; an exit code other than 0 is an error with what the program said.
pub(super) async fn execute(root: &Root, program: &str, arguments: &[String]) -> Result<(), StepError> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = root
        .run(program, &words, DEADLINE)
        .await
        .ok_or_else(|| StepError::NoProgram(program.to_owned()))?
        .map_err(StepError::Start)?;
    if output.success() {
        return Ok(());
    }
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let said: String = String::from_utf8_lossy(said).trim().chars().take(MOST_ERROR).collect();
    Err(StepError::Failed { command: format!("{program} {}", arguments.join(" ")), output: said })
}

#[cfg(test)]
mod tests;
