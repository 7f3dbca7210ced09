//! What the thread of one download does, from the URL to the volume. It may block: no other work
//! waits for it. Everything is given up when nobody waits any more, see [`Interest`].

use super::checksum::Checksum;
use super::error::DownloadError;
use super::http::{Client, HttpError};
use super::metalink::Metalink;
use super::nfs::{self, Mounts, Share};
use super::transfer::{Target, receive};
use super::unpack;
use super::url::parse_url;
use super::workplace::{Interest, Life, Part};
use super::{Fetched, Format, Request, Source, UrlCheck, place};
use crate::storage::qcow2::{self, Header};
use hyper::Uri;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

/// Downloads of a file until its checksum is right.
const ATTEMPTS: u32 = 3;
const LARGEST_METALINK: usize = 1024 * 1024;
/// Bytes of a packed template in which the header of the image must begin; bzip2 packs up to 900 KB
/// at a time.
const LARGEST_PROBE: usize = 4 * 1024 * 1024;

/// One download and what it needs.
pub(super) struct Job {
    pub request: Request,
    pub life: Arc<Life>,
    /// Own certificates.
    pub store: PathBuf,
    pub interest: Interest,
}

const BAD_URL: DownloadError =
    DownloadError::Url("the URL is not one of http, https or nfs with a host and a path");

impl Job {
    pub async fn run(&self, mounts: &Mounts) -> Result<Fetched, DownloadError> {
        let request = &self.request;
        let checksum = match request.checksum.trim() {
            "" => None,
            text => Some(Checksum::parse(text).ok_or(DownloadError::Checksum)?),
        };
        if !request.temporary.is_dir() {
            return Err(DownloadError::NoTemporaryLocation(request.temporary.clone()));
        }
        self.life.clean_temporary(&request.temporary);
        self.life.clean_pool(&request.pool);
        let part = match request.source {
            Source::Http => self.http(&request.url, checksum.as_ref()).await?,
            Source::Nfs => self.nfs(checksum.as_ref(), mounts).await?,
            Source::Metalink => self.metalink(checksum).await?,
        };
        place::into_pool(self, part)
    }

    fn client(&self) -> Result<Client, DownloadError> {
        Ok(Client::new(&self.request.http, self.store.clone())?)
    }

    fn target<'a>(&'a self, part: &'a mut Part) -> Target<'a> {
        Target { template: self.request.template_id, part, directory: &self.request.temporary }
    }

    fn part(&self) -> Result<Part, DownloadError> {
        self.life.temporary(&self.request.temporary, self.request.template_id)
    }

    async fn http(&self, url: &str, checksum: Option<&Checksum>) -> Result<Part, DownloadError> {
        let url = parse_url(url).ok_or(BAD_URL)?;
        let client = self.client()?;
        for attempt in 1..=ATTEMPTS {
            let mut part = self.part()?;
            if receive(&client, &url, checksum, self.target(&mut part)).await? {
                return Ok(part);
            }
            tracing::warn!(
                template = self.request.template_id,
                attempt,
                "Template arrived with a wrong checksum"
            );
        }
        Err(DownloadError::Mismatch { attempts: ATTEMPTS, host: url.host().unwrap_or_default().to_owned() })
    }

    async fn nfs(&self, checksum: Option<&Checksum>, mounts: &Mounts) -> Result<Part, DownloadError> {
        let share = Share::parse(&self.request.url).ok_or(BAD_URL)?;
        let point = self.request.temporary.join(self.life.part_name());
        let file = share.open(point, mounts).await?;
        let mut part = self.part()?;
        match nfs::copy(file, checksum, self.target(&mut part), &self.interest)? {
            true => Ok(part),
            false => Err(DownloadError::Mismatch { attempts: 1, host: "the NFS server".into() }),
        }
    }

    async fn metalink(&self, checksum: Option<Checksum>) -> Result<Part, DownloadError> {
        let metalink = metalink(&self.client()?, &self.request.url).await?;
        let checksum = checksum.or(metalink.checksum);
        let mut last = None;
        for url in &metalink.urls {
            match self.http(url, checksum.as_ref()).await {
                Ok(part) => return Ok(part),
                Err(error) => {
                    tracing::warn!("Mirror is passed over: {}", crate::errors::chain(&error));
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| DownloadError::EmptyMetalink(host_of(&self.request.url))))
    }
}

fn host_of(url: &str) -> String {
    parse_url(url).and_then(|url| url.host().map(str::to_owned)).unwrap_or_default()
}

async fn metalink(client: &Client, url: &str) -> Result<Metalink, DownloadError> {
    let url = parse_url(url).ok_or(BAD_URL)?;
    let mut response = client.get(&url, None).await?;
    let mut text = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        text.extend_from_slice(&bytes);
        if text.len() > LARGEST_METALINK {
            return Err(HttpError::TooLarge { host: response.host, limit: LARGEST_METALINK }.into());
        }
    }
    let metalink = Metalink::parse(&String::from_utf8_lossy(&text));
    metalink.map_err(|error| DownloadError::Metalink(response.host, error))
}

/// The size of what a URL names: the virtual one of a qcow2 image, else that of the file.
pub(super) async fn check(
    check: &UrlCheck,
    life: &Life,
    store: PathBuf,
    mounts: &Mounts,
) -> Result<u64, DownloadError> {
    let client = Client::new(&check.http, store)?;
    match check.source {
        Source::Http => of_http(&client, &parse_url(&check.url).ok_or(BAD_URL)?, check.format).await,
        Source::Nfs => {
            let share = Share::parse(&check.url).ok_or(BAD_URL)?;
            let file = share.open(check.temporary.join(life.part_name()), mounts).await?;
            let failed = DownloadError::file("read", "the file on the NFS server");
            let mut head = Vec::new();
            let length = file
                .metadata()
                .and_then(|metadata| {
                    (&file).take(LARGEST_PROBE as u64).read_to_end(&mut head).map(|_| metadata.len())
                })
                .map_err(failed)?;
            if check.format == Format::Qcow2 { of_header(&head) } else { Ok(length) }
        }
        Source::Metalink => {
            let metalink = metalink(&client, &check.url).await?;
            let mut last = None;
            for url in &metalink.urls {
                match of_http(&client, &parse_url(url).ok_or(BAD_URL)?, check.format).await {
                    Ok(size) => return Ok(size),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| DownloadError::EmptyMetalink(host_of(&check.url))))
        }
    }
}

/// Asks for the whole file and hangs up after the beginning: not every server answers HEAD or ranges.
async fn of_http(client: &Client, url: &Uri, format: Format) -> Result<u64, DownloadError> {
    let mut response = client.get(url, None).await?;
    if format != Format::Qcow2 {
        let host = response.host.clone();
        return response.length.ok_or(DownloadError::NoLength(host));
    }
    let mut head = Vec::new();
    let mut enough = qcow2::FIXED;
    while let Some(bytes) = response.chunk().await? {
        head.extend_from_slice(&bytes);
        if head.len() < enough {
            continue;
        }
        if head.len() >= LARGEST_PROBE || unpack::peek(&head, qcow2::FIXED).len() >= qcow2::FIXED {
            break;
        }
        // Packed, and not enough to unpack: looks again when there is twice as much.
        enough = head.len() * 2;
    }
    of_header(&head)
}

fn of_header(head: &[u8]) -> Result<u64, DownloadError> {
    let header = Header::parse(&unpack::peek(head, qcow2::PREFIX)).map_err(DownloadError::NotQcow2)?;
    header.self_contained().map_err(DownloadError::NotQcow2)?;
    Ok(header.virtual_size)
}
