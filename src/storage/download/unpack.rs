//! Packed templates: which packing it is, by the first bytes, and what is inside, as a stream.
//!
//! Everything comes from outside. The caller bounds the output; what a packing could do to memory is
//! bounded here.

use super::xz::XzFile;
use bzip2::read::MultiBzDecoder;
use flate2::Crc;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder};
use std::io::{self, BufReader, Read};

const BUFFER: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("it is damaged or not what its first bytes say")]
    Damaged(#[source] io::Error),
    #[error("the zip file is encrypted, or of a kind that cannot be read in one go: pack it anew")]
    UnsupportedZip,
    #[error("the zip file has more than one entry")]
    SeveralEntries,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Bzip2,
    Xz,
    Zip,
}

impl Packing {
    /// By the first bytes; `None` if it is not packed.
    pub fn of(bytes: &[u8]) -> Option<Packing> {
        match bytes {
            [0x1f, 0x8b, 8, ..] => Some(Packing::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Packing::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Packing::Xz),
            [b'P', b'K', 3, 4, ..] => Some(Packing::Zip),
            _ => None,
        }
    }

    /// A stream of what is inside.
    pub fn unpack<'a>(self, packed: impl Read + Send + 'a) -> Result<Box<dyn Read + 'a>, UnpackError> {
        let packed = BufReader::with_capacity(BUFFER, packed);
        Ok(match self {
            Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Packing::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            Packing::Xz => Box::new(XzFile::new(packed)),
            Packing::Zip => Box::new(ZipEntry::open(packed)?),
        })
    }
}

/// The one entry of a zip file, read from the front, as it comes.
enum ZipEntry<R: Read> {
    Stored { from: io::Take<BufReader<R>>, check: Check },
    Deflated { from: DeflateDecoder<BufReader<R>>, check: Check },
}

/// The checksum so far, and what it must become if that is known in front; else a data descriptor
/// behind the content has it.
struct Check {
    crc: Crc,
    wanted: Option<u32>,
}

const ENTRY: &[u8] = b"PK\x03\x04";

fn field(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes.iter().skip(at).take(length).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl<R: Read> ZipEntry<R> {
    fn open(mut packed: BufReader<R>) -> Result<ZipEntry<R>, UnpackError> {
        let mut head = [0; 30];
        packed.read_exact(&mut head).map_err(UnpackError::Damaged)?;
        let (flags, method) = (field(&head, 6, 2), field(&head, 8, 2));
        let (crc, size) = (field(&head, 14, 4), field(&head, 18, 4));
        let names = field(&head, 26, 2) + field(&head, 28, 2);
        io::copy(&mut packed.by_ref().take(names), &mut io::sink()).map_err(UnpackError::Damaged)?;
        let (encrypted, later) = (flags & 1 != 0, flags & 8 != 0);
        let wanted = u32::try_from(crc).ok().filter(|_| !later);
        let check = Check { crc: Crc::new(), wanted };
        match method {
            8 if !encrypted => Ok(ZipEntry::Deflated { from: DeflateDecoder::new(packed), check }),
            // Without its size in front, and with one that is in an extra field (zip64), the end is unknown.
            0 if !encrypted && !later && size != u64::from(u32::MAX) => {
                Ok(ZipEntry::Stored { from: packed.take(size), check })
            }
            _ => Err(UnpackError::UnsupportedZip),
        }
    }

    /// After the last byte: was it right, and was it all?
    fn end(&mut self) -> io::Result<()> {
        let (rest, check) = match self {
            ZipEntry::Stored { from, check } => (from.get_mut(), check),
            ZipEntry::Deflated { from, check } => (from.get_mut(), check),
        };
        // A data descriptor may come first: 12 to 24 bytes.
        let mut after = [0; 28];
        let mut length = 0;
        while let Some(room) = after.get_mut(length..).filter(|room| !room.is_empty()) {
            match rest.read(room)? {
                0 => break,
                count => length += count,
            }
        }
        let start = after.get(..length).unwrap_or_default();
        let descriptor = if start.starts_with(b"PK\x07\x08") { 4 } else { 0 };
        let wanted = check.wanted.map_or_else(|| field(start, descriptor, 4), u64::from);
        if wanted != u64::from(check.crc.sum()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the checksum in the zip file does not fit",
            ));
        }
        match start.windows(ENTRY.len()).any(|window| window == ENTRY) {
            true => Err(io::Error::other(UnpackError::SeveralEntries)),
            false => Ok(()),
        }
    }
}

impl<R: Read> Read for ZipEntry<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, check) = match self {
            ZipEntry::Stored { from, check } => (from.read(buffer)?, check),
            ZipEntry::Deflated { from, check } => (from.read(buffer)?, check),
        };
        check.crc.update(buffer.get(..count).unwrap_or_default());
        if count == 0 && !buffer.is_empty() {
            if let ZipEntry::Stored { from, .. } = self
                && from.limit() > 0
            {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.end()?;
        }
        Ok(count)
    }
}

