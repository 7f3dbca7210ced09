//! Takes a run back: files get their former content, links their former target, programs their opposite,
//! in reverse order; what has to see the files restored runs last. A file that somebody has changed since
//! is left alone and told. Never stops half-way.

use std::fs;
use std::path::{Path, PathBuf};

use super::apply::{StepError, edit_properties, execute, put_link};
use super::planning::Undo;
use super::record::{Done, RecordError, Records, Run, Value};
use super::root::Root;
use crate::errors::chain;
use crate::files::{Permissions, write_atomically};

/// What became of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What was taken back, in order.
    pub steps: Vec<String>,
    /// What could not be, with the reason.
    pub failures: Vec<String>,
}

/// Takes the last run back; `None` if there is none.
pub async fn undo_last(root: &Root) -> Result<Option<Restored>, RecordError> {
    let records = Records::open(root)?;
    match records.last()? {
        Some(mut run) => Ok(Some(undo_run(root, &mut run).await)),
        None => Ok(None),
    }
}

/// Takes all entries of a run back, also those that were recorded and not done.
pub(super) async fn undo_run(root: &Root, run: &mut Run) -> Restored {
    let mut restored = Restored::default();
    let mut at_end: Vec<Vec<String>> = Vec::new();
    for entry in run.entries().iter().rev() {
        let outcome = match &entry.done {
            Done::Wrote { path, existed } => file(root, run, path, *existed),
            Done::Properties { path, values, existed } => properties(root, path, values, *existed),
            Done::Linked { path, target, before, existed } => {
                link(root, run, path, target, before.as_deref(), *existed)
            }
            Done::Ran { undo, .. } => match undo {
                Undo::Nothing => continue,
                Undo::RunAtEnd(words) => {
                    if !at_end.contains(words) {
                        at_end.push(words.clone());
                    }
                    continue;
                }
                Undo::Run(words) => program(root, words).await,
            },
        };
        restored.add(&entry.what, outcome);
    }
    // In the order in which they were planned: sockets come back before the daemon does.
    for words in at_end.iter().rev() {
        restored.add(&format!("run {}", words.join(" ")), program(root, words).await);
    }
    if let Err(error) = run.mark_undone() {
        restored.failures.push(chain(&error));
    }
    restored
}

/// A step that was taken back, or why not.
type Outcome = Result<(), Trouble>;

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{} was changed since and stays as it is; its former content is {}", path.display(), kept.display())]
    Changed { path: PathBuf, kept: PathBuf },
    #[error("Cannot remove {}", path.display())]
    Remove { path: PathBuf, source: std::io::Error },
    #[error("Cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Restored {
    fn add(&mut self, what: &str, outcome: Outcome) {
        match outcome {
            Ok(()) => self.steps.push(what.to_owned()),
            Err(error) => self.failures.push(format!("{what}: {}", chain(&error))),
        }
    }
}

async fn program(root: &Root, words: &[String]) -> Outcome {
    match words.split_first() {
        Some((program, arguments)) => Ok(execute(root, program, arguments).await?),
        None => Ok(()),
    }
}

fn file(root: &Root, run: &Run, path: &Path, existed: bool) -> Outcome {
    let place = root.at(path);
    let now = root.bytes(path).map_err(StepError::from)?;
    let kept = run.before(path);
    let before = if existed { Some(read(&kept)?) } else { None };
    if now == before {
        return Ok(());
    }
    if now != fs::read(run.after(path)).ok() {
        return Err(Trouble::Changed { path: place, kept });
    }
    match before {
        Some(bytes) => write_atomically(&place, &bytes, Permissions::KeepOr(0o644))
            .map_err(|source| StepError::Write { path: place, source }.into()),
        None => remove(place),
    }
}

/// Key by key, because the agent writes to the file too.
fn properties(root: &Root, path: &Path, values: &[Value], existed: bool) -> Outcome {
    edit_properties(root, path, |file| {
        values.iter().fold(false, |changed, value| {
            if file.get(&value.key) != Some(value.after.as_str()) {
                return changed;
            }
            let now = match &value.before {
                Some(before) => file.set(&value.key, before),
                None => file.remove(&value.key),
            };
            now || changed
        })
    })?;
    let is_empty = || root.bytes(path).ok().flatten().is_some_and(|bytes| bytes.is_empty());
    if !existed && is_empty() { remove(root.at(path)) } else { Ok(()) }
}

fn link(root: &Root, run: &Run, path: &Path, target: &Path, before: Option<&Path>, existed: bool) -> Outcome {
    let place = root.at(path);
    if fs::read_link(&place).ok().as_deref() != Some(target) {
        return Ok(());
    }
    match before {
        Some(before) => Ok(put_link(&place, before)?),
        None if existed => {
            let bytes = read(&run.before(path))?;
            remove(place.clone())?;
            write_atomically(&place, &bytes, Permissions::Exactly(0o600))
                .map_err(|source| StepError::Write { path: place, source }.into())
        }
        None => remove(place),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Trouble> {
    fs::read(path).map_err(|source| Trouble::Read { path: path.to_owned(), source })
}

fn remove(path: PathBuf) -> Outcome {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Trouble::Remove { path, source }),
        _ => Ok(()),
    }
}
