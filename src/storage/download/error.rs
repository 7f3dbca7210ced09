//! Why a template did not arrive. The first words of most texts are those of the Java agent, which
//! operators and scripts know.

use super::http::HttpError;
use super::unpack::UnpackError;
use crate::host::exec::ExecError;
use crate::storage::qcow2::Qcow2Error;
use crate::xml::XmlError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error(
        "The temporary location path for downloading templates does not exist: {} on this host: \
         create it, or change direct.download.temporary.download.location",
        .0.display()
    )]
    NoTemporaryLocation(PathBuf),
    #[error("Unable to create direct downloader: {0}")]
    Url(&'static str),
    #[error(
        "Unable to create direct downloader: the checksum is not {{ALGORITHM}}hex with MD5, SHA-1 or SHA-2"
    )]
    Checksum,
    #[error(
        "Not enough space on the defined temporary location to download the template {template}: \
         {needed} bytes are needed, {available} are free in {}",
        directory.display()
    )]
    NoSpace { template: u64, needed: u64, available: u64, directory: PathBuf },
    #[error("Not enough space in the pool for the template {template}: {needed} bytes are needed, {available} are free in {}", directory.display())]
    PoolFull { template: u64, needed: u64, available: u64, directory: PathBuf },
    #[error("Unable to download template")]
    Http(#[from] HttpError),
    #[error(
        "Checksum validation failed: {attempts} downloads from {host} did not have the checksum that was registered"
    )]
    Mismatch { attempts: u32, host: String },
    #[error(
        "The downloaded file is not a valid QCOW2. Ask the administrator to check the logs for more details."
    )]
    NotQcow2(#[source] Qcow2Error),
    #[error("Unable to download template: it cannot be unpacked")]
    Unpack(#[source] UnpackError),
    #[error("Unable to download template: cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("Unable to download template: {0} is not a metalink file")]
    Metalink(String, #[source] XmlError),
    #[error("Unable to download template: the metalink file of {0} names no URL that can be used")]
    EmptyMetalink(String),
    #[error("Unable to download template: cannot run mount")]
    Mount(#[source] ExecError),
    #[error("Unable to download template: cannot mount {share}: {reason}")]
    MountRefused { share: String, reason: String },
    #[error("{0} does not tell how large the template is")]
    NoLength(String),
    #[error("Unable to download template: no thread can be started for it")]
    Thread(#[source] io::Error),
    #[error("Unable to download template: it did not arrive within {} s", .0.as_secs())]
    Deadline(Duration),
    #[error("Unable to download template: nobody waits for it any more")]
    Abandoned,
    #[error("Unable to download template: the download ended with a fault in the agent, see its log")]
    Ended,
}

impl DownloadError {
    /// Whether another host might succeed where this one failed.
    pub fn retry_on_other_hosts(&self) -> bool {
        !matches!(self, DownloadError::Mismatch { .. } | DownloadError::Checksum)
    }

    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| DownloadError::File { action, path, source }
    }
}
