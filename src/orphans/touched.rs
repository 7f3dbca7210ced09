//! Names that requests of this agent's life were about: guests, volumes, templates, snapshots.
//!
//! What a request has touched is the server's business, not debris. The list is kept in the runtime
//! directory too, one name a line, so that `agent orphans` sees it without asking a busy agent.

use super::names;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// File in the runtime directory.
pub const TOUCHED: &str = "touched";
/// More names than a host sees in months; beyond it names are only noted in the log.
const MOST: usize = 200_000;

/// Handle to the list.
#[derive(Debug, Clone)]
pub struct Touched {
    names: Arc<Mutex<BTreeSet<String>>>,
    writer: mpsc::UnboundedSender<String>,
}

impl Touched {
    /// Starts a new list in `directory`; the one of an earlier life is forgotten. Needs a runtime.
    pub fn spawn(directory: &Path) -> Touched {
        let (writer, names) = mpsc::unbounded_channel();
        tokio::spawn(write(directory.join(TOUCHED), names));
        Touched { names: Arc::default(), writer }
    }

    /// Of a path the last component counts.
    pub fn note(&self, name: &str) {
        let name = name.rsplit('/').next().unwrap_or_default();
        if name.is_empty() || name.contains('\n') {
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MOST {
            tracing::debug!(name, "The list of touched names is full");
        } else if names.insert(name.to_owned()) {
            // Fails only when the process ends.
            let _ = self.writer.send(name.to_owned());
        }
    }

    /// Notes everything in a request that looks like a name of CloudStack's. Questions do not count:
    /// servers ask for the statistics of all that they have rows of, what they lost included.
    pub fn note_request(&self, class: &str, fields: &str) {
        let class = class.rsplit('.').next().unwrap_or_default();
        if class.starts_with("Get") {
            return;
        }
        let words = fields.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '_'));
        let ours = |word: &&str| names::is_volume(word) || names::is_guest(names::stem(word));
        words.filter(ours).for_each(|word| self.note(word));
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Appends each name; the file begins empty.
async fn write(path: PathBuf, mut names: mpsc::UnboundedReceiver<String>) {
    let mut waiting = Vec::new();
    let mut begun = false;
    loop {
        if begun && names.recv_many(&mut waiting, 1024).await == 0 {
            return;
        }
        let text: String = waiting.drain(..).map(|name| name + "\n").collect();
        let (path, fresh) = (path.clone(), !std::mem::replace(&mut begun, true));
        let written = tokio::task::spawn_blocking(move || {
            let mut file = std::fs::File::options().create(true).append(true).open(path)?;
            if fresh {
                file.set_len(0)?;
            }
            file.write_all(text.as_bytes())
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "The list of touched names cannot be written: `agent orphans` may list what is in use by the server");
        }
    }
}

/// What the agent noted in `directory`; empty if it never ran.
pub fn read(directory: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(directory.join(TOUCHED)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_touches_what_it_names_and_a_question_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let touched = Touched::spawn(directory.path());
        let id = "0b3d1f5e-8a35-4c11-9d6b-3f0d8a1f2c11";
        let fields = format!(
            r#"{{"path":"/pool/{id}.iso","vmName":"r-4-VM","isoFile":"configdrive/i-2-7-VM.iso","x":"a-b"}}"#
        );
        touched.note_request("com.cloud.agent.api.GetVolumeStatsCommand", &fields);
        assert_eq!(touched.names(), BTreeSet::new());
        touched.note_request("com.cloud.agent.api.StartCommand", &fields);
        let wanted = [format!("{id}.iso"), "r-4-VM".to_owned(), "i-2-7-VM.iso".to_owned()];
        assert_eq!(touched.names(), BTreeSet::from(wanted));
    }

    #[tokio::test]
    async fn names_are_kept_once_and_a_new_life_forgets_them() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(TOUCHED), "old\n").unwrap();
        let touched = Touched::spawn(directory.path());
        for name in ["a", "/pool/b", "a", "", "x\ny"] {
            touched.note(name);
        }
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(touched.names(), both);
        while read(directory.path()) != both {
            tokio::task::yield_now().await;
        }
    }
}
