//! The container of xz files around LZMA2, as a stream. Format: <https://tukaani.org/xz/xz-file-format.txt>.
//!
//! Read here and not by the library, because each block says how large a dictionary it wants, up to
//! 4 GiB, and the library allocates that unasked. Blocks may be many; sizes in the index are not
//! compared, the check of each block is.

use flate2::Crc;
use lzma_rust2::Lzma2Reader;
use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// That of xz -9.
const LARGEST_DICTIONARY: u64 = 64 * 1024 * 1024;
const MAGIC: &[u8; 6] = b"\xfd7zXZ\0";
const FOOTER_MAGIC: &[u8] = b"YZ";
const LZMA2: u64 = 0x21;

pub(super) struct XzFile<R: Read> {
    state: State<R>,
    check: Check,
    /// Of this stream, to be found again in its index.
    blocks: u64,
}

enum State<R: Read> {
    /// Before the header of a stream; the first one must be there.
    Stream {
        from: R,
        first: bool,
    },
    /// Before a block or the index.
    Between(R),
    Block {
        reader: Box<Lzma2Reader<Counted<R>>>,
    },
    End,
}

/// Blocks are padded to four bytes.
struct Counted<R> {
    from: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

enum Check {
    /// None, or one that the format does not define: so many bytes to pass over.
    Unknown(usize),
    Crc32(Crc),
    Crc64(u64),
    Sha256(Sha256),
}

impl Check {
    fn new(kind: u8) -> Check {
        match kind {
            0 => Check::Unknown(0),
            1 => Check::Crc32(Crc::new()),
            4 => Check::Crc64(!0),
            10 => Check::Sha256(Sha256::new()),
            // 4, 8, 16, 32 and 64 bytes for three kinds each.
            other => Check::Unknown(4 << ((usize::from(other & 15) - 1) / 3)),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::Unknown(_) => {}
            Check::Crc32(crc) => crc.update(bytes),
            Check::Crc64(crc) => *crc = bytes.iter().fold(*crc, |crc, byte| crc64_step(crc, *byte)),
            Check::Sha256(sum) => sum.update(bytes),
        }
    }

