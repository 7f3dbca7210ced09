//! From a complete file of the temporary location to a volume of the pool: unpacked, checked, renamed.

use super::error::DownloadError;
use super::unpack::{Packing, UnpackError};
use super::work::Job;
use super::workplace::{Part, free_space};
use super::{Fetched, Format};
use crate::storage::qcow2::{self, Header};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use uuid::Uuid;

const BUFFER: usize = 256 * 1024;
/// Of the free space of a pool, the part that unpacking leaves alone: guests write there, too.
const RESERVE: u64 = 20;

pub(super) fn into_pool(job: &Job, part: Part) -> Result<Fetched, DownloadError> {
    let request = &job.request;
    let packing = match request.format {
        Format::Iso => None,
        Format::Qcow2 | Format::Raw => Packing::of(&head(&part)?),
    };
    let part = match packing {
        Some(packing) => unpacked(job, part, packing)?,
        None => part,
    };
    let virtual_size = virtual_size(&part, request.format)?;
    let id = Uuid::new_v4();
    let name = if request.format == Format::Iso { format!("{id}.iso") } else { id.to_string() };
    let target = request.pool.join(&name);
    job.interest.check()?;
    if !part.finish(&target)? {
        let copy = copied(job, part)?;
        if !copy.finish(&target)? {
            let odd = io::Error::other("the pool spans several file systems");
            return Err(DownloadError::file("create", &target)(odd));
        }
    }
    let blocks = target.metadata().map_err(DownloadError::file("examine", &target))?.blocks();
    Ok(Fetched { name, virtual_size, physical_size: blocks.saturating_mul(512) })
}

/// The first bytes of a file, fewer if it is short.
fn head(part: &Part) -> Result<Vec<u8>, DownloadError> {
    let mut head = vec![0; qcow2::PREFIX];
    let mut length = 0;
    while let Some(room) = head.get_mut(length..).filter(|room| !room.is_empty()) {
        match part.file.read_at(room, length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(source) => return Err(DownloadError::file("read", &part.path)(source)),
        }
    }
    head.truncate(length);
    Ok(head)
}

/// What a guest sees of it. A raw image that begins like qcow2 is held to the same rules, since
/// whoever opens it later may look at its first bytes, too.
fn virtual_size(part: &Part, format: Format) -> Result<u64, DownloadError> {
    let head = head(part)?;
    match format {
        Format::Qcow2 | Format::Raw if format == Format::Qcow2 || qcow2::is_qcow2(&head) => {
            let header = Header::parse(&head).map_err(DownloadError::NotQcow2)?;
            header.self_contained().map_err(DownloadError::NotQcow2)?;
            Ok(header.virtual_size)
        }
        Format::Qcow2 | Format::Raw | Format::Iso => {
            let metadata = part.file.metadata().map_err(DownloadError::file("examine", &part.path))?;
            Ok(metadata.len())
        }
    }
}

fn unpacked(job: &Job, mut packed: Part, packing: Packing) -> Result<Part, DownloadError> {
    packed.file.rewind().map_err(DownloadError::file("read", &packed.path))?;
    let content = packing.unpack(&packed.file).map_err(DownloadError::Unpack)?;
    let damaged = |error| DownloadError::Unpack(UnpackError::Damaged(error));
    stream(job, content, damaged)
}

/// In another file system than the temporary location.
fn copied(job: &Job, mut part: Part) -> Result<Part, DownloadError> {
    let path = part.path.clone();
    part.file.rewind().map_err(DownloadError::file("read", &path))?;
    stream(job, &part.file, |error| DownloadError::file("read", &path)(error))
}

/// Writes a new unfinished file in the pool, no larger than what is free there.
fn stream(
    job: &Job,
    mut content: impl Read,
    failed: impl Fn(io::Error) -> DownloadError,
) -> Result<Part, DownloadError> {
    let pool = &job.request.pool;
    let free = free_space(pool)?;
    let allowed = free - free / RESERVE;
    let mut target = job.life.part(pool)?;
    let mut buffer = vec![0; BUFFER];
    let mut written = 0u64;
    loop {
        job.interest.check()?;
        let count = content.read(&mut buffer).map_err(&failed)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(target);
        }
        written += bytes.len() as u64;
        let full = || DownloadError::PoolFull {
            template: job.request.template_id,
            needed: written,
            available: allowed,
            directory: pool.clone(),
        };
        if written > allowed {
            return Err(full());
        }
        target.file.write_all(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => full(),
            _ => DownloadError::file("write", &target.path)(error),
        })?;
    }
}
