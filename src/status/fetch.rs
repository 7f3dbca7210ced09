//! The client's side of the local socket: one question, one document, one deadline.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::snapshot::{SCHEMA, Status};
use super::socket::Refusal;

/// Longest document that is read.
const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// Why the live agent's document could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no socket at {}", path.display())]
    NoSocket { path: PathBuf },
    #[error("nobody listens on {}", path.display())]
    NotListening { path: PathBuf },
    #[error("no permission to ask {}", path.display())]
    Denied { path: PathBuf },
    #[error("{} did not answer within {:.1} s", path.display(), deadline.as_secs_f64())]
    Timeout { path: PathBuf, deadline: Duration },
    #[error("the agent refused: {reason}")]
    Refused { reason: String },
    #[error("the connection to {} broke", path.display())]
    Broken { path: PathBuf, source: io::Error },
    #[error("the answer of {} is not a status document of schema {SCHEMA}", path.display())]
    Garbled { path: PathBuf },
}

impl FetchError {
    /// Whether the error proves that no agent runs, as opposed to one that cannot be asked.
    pub fn proves_absence(&self) -> bool {
        match self {
            Self::NoSocket { .. } | Self::NotListening { .. } => true,
            Self::Denied { .. }
            | Self::Timeout { .. }
            | Self::Refused { .. }
            | Self::Broken { .. }
            | Self::Garbled { .. } => false,
        }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoSocket { .. } | Self::NotListening { .. } => {
                "systemctl start cloudstack-agent; why it stopped: journalctl -u cloudstack-agent -n 50"
            }
            Self::Denied { .. } | Self::Refused { .. } => "run this as root",
            Self::Timeout { .. } | Self::Broken { .. } | Self::Garbled { .. } => {
                "journalctl -u cloudstack-agent -n 50; then: systemctl restart cloudstack-agent"
            }
        }
    }
}

/// Asks the agent behind the socket `path` for its status; ends within `deadline` whatever happens.
pub async fn fetch(path: &Path, deadline: Duration) -> Result<Status, FetchError> {
    match tokio::time::timeout(deadline, exchange(path)).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::Timeout { path: path.to_owned(), deadline }),
    }
}

/// Connects to a socket of the agent; without a deadline of its own.
pub async fn connect(path: &Path) -> Result<UnixStream, FetchError> {
    let owned = || path.to_owned();
    UnixStream::connect(path).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => FetchError::NoSocket { path: owned() },
        ErrorKind::ConnectionRefused => FetchError::NotListening { path: owned() },
        ErrorKind::PermissionDenied => FetchError::Denied { path: owned() },
        _ => FetchError::Broken { path: owned(), source: error },
    })
}

async fn exchange(path: &Path) -> Result<Status, FetchError> {
    let owned = || path.to_owned();
    let broken = |source: io::Error| FetchError::Broken { path: path.to_owned(), source };
    let mut stream = connect(path).await?;
    // A server that refuses may close before it reads; its reason is still to be read.
    let _ = stream.write_all(b"status\n").await;
    let mut document = Vec::new();
    let read = (&mut stream).take(MAX_DOCUMENT).read_to_end(&mut document).await;
    if let (Err(error), true) = (read, document.is_empty()) {
        return Err(broken(error));
    }
    // A reset after the last byte (the agent did not read our line) leaves the document whole.
    match serde_json::from_slice::<Status>(&document) {
        Ok(status) if status.schema == SCHEMA => Ok(status),
        Ok(_) => Err(FetchError::Garbled { path: owned() }),
        Err(_) => match serde_json::from_slice::<Refusal>(&document) {
            Ok(refusal) => Err(FetchError::Refused { reason: super::human::clean(&refusal.error) }),
            Err(_) => Err(FetchError::Garbled { path: owned() }),
        },
    }
}