    /// Compares with what follows the block, and starts anew.
    fn compare(&mut self, from: &mut impl Read) -> io::Result<()> {
        let found = match self {
            Check::Unknown(size) => {
                let mut skipped = from.take(*size as u64);
                return match io::copy(&mut skipped, &mut io::sink())? == *size as u64 {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            Check::Crc32(crc) => std::mem::take(crc).sum().to_le_bytes().to_vec(),
            Check::Crc64(crc) => (!std::mem::replace(crc, !0)).to_le_bytes().to_vec(),
            Check::Sha256(sum) => sum.finalize_reset().to_vec(),
        };
        let mut wanted = vec![0; found.len()];
        from.read_exact(&mut wanted)?;
        require(found == wanted, "the check of a block does not fit")
    }
}

const CRC64: [u64; 256] = crc64_table();

#[allow(clippy::indexing_slicing)] // evaluated while compiling: out of range would not compile
const fn crc64_table() -> [u64; 256] {
    const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = at as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[allow(clippy::indexing_slicing)] // one byte cannot leave 256 elements
fn crc64_step(crc: u64, byte: u8) -> u64 {
    let [low, ..] = crc.to_le_bytes();
    CRC64[usize::from(low ^ byte)] ^ crc >> 8
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn require(good: bool, what: &str) -> io::Result<()> {
    if good { Ok(()) } else { Err(damaged(what)) }
}

fn byte(from: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    let [byte] = byte;
    Ok(byte)
}

/// Seven bits a byte, lowest first.
fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = byte(from)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged("a number is too long"))
}

/// The dictionary that a block wants; its header after the first byte.
fn dictionary(header: &[u8]) -> io::Result<u32> {
    let mut rest = header;
    let flags = byte(&mut rest)?;
    require(flags & 0x3c == 0, "a block has unknown flags")?;
    // Another filter in front of LZMA2, as for programs; nobody packs disk images so.
    require(flags & 3 == 0, "it is packed with a filter that is not for disk images")?;
    for size in [0x40, 0x80] {
        if flags & size != 0 {
            number(&mut rest)?;
        }
    }
    let (filter, properties) = (number(&mut rest)?, number(&mut rest)?);
    require(filter == LZMA2 && properties == 1, "it is packed with a filter that is not LZMA2")?;
    let size = match byte(&mut rest)? {
        bits @ 0..=39 => (2 | u64::from(bits & 1)) << (bits / 2 + 11),
        _ => u64::from(u32::MAX),
    };
    if size > LARGEST_DICTIONARY {
        let text = format!("it needs a dictionary of {size} bytes, more than xz -9 uses");
        return Err(io::Error::other(text));
    }
    u32::try_from(size.max(4096)).map_err(io::Error::other)
}

impl<R: Read> XzFile<R> {
    pub fn new(from: R) -> XzFile<R> {
        XzFile { state: State::Stream { from, first: true }, check: Check::Unknown(0), blocks: 0 }
    }

    /// One step from a state that has no content to give.
    fn advance(&mut self) -> io::Result<()> {
        self.state = match std::mem::replace(&mut self.state, State::End) {
            State::Stream { from, first } => self.stream(from, first)?,
            State::Between(from) => self.between(from)?,
            State::Block { reader } => self.after_block(reader.into_inner())?,
            State::End => State::End,
        };
        Ok(())
    }

    /// The header of a stream, after padding in fours.
    fn stream(&mut self, mut from: R, first: bool) -> io::Result<State<R>> {
        let mut start = [0; 4];
        loop {
            let mut length = 0;
            while let Some(room) = start.get_mut(length..).filter(|room| !room.is_empty()) {
                match from.read(room)? {
                    0 if length == 0 && !first => return Ok(State::End),
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => length += count,
                }
            }
            if first || start != [0; 4] {
                break;
            }
        }
        let mut rest = [0; 8];
        from.read_exact(&mut rest)?;
        let header = [&start[..], &rest].concat();
        let kind = header.get(7).copied().unwrap_or_default();
        let flags_are_good = header.get(6) == Some(&0) && kind & 0xf0 == 0;
        require(header.starts_with(MAGIC) && flags_are_good, "there is no xz stream where one should be")?;
        (self.check, self.blocks) = (Check::new(kind), 0);
        Ok(State::Between(from))
    }

    fn between(&mut self, mut from: R) -> io::Result<State<R>> {
        let size = byte(&mut from)?;
        if size == 0 {
            self.index(&mut from)?;
            return Ok(State::Stream { from, first: false });
        }
        let mut header = vec![0; usize::from(size) * 4 + 3];
        from.read_exact(&mut header)?;
        let (fields, sum) = header.split_at(header.len() - 4);
        let mut crc = Crc::new();
        crc.update(&[size]);
        crc.update(fields);
        require(sum == crc.sum().to_le_bytes(), "the header of a block is damaged")?;
        let dictionary = dictionary(fields)?;
        self.blocks += 1;
        let reader = Lzma2Reader::new(Counted { from, count: 0 }, dictionary, None);
        Ok(State::Block { reader: Box::new(reader) })
    }

    fn after_block(&mut self, counted: Counted<R>) -> io::Result<State<R>> {
        let Counted { mut from, count } = counted;
        for _ in 0..(4 - count % 4) % 4 {
            require(byte(&mut from)? == 0, "the padding of a block is damaged")?;
        }
        self.check.compare(&mut from)?;
        Ok(State::Between(from))
    }

    /// The index and the footer: as many blocks as there were, and the end where it should be.
    fn index(&mut self, from: &mut R) -> io::Result<()> {
        // The byte that told the index from a block counts.
        let mut index = Counted { from, count: 1 };
        require(number(&mut index)? == self.blocks, "the index has another number of blocks")?;
        for _ in 0..self.blocks {
            number(&mut index)?;
            number(&mut index)?;
        }
        let Counted { from, count } = index;
        for _ in 0..(4 - count % 4) % 4 {
            require(byte(from)? == 0, "the padding of the index is damaged")?;
        }
        // Checksum of the index, then checksum, size and flags of the footer, then its magic.
        let mut end = [0; 16];
        from.read_exact(&mut end)?;
        require(end.ends_with(FOOTER_MAGIC), "the stream has no end")
    }
}

impl<R: Read> Read for XzFile<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.state {
                State::End => return Ok(0),
                State::Block { reader } => {
                    let count = reader.read(buffer)?;
                    if count > 0 {
                        self.check.update(buffer.get(..count).unwrap_or_default());
                        return Ok(count);
                    }
                }
                State::Stream { .. } | State::Between(_) => {}
            }
            self.advance()?;
        }
    }
}
