//! Which images in a directory have another one as their backing file.
//!
//! Read from the headers, not with `qemu-img`: a pool has hundreds of images.

use crate::storage::qcow2::{self, Header};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The images beside `image`, and in the pool's directory `root`, that are based on it. Unfinished images
/// count too.
pub(super) fn find(root: &Path, image: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![root];
    directories.extend(image.parent().filter(|parent| *parent != root));
    for directory in directories {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path == image || !path.symlink_metadata().is_ok_and(|facts| facts.is_file()) {
                continue;
            }
            // What cannot be read is not known to be a user; it may have been deleted meanwhile.
            if let Ok(Some(backing)) = backing_file(&path)
                && same(directory, &backing, image)
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn same(directory: &Path, backing: &Path, image: &Path) -> bool {
    let backing = directory.join(backing);
    backing == image
        || matches!((backing.canonicalize(), image.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// The name of the backing file in a qcow2 header; `None` for other files, and for headers that QEMU
/// would not open either.
pub fn backing_file(path: &Path) -> io::Result<Option<PathBuf>> {
    let file = File::open(path)?;
    // Most images of a pool have no backing file, which the first bytes say.
    let start = beginning(&file, qcow2::FIXED)?;
    if !matches!(Header::parse(&start), Ok(Header { backing: Some(_), .. })) {
        return Ok(None);
    }
    let header = Header::parse(&beginning(&file, qcow2::PREFIX)?);
    let name = header.ok().and_then(|header| header.backing?.file);
    Ok(name.map(|name| PathBuf::from(name.strip_prefix("file:").unwrap_or(&name))))
}

/// Whether a qcow2 header names a backing file and not its format.
pub(super) fn lacks_backing_format(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let start = beginning(&file, qcow2::FIXED)?;
    if !matches!(Header::parse(&start), Ok(Header { backing: Some(_), .. })) {
        return Ok(false);
    }
    let header = Header::parse(&beginning(&file, qcow2::PREFIX)?);
    Ok(header.is_ok_and(|header| header.backing.is_some_and(|backing| backing.format.is_none())))
}

fn beginning(file: &File, bytes: usize) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    file.take(bytes as u64).read_to_end(&mut start)?;
    Ok(start)
}
