//! The file itself: reading, judging, writing. Blocking; run by the task of [`super::ConfigStore`].

use super::{Change, FileState, Persisted, Reload};
use crate::config::error::ConfigError;
use crate::config::properties::{MAX_BYTES, Properties};
use crate::config::reader::Pins;
use crate::config::typed::Config;
use crate::files::{AtomicError, Permissions, StagedFile};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Writes are given up after this many edits by others at the same moment.
const ATTEMPTS: usize = 3;

/// Tells versions of the file apart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Also tells of copies that keep the modification time, and of changed access rights.
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// `None` if there is no file, or none that can be examined.
    fn at(path: &Path) -> Option<Stamp> {
        std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
    }
}

/// The text of the file and its stamp; `None` if there is no file.
fn read_file(path: &Path) -> Result<Option<(Properties, Stamp)>, ConfigError> {
    match read_bytes(path) {
        Ok((bytes, stamp)) => match Properties::parse(&bytes) {
            Ok(file) => Ok(Some((file, stamp))),
            Err(source) => Err(ConfigError::Parse { path: path.to_owned(), source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn read_bytes(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    // Opening a named pipe would block for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    // Taken before the text: an edit in between gives another stamp at the next look.
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    // One byte over the limit is enough for the parser to refuse the file.
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes, stamp))
}

/// Keys whose values differ.
fn differing_keys(old: &Properties, new: &Properties) -> Vec<String> {
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (old.iter().collect(), new.iter().collect());
    let mut keys: Vec<&str> = old.keys().chain(new.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().filter(|key| old.get(key) != new.get(key)).map(str::to_owned).collect()
}

fn apply(changes: &[Change], file: &mut Properties) -> bool {
    let mut changed = false;
    for Change { key, value } in changes {
        changed |= match value {
            Some(value) => file.set(key, value),
            None => file.remove(key),
        };
    }
    changed
}

/// State behind the handles.
#[derive(Debug)]
pub(super) struct FileOwner {
    path: PathBuf,
    /// Stamp of the version that the published state is about.
    published: Option<Stamp>,
    /// A newer version that the last look saw for the first time.
    unsettled: Option<Option<Stamp>>,
    /// Text of the last usable version.
    good: Option<Properties>,
    /// Text of the last usable version that a reload has reported about.
    reported: Option<Properties>,
    /// Set with the first version that is good enough to register with.
    pins: Option<Pins>,
    states: watch::Sender<Arc<FileState>>,
    last_good: watch::Sender<Option<Arc<Config>>>,
}

type Opened = (FileOwner, watch::Receiver<Arc<FileState>>, watch::Receiver<Option<Arc<Config>>>);

impl FileOwner {
    /// Reads the file for the first time.
    pub(super) fn open(path: PathBuf) -> Opened {
        let (states, state_receiver) = watch::channel(Arc::new(FileState::Missing { path: path.clone() }));
        let (last_good, good_receiver) = watch::channel(None);
        let mut owner = FileOwner {
            path,
            published: None,
            unsettled: None,
            good: None,
            reported: None,
            pins: None,
            states,
            last_good,
        };
        owner.refresh();
        owner.reported = owner.good.clone();
        (owner, state_receiver, good_receiver)
    }

    /// Whether somebody else has changed the file and then left it alone for one interval. Editors and the
    /// Java agent truncate and write, so a change that has just happened may be a part of one.
    pub(super) fn has_settled_change(&mut self) -> bool {
        let seen = Stamp::at(&self.path);
        if seen == self.published {
            self.unsettled = None;
            return false;
        }
        self.unsettled.replace(seen) == Some(seen)
    }

    /// Reads the file and publishes its state.
    pub(super) fn refresh(&mut self) {
        self.unsettled = None;
        let stamp = Stamp::at(&self.path);
        match read_file(&self.path) {
            Ok(Some((file, stamp))) => match self.judge(&file) {
                Ok(config) => self.publish_good(file, stamp, config),
                Err(error) => self.publish_bad(Some(stamp), error),
            },
            Ok(None) => self.publish_missing(),
            Err(error) => self.publish_bad(stamp, error),
        }
    }

    pub(super) fn reload(&mut self) -> Reload {
        self.refresh();
        let error = match &**self.states.borrow() {
            FileState::Loaded(_) => None,
            FileState::Invalid { error } => Some(error.clone()),
            FileState::Missing { path } => Some(Arc::new(ConfigError::Vanished { path: path.clone() })),
        };
        let Some(good) = &self.good else { return Reload { error, ..Reload::default() } };
        let nothing = Properties::default();
        let changed = differing_keys(self.reported.as_ref().unwrap_or(&nothing), good);
        self.reported = Some(good.clone());
        let restart_needed = self.pins.as_ref().map(|pins| pins.differing(good)).unwrap_or_default();
        Reload { changed, restart_needed, error }
    }

    pub(super) fn persist(&mut self, changes: &[Change]) -> Result<Persisted, ConfigError> {
        self.persist_with(changes, || {})
    }

    /// `before_commit` runs where an edit by others does harm: tests put one there.
    pub(super) fn persist_with(
        &mut self,
        changes: &[Change],
        mut before_commit: impl FnMut(),
    ) -> Result<Persisted, ConfigError> {
        for _ in 0..ATTEMPTS {
            let Some((before, stamp)) = read_file(&self.path)? else {
                return Err(ConfigError::Vanished { path: self.path.clone() });
            };
            let mut file = before.clone();
            self.judge(&before)?;
            if !apply(changes, &mut file) {
                return Ok(Persisted::Unchanged);
            }
            self.judge(&file).map_err(|source| ConfigError::Refused {
                path: self.path.clone(),
                keys: changes.iter().map(|change| change.key).collect(),
                source: Box::new(source),
            })?;
            let staged = StagedFile::write(&self.path, &file.to_bytes(), Permissions::KeepOr(0o600))
                .map_err(|source| self.write_error(source))?;
            before_commit();
            // The slow part is over; an edit by others meanwhile must not be undone.
            if Stamp::at(&self.path) != Some(stamp) {
                continue;
            }
            let written = staged.commit();
            if !matches!(written, Err(AtomicError::Replace { .. })) {
                self.take_over(changes);
            }
            self.refresh();
            return written.map(|()| Persisted::Written).map_err(|source| self.write_error(source));
        }
        Err(ConfigError::Contended { path: self.path.clone() })
    }

    fn write_error(&self, source: AtomicError) -> ConfigError {
        ConfigError::Write { path: self.path.clone(), source }
    }

    /// What the agent stores itself is in force at once and is no news to it.
    fn take_over(&mut self, changes: &[Change]) {
        if let Some(reported) = &mut self.reported {
            apply(changes, reported);
        }
        if let Some(pins) = &mut self.pins {
            for Change { key, value } in changes {
                pins.update(key, value.as_deref());
            }
        }
    }

    /// Whether the file can be used: all its values, and its guid if it had one before.
    fn judge(&self, file: &Properties) -> Result<Config, ConfigError> {
        let bytes = file.to_bytes();
        if bytes.len() > MAX_BYTES {
            // Only reached by an edit; a file of this size is not read in the first place.
            Properties::parse(&bytes)
                .map_err(|source| ConfigError::Parse { path: self.path.clone(), source })?;
        }
        let config = Config::from_properties(&self.path, file)?;
        let Some(pins) = &self.pins else { return Ok(config) };
        if !config.missing().is_empty() {
            return Err(ConfigError::IdentityLost { path: self.path.clone() });
        }
        // Old and new storage values may not fit together; then the new ones are the better guess.
        Ok(Config::with_pins(&self.path, file, pins).unwrap_or(config))
    }

    fn publish_good(&mut self, file: Properties, stamp: Stamp, config: Config) {
        self.published = Some(stamp);
        if self.pins.is_none() && config.missing().is_empty() {
            self.pins = Some(Pins::of(&file));
        }
        let is_loaded = matches!(&**self.states.borrow(), FileState::Loaded(_));
        if is_loaded && self.good.as_ref() == Some(&file) {
            return;
        }
        self.log_good(&file, &config);
        self.good = Some(file);
        let config = Arc::new(config);
        self.last_good.send_replace(Some(config.clone()));
        self.states.send_replace(Arc::new(FileState::Loaded(config)));
    }

    fn log_good(&self, file: &Properties, config: &Config) {
        let path = self.path.display();
        match &self.good {
            None => tracing::info!(%path, "Configuration read"),
            Some(old) if old == file => tracing::info!(%path, "Configuration is back, unchanged"),
            Some(old) => {
                let changed = differing_keys(old, file);
                tracing::info!(%path, keys = changed.join(" "), "Configuration has changed");
                let waiting = self.pins.as_ref().map(|pins| pins.differing(file)).unwrap_or_default();
                let waiting: Vec<_> = waiting.into_iter().filter(|key| changed.contains(key)).collect();
                if !waiting.is_empty() {
                    let keys = waiting.join(" ");
                    tracing::warn!(%path, keys, "New values take effect only after a restart of the agent");
                }
            }
        }
        let known =
            self.last_good.borrow().as_ref().map(|config| config.warnings.clone()).unwrap_or_default();
        for warning in config.warnings.iter().filter(|warning| !known.contains(warning)) {
            tracing::warn!(%path, "{warning}");
        }
    }

    fn publish_bad(&mut self, stamp: Option<Stamp>, error: ConfigError) {
        let same_version = self.published == stamp && stamp.is_some();
        self.published = stamp;
        if same_version && matches!(&**self.states.borrow(), FileState::Invalid { .. }) {
            return;
        }
        let in_force = if self.good.is_some() { "; the last good values stay in force" } else { "" };
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        tracing::error!("{error}{cause}{in_force}");
        self.states.send_replace(Arc::new(FileState::Invalid { error: Arc::new(error) }));
    }

    fn publish_missing(&mut self) {
        self.published = None;
        let known = matches!(&**self.states.borrow(), FileState::Missing { .. });
        if !known || self.good.is_none() {
            let path = self.path.display();
            tracing::error!(%path, "Configuration file does not exist: run cloudstack-setup-agent, or restore it");
        }
        if !known {
            self.states.send_replace(Arc::new(FileState::Missing { path: self.path.clone() }));
        }
    }
}
