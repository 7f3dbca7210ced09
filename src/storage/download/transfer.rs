//! One file over HTTP into one unfinished file: space first, checksum on the way, resumed when the
//! connection breaks and the server lets it.

use super::checksum::{Checksum, Sum};
use super::error::DownloadError;
use super::http::{Client, HttpError, Response, Resume};
use super::workplace::{Part, free_space};
use hyper::header::HeaderValue;
use hyper::{StatusCode, Uri};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::time::Duration;

/// Interruptions in a row without [`PROGRESS`] in between.
const MOST_INTERRUPTIONS: u32 = 5;
const PROGRESS: u64 = 1024 * 1024;
/// Before the first resumption; later ones wait longer.
const PAUSE: Duration = Duration::from_millis(200);

/// Where the bytes go, and how much room there is.
pub(super) struct Target<'a> {
    pub template: u64,
    pub part: &'a mut Part,
    pub directory: &'a Path,
}

impl Target<'_> {
    pub fn require(&self, needed: u64) -> Result<(), DownloadError> {
        let available = free_space(self.directory)?;
        if needed > available {
            return Err(self.no_space(needed, available));
        }
        Ok(())
    }

    fn no_space(&self, needed: u64, available: u64) -> DownloadError {
        let directory = self.directory.to_owned();
        DownloadError::NoSpace { template: self.template, needed, available, directory }
    }

    pub fn write(&mut self, bytes: &[u8], so_far: u64) -> Result<(), DownloadError> {
        match self.part.file.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(full) if full.kind() == io::ErrorKind::StorageFull => {
                Err(self.no_space(so_far + bytes.len() as u64, so_far))
            }
            Err(source) => Err(DownloadError::file("write", &self.part.path)(source)),
        }
    }

    fn empty(&mut self) -> Result<(), DownloadError> {
        let emptied = self.part.file.set_len(0).and_then(|()| self.part.file.rewind());
        emptied.map_err(DownloadError::file("write", &self.part.path))
    }
}

/// Whether the whole file arrived with the checksum that is wanted.
pub(super) async fn receive(
    client: &Client,
    url: &Uri,
    checksum: Option<&Checksum>,
    target: Target<'_>,
) -> Result<bool, DownloadError> {
    let sum = checksum.map(Checksum::start);
    let mut transfer = Transfer { client, url, checksum, target, sum, received: 0, validator: None };
    let (mut interruptions, mut mark) = (0, 0);
    loop {
        let interruption = match transfer.once().await {
            Ok(()) => return Ok(transfer.sum.is_none_or(Sum::fits)),
            Err(DownloadError::Http(error)) if error.is_interruption() && transfer.received > 0 => error,
            Err(other) => return Err(other),
        };
        if transfer.received >= mark + PROGRESS {
            (interruptions, mark) = (0, transfer.received);
        }
        interruptions += 1;
        if transfer.validator.is_none() || interruptions > MOST_INTERRUPTIONS {
            return Err(transfer.given_up(interruption).into());
        }
        tracing::info!(received = transfer.received, interruptions, error = %interruption, "Download is resumed");
        tokio::time::sleep(PAUSE * interruptions).await;
    }
}

struct Transfer<'a> {
    client: &'a Client,
    url: &'a Uri,
    checksum: Option<&'a Checksum>,
    target: Target<'a>,
    sum: Option<Sum>,
    received: u64,
    validator: Option<HeaderValue>,
}

impl Transfer<'_> {
    async fn once(&mut self) -> Result<(), DownloadError> {
        let from = self.received;
        let resume = self.validator.clone().filter(|_| from > 0).map(|validator| Resume { from, validator });
        let mut response = self.client.get(self.url, resume.as_ref()).await?;
        self.position(&response)?;
        self.validator = response.validator.clone();
        // What is missing must fit; what is there already is in use.
        self.target.require(response.length.unwrap_or(0))?;
        while let Some(bytes) = response.chunk().await? {
            self.target.write(&bytes, self.received)?;
            if let Some(sum) = &mut self.sum {
                sum.add(&bytes);
            }
            self.received += bytes.len() as u64;
        }
        Ok(())
    }

    /// Goes on where the answer goes on, which may be at the beginning.
    fn position(&mut self, response: &Response) -> Result<(), DownloadError> {
        match (response.status, response.range_start) {
            (StatusCode::OK, _) => {
                self.received = 0;
                self.sum = self.checksum.map(Checksum::start);
                self.target.empty()
            }
            (_, Some(start)) if start == self.received && start > 0 => Ok(()),
            (status, _) => {
                let host = response.host.clone();
                Err(HttpError::Status { host, status: status.as_u16() }.into())
            }
        }
    }

    fn given_up(&self, source: HttpError) -> HttpError {
        let host = self.url.host().unwrap_or_default().to_owned();
        HttpError::NoResume { host, received: self.received, source: Box::new(source) }
    }
}
