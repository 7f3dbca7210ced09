//! The header of a qcow2 image, read from its first bytes. Pure: bytes in, facts out.
//!
//! Images come from users and are hostile. A backing file or an external data file named in a header
//! makes QEMU open that path on this host, so [`Header::self_contained`] refuses both before QEMU, or
//! qemu-img, ever sees such an image. Layout: docs/interop/qcow2.rst of QEMU.

use thiserror::Error;

/// What [`Header::parse`] wants to see of an image: the header with its extensions and the name of
/// the backing file are in the first cluster, which is at least this large when it has any of them.
pub const PREFIX: usize = 64 * 1024;
/// Enough for everything but the names of backing file and format.
pub const FIXED: usize = 104;

const MAGIC: &[u8] = b"QFI\xfb";
/// QEMU's own limit.
const LONGEST_NAME: usize = 1023;
/// Extensions that are looked at; QEMU writes three or four.
const MOST_EXTENSIONS: usize = 64;
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Dirty, corrupt, external data file, compression type, extended level-2 entries.
const KNOWN_INCOMPATIBLE: u64 = 0b1_1111;
const EXTERNAL_DATA: u64 = 0b100;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Qcow2Error {
    #[error("it does not begin as a qcow2 image does")]
    Magic,
    #[error("its header is cut off")]
    Truncated,
    #[error("its header has version {0}, not 2 or 3")]
    Version(u32),
    #[error("its header contradicts itself: {0}")]
    Inconsistent(&'static str),
    #[error("it refers to a backing file")]
    BackingFile,
    #[error("it keeps its data in another file")]
    ExternalData,
    #[error("it uses features that this agent does not know (bits {0:#x})")]
    UnknownFeatures(u64),
}

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    /// Bytes that a guest sees.
    pub virtual_size: u64,
    pub cluster_bits: u32,
    pub backing: Option<Backing>,
    pub incompatible_features: u64,
    /// AES of old or LUKS.
    pub encrypted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// As it is in the header, invalid UTF-8 replaced; `None` if it is beyond the bytes given.
    pub file: Option<String>,
    /// `None`: QEMU would guess.
    pub format: Option<String>,
}

/// Whether the bytes begin as a qcow2 image does.
pub fn is_qcow2(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Qcow2Error> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.map(|field| u32::from_be_bytes(*field)).ok_or(Qcow2Error::Truncated)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Qcow2Error> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.map(|field| u64::from_be_bytes(*field)).ok_or(Qcow2Error::Truncated)
}

impl Header {
    /// Reads the header from the beginning of an image: [`FIXED`] bytes are always enough,
    /// [`PREFIX`] to learn the names in it.
    pub fn parse(bytes: &[u8]) -> Result<Header, Qcow2Error> {
        if !is_qcow2(bytes) {
            return Err(Qcow2Error::Magic);
        }
        let version = u32_at(bytes, 4)?;
        if !matches!(version, 2 | 3) {
            return Err(Qcow2Error::Version(version));
        }
        let cluster_bits = u32_at(bytes, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Qcow2Error::Inconsistent("its clusters are smaller or larger than QEMU allows"));
        }
        let virtual_size = u64_at(bytes, 24)?;
        if i64::try_from(virtual_size).is_err() {
            return Err(Qcow2Error::Inconsistent("its size does not fit 63 bits"));
        }
        let encrypted = u32_at(bytes, 32)? != 0;
        // Version 2 ends at 72; what follows there is an extension, not flags.
        let (incompatible_features, length) = match version {
            2 => (0, 72),
            _ => (u64_at(bytes, 72)?, u32_at(bytes, 100)?),
        };
        if version == 3 && (length < 104 || u64::from(length) > 1 << cluster_bits) {
            return Err(Qcow2Error::Inconsistent("the header's own length"));
        }
        let backing = backing(bytes, length)?;
        Ok(Header { version, virtual_size, cluster_bits, backing, incompatible_features, encrypted })
    }

    /// An image that QEMU can open without opening another file, with features that are known.
    pub fn self_contained(&self) -> Result<(), Qcow2Error> {
        if self.backing.is_some() {
            return Err(Qcow2Error::BackingFile);
        }
        if self.incompatible_features & EXTERNAL_DATA != 0 {
            return Err(Qcow2Error::ExternalData);
        }
        match self.incompatible_features & !KNOWN_INCOMPATIBLE {
            0 => Ok(()),
            unknown => Err(Qcow2Error::UnknownFeatures(unknown)),
        }
    }
}