/// As much of the content as is in `head`, the beginning of a packed file, up to `wanted` bytes.
pub(super) fn peek(head: &[u8], wanted: usize) -> Vec<u8> {
    let mut found = Vec::new();
    match Packing::of(head).map(|packing| packing.unpack(head)) {
        None => found.extend(head.iter().take(wanted)),
        Some(Ok(content)) => {
            // It ends in an error, because the file goes on; what came before it is good.
            let _ = content.take(wanted as u64).read_to_end(&mut found);
        }
        Some(Err(_)) => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::exec::{Program, find_program};

    async fn packed(program: &str, arguments: &[&str], content: &[u8]) -> Vec<u8> {
        let program = Program::new(find_program(program).unwrap());
        let out = program.args(arguments).stdin(content).max_output(1 << 24).run().await.unwrap();
        assert!(out.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Packing::of(bytes).unwrap().unpack(bytes).map_err(io::Error::other)?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[tokio::test]
    async fn what_the_usual_programs_pack_is_unpacked() {
        let content: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for (program, arguments) in
            [("gzip", vec!["-c"]), ("bzip2", vec!["-c"]), ("xz", vec!["-c"]), ("zip", vec!["-q", "-", "-"])]
        {
            let bytes = packed(program, &arguments, &content).await;
            assert_eq!(unpacked(&bytes).unwrap(), content, "{program}");
            assert_eq!(peek(&bytes, 100), content[..100], "{program}");
            if program != "zip" {
                // Two in a row are one file, as for the programs themselves.
                let twice = [bytes.as_slice(), &bytes].concat();
                assert_eq!(unpacked(&twice).unwrap().len(), 2 * content.len(), "{program}");
            }
            assert!(unpacked(&bytes[..bytes.len() / 2]).is_err(), "{program}: a half is no whole");
            let mut damaged = bytes.clone();
            let middle = bytes.len() / 2;
            damaged[middle..middle + 8].fill(0x55);
            assert!(unpacked(&damaged).is_err(), "{program}: damage is noticed");
        }
    }

    #[tokio::test]
    async fn no_damage_makes_it_panic_or_never_end() {
        let content: Vec<u8> = (0..300u32).flat_map(|n| (n * n / 99).to_le_bytes()).collect();
        for (program, arguments) in [
            ("gzip", vec!["-c"]),
            ("bzip2", vec!["-c"]),
            ("xz", vec!["-0", "-c"]),
            ("zip", vec!["-q", "-", "-"]),
        ] {
            let bytes = packed(program, &arguments, &content).await;
            for at in 6..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] = damaged[at].wrapping_add(1 + u8::try_from(at % 255).unwrap());
                if let Ok(found) = unpacked(&damaged) {
                    // Where nothing depends on it, such as the name of a file; not in the content.
                    assert!(found == content, "{program}: byte {at}");
                }
            }
        }
    }

    #[tokio::test]
    async fn zip_files_have_one_entry() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::write(directory.path().join(name), "content").unwrap();
        }
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for (level, files) in [("-0", 1), ("-0", 2), ("-9", 2)] {
            let target = path("out.zip");
            let _ = std::fs::remove_file(&target);
            let mut arguments = vec!["-q", "-j", level, &target];
            let names = [path("a"), path("b")];
            arguments.extend(names.iter().take(files).map(String::as_str));
            packed("zip", &arguments, b"").await;
            let bytes = std::fs::read(&target).unwrap();
            assert_eq!(unpacked(&bytes).is_ok(), files == 1, "{level} {files}");
        }
        let mut wrong = [0; 30];
        wrong[..4].copy_from_slice(ENTRY);
        wrong[6] = 1;
        assert!(matches!(Packing::Zip.unpack(&wrong[..]), Err(UnpackError::UnsupportedZip)));
    }

    #[tokio::test]
    async fn all_checks_and_blocks_of_xz_are_read_and_checked() {
        let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        for check in ["none", "crc32", "crc64", "sha256"] {
            let check = format!("--check={check}");
            let bytes = packed("xz", &[&check, "--block-size=50000", "-T2", "-c"], &content).await;
            assert_eq!(unpacked(&bytes).unwrap(), content, "{check}");
            // Padding between and after streams.
            let padded = [&bytes[..], &[0; 8], &bytes, &[0; 4]].concat();
            assert_eq!(unpacked(&padded).unwrap().len(), 2 * content.len(), "{check}");
            for end in [1, 5, 12, 13, 40, bytes.len() / 3] {
                assert!(unpacked(&bytes[..bytes.len() - end]).is_err(), "{check}: {end} bytes are missing");
            }
            assert!(unpacked(&[&bytes[..], b"junk"].concat()).is_err(), "{check}");
        }
        let stored = packed("xz", &["--check=sha256", "--lzma2=preset=0", "-c"], &[7; 10]).await;
        let mut damaged = stored.clone();
        let at = stored.len() - 12 - 8 - 4;
        damaged[at] ^= 1;
        assert!(unpacked(&damaged).is_err(), "the check is compared");
        let filtered = packed("xz", &["--x86", "--lzma2", "-c"], b"x").await;
        assert!(unpacked(&filtered).unwrap_err().to_string().contains("filter"));
    }

    #[tokio::test]
    async fn dictionaries_are_bounded() {
        let normal = packed("xz", &["-9", "-c"], b"x").await;
        assert_eq!(unpacked(&normal).unwrap(), b"x");
        let huge = packed("xz", &["--lzma2=dict=256MiB", "-c"], b"x").await;
        // Wherever in the file it is.
        for file in [huge.clone(), [normal, huge].concat()] {
            let error = unpacked(&file).unwrap_err().to_string();
            assert!(error.contains("dictionary of 268435456 bytes"), "{error}");
        }
    }
}
