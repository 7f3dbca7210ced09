//! What can go wrong with the configuration, in words that tell an administrator what to do.

use super::properties::PropertiesError;
use crate::files::AtomicError;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// One value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue {
    pub key: String,
    /// Line of the file, from 1; `None` if the key is not in the file.
    pub line: Option<usize>,
    /// Value found, shortened; never that of a secret.
    pub found: String,
    /// What a correct value is.
    pub expected: String,
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(out, "line {line}: ")?;
        }
        write!(out, "{} is {:?}, expected {}", self.key, self.found, self.expected)
    }
}

fn joined(values: &[InvalidValue]) -> String {
    values.iter().map(InvalidValue::to_string).collect::<Vec<_>>().join("; ")
}

/// One variant per operation.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("Cannot read {}: check that it is a regular file and its rights", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("Cannot use {} as configuration", path.display())]
    Parse { path: PathBuf, source: PropertiesError },
    #[error("{}: {}; correct it, a blank value means the default", path.display(), joined(values))]
    Invalid { path: PathBuf, values: Vec<InvalidValue> },
    #[error(
        "{} has lost its guid and is not used: restore the file, or add the host again with cloudstack-setup-agent",
        path.display()
    )]
    IdentityLost { path: PathBuf },
    #[error(
        "{} does not exist and is not created from parts: restore it, or run cloudstack-setup-agent",
        path.display()
    )]
    Vanished { path: PathBuf },
    #[error("New values for {} would make {} unusable and are not written", keys.join(", "), path.display())]
    Refused { path: PathBuf, keys: Vec<&'static str>, source: Box<ConfigError> },
    #[error("{} is edited by another program all the time, nothing was written: try again", path.display())]
    Contended { path: PathBuf },
    #[error("Cannot store new values in {}", path.display())]
    Write { path: PathBuf, source: AtomicError },
    #[error("The owner of {} has stopped: the agent is shutting down", path.display())]
    Stopped { path: PathBuf },
}