fn backing(bytes: &[u8], header_length: u32) -> Result<Option<Backing>, Qcow2Error> {
    let (offset, length) = (u64_at(bytes, 8)?, u32_at(bytes, 16)?);
    if offset == 0 {
        return Ok(None);
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LONGEST_NAME {
        return Err(Qcow2Error::Inconsistent("the name of its backing file is too long"));
    }
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let name = bytes.get(start..start.saturating_add(length));
    Ok(Some(Backing { file: name.map(text), format: backing_format(bytes, header_length) }))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Walks the header's extensions: type, length, data padded to eight bytes, until type 0.
fn backing_format(bytes: &[u8], header_length: u32) -> Option<String> {
    let mut at = usize::try_from(header_length).ok()?;
    for _ in 0..MOST_EXTENSIONS {
        let (kind, length) = (u32_at(bytes, at).ok()?, u32_at(bytes, at.checked_add(4)?).ok()?);
        let length = usize::try_from(length).ok()?;
        let data = at.checked_add(8)?;
        match kind {
            0 => return None,
            BACKING_FORMAT => return bytes.get(data..data.checked_add(length)?).map(text),
            _ => at = data.checked_add(length)?.checked_next_multiple_of(8)?,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(version: u32) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(64u64 << 20).to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        bytes
    }

    fn backed(name: &[u8]) -> Vec<u8> {
        let mut bytes = header(3);
        bytes[8..16].copy_from_slice(&300u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&(u32::try_from(name.len()).unwrap()).to_be_bytes());
        bytes[300..300 + name.len()].copy_from_slice(name);
        bytes
    }

    #[test]
    fn versions_two_and_three_are_read() {
        for version in [2, 3] {
            let read = Header::parse(&header(version)).unwrap();
            assert_eq!((read.version, read.virtual_size, read.encrypted), (version, 64 << 20, false));
            assert_eq!(read.self_contained(), Ok(()));
        }
        assert_eq!(Header::parse(&header(1)), Err(Qcow2Error::Version(1)));
        assert_eq!(Header::parse(b"#!/bin/sh"), Err(Qcow2Error::Magic));
        assert!(Header::parse(&header(3)[..FIXED]).is_ok());
        assert_eq!(Header::parse(&header(3)[..50]), Err(Qcow2Error::Truncated));
    }

    #[test]
    fn version_two_has_no_feature_bits() {
        let mut bytes = header(2);
        bytes[72..80].copy_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(Header::parse(&bytes).unwrap().self_contained(), Ok(()));
    }

    #[test]
    fn other_files_named_in_it_are_found_and_refused() {
        let mut bytes = backed(b"/etc/shadow");
        bytes[104..108].copy_from_slice(&BACKING_FORMAT.to_be_bytes());
        bytes[108..112].copy_from_slice(&3u32.to_be_bytes());
        bytes[112..115].copy_from_slice(b"raw");
        let read = Header::parse(&bytes).unwrap();
        let backing = read.backing.clone().unwrap();
        assert_eq!((backing.file.as_deref(), backing.format.as_deref()), (Some("/etc/shadow"), Some("raw")));
        assert_eq!(read.self_contained(), Err(Qcow2Error::BackingFile));
        // The name may be out of sight; that there is one may not.
        assert_eq!(Header::parse(&bytes[..FIXED]).unwrap().self_contained(), Err(Qcow2Error::BackingFile));
        let mut bytes = header(3);
        bytes[79] = 0b100;
        assert_eq!(Header::parse(&bytes).unwrap().self_contained(), Err(Qcow2Error::ExternalData));
        bytes[79] = 0b10_0000;
        assert_eq!(Header::parse(&bytes).unwrap().self_contained(), Err(Qcow2Error::UnknownFeatures(32)));
    }

    #[test]
    fn extensions_that_lead_nowhere_end() {
        let mut bytes = backed(b"x");
        bytes[104..108].copy_from_slice(&7u32.to_be_bytes());
        bytes[108..112].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Header::parse(&bytes).unwrap().backing.unwrap().format, None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..400), version in 2u32..4) {
            let mut bytes = [MAGIC, &version.to_be_bytes()].concat();
            bytes.extend(tail);
            let _ = Header::parse(&bytes).map(|header| header.self_contained());
        }
    }
}
