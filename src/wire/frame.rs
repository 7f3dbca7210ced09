//! The link frame: what is on the socket once the TLS handshake is over
//! (mirrors `com.cloud.utils.nio.Link`).
//!
//! ```text
//!   0        2        4            4+N
//!   +--------+--------+-------------+      F = 0x0001: more frames of this message follow
//!   |   F    |   N    | TLS records |      N = length of what follows, 1 to 18000
//!   +--------+--------+-------------+
//! ```
//!
//! The header is outside TLS. The F flag is the only message delimiter: there is no length inside
//! the plaintext, and a frame never holds bytes of two messages.

use super::limits::{MAX_FRAME, MAX_MESSAGE};

/// Length of the frame header in bytes.
pub const HEADER_LEN: usize = 4;

const FOLLOWING: u32 = 0x0001_0000;

/// Why the byte stream is not a sequence of frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("Frame header announces {0} bytes, allowed are 1 to {MAX_FRAME}: the link is out of step")]
    Length(usize),
    #[error("Message grew past {MAX_MESSAGE} bytes: dropped with its connection")]
    MessageTooLarge,
}

/// One frame: complete TLS records, still sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub sealed: Vec<u8>,
    /// More frames of the same message follow.
    pub more: bool,
}

/// The 4 bytes in front of `len` bytes of sealed records.
pub fn header(len: usize, more: bool) -> [u8; HEADER_LEN] {
    // A frame is made of one sealed 16 KiB chunk, so its length always fits 16 bits.
    let len = u32::from(u16::try_from(len).unwrap_or(u16::MAX));
    (if more { len | FOLLOWING } else { len }).to_be_bytes()
}

/// Cuts a byte stream into frames, however the bytes arrive.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameDecoder {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > MAX_FRAME {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame, `None` until more bytes arrive.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let pending = self.buffer.get(self.start..).unwrap_or_default();
        let Some((head, rest)) = pending.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let word = u32::from_be_bytes(*head);
        let len = usize::from(u16::try_from(word & 0xffff).unwrap_or(u16::MAX));
        if len == 0 || len > MAX_FRAME {
            return Err(FrameError::Length(len));
        }
        let Some(sealed) = rest.get(..len) else { return Ok(None) };
        let frame = Frame { sealed: sealed.to_vec(), more: word & FOLLOWING != 0 };
        self.start += HEADER_LEN + len;
        Ok(Some(frame))
    }

    /// Bytes received that do not yet make a frame: non-zero at end of stream means it was cut.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

/// Joins the plaintext of consecutive frames into messages.
#[derive(Debug, Default)]
pub struct MessageAssembler {
    buffer: Vec<u8>,
}

impl MessageAssembler {
    /// Adds the plaintext of one frame; gives the message when that frame was its last.
    pub fn push(&mut self, plaintext: &[u8], more: bool) -> Result<Option<Vec<u8>>, FrameError> {
        if self.buffer.len() + plaintext.len() > MAX_MESSAGE {
            return Err(FrameError::MessageTooLarge);
        }
        self.buffer.extend_from_slice(plaintext);
        if more || self.buffer.is_empty() { Ok(None) } else { Ok(Some(std::mem::take(&mut self.buffer))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_are_those_measured_on_a_real_server() {
        assert_eq!(header(39, false), [0, 0, 0, 0x27]);
        assert_eq!(header(16_413, false), [0, 0, 0x40, 0x1d]);
        assert_eq!(header(16_413, true), [0, 1, 0x40, 0x1d]);
    }

    #[test]
    fn lengths_out_of_range_are_refused() {
        for (bytes, len) in
            [([0, 0, 0, 0], 0), ([0, 0, 0x46, 0x51], 18_001), ([0x7f, 0xff, 0xff, 0xff], 65_535)]
        {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            assert_eq!(decoder.next_frame(), Err(FrameError::Length(len)));
        }
    }

    #[test]
    fn a_message_cannot_grow_for_ever() {
        let mut assembler = MessageAssembler::default();
        let chunk = vec![0u8; 16 * 1024 * 1024];
        for _ in 0..4 {
            assert_eq!(assembler.push(&chunk, true), Ok(None));
        }
        assert_eq!(assembler.push(&[0], true), Err(FrameError::MessageTooLarge));
    }

    proptest! {
        #[test]
        fn frames_survive_any_segmentation(
            frames in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..2000), any::<bool>()), 1..8),
            cut in 1usize..700,
        ) {
            let mut stream = Vec::new();
            for (sealed, more) in &frames {
                stream.extend_from_slice(&header(sealed.len(), *more));
                stream.extend_from_slice(sealed);
            }
            let mut decoder = FrameDecoder::default();
            let mut seen = Vec::new();
            for segment in stream.chunks(cut) {
                decoder.push(segment);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push((frame.sealed, frame.more));
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(decoder.pending(), 0);
        }
    }
}
