//! The link after the handshake, without I/O: messages to frames and frames to messages
//! (mirrors `com.cloud.utils.nio.Link`).
//!
//! ```text
//!   message --16 KiB chunks--> one TLS record each --4-byte header--> out
//!   bytes --frames--> whole TLS records --plaintext--> joined until FOLLOWING is clear --> message
//! ```
//!
//! An error is final: the caller drops the connection. Nothing here waits, and what a peer can make
//! it keep is bounded by one frame plus one message ([`crate::wire::limits`]).

use std::io::{Read, Write};

use tokio_rustls::rustls::{AlertDescription, Connection, Error};

use crate::wire::frame::{FrameDecoder, FrameError, HEADER_LEN, MessageAssembler, header};
use crate::wire::limits::{MAX_FRAME, MAX_MESSAGE, SEND_CHUNK};

/// Content type, version and length in front of each TLS record.
pub(super) const RECORD_HEADER: usize = 5;

/// Records kept in reserve below the cipher's limit, for alerts and the handshake's own.
const RECORD_RESERVE: u64 = 1_024;

/// Why a message could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("Message of {0} bytes is longer than the {MAX_MESSAGE} the link carries: it was not sent")]
    TooLarge(usize),
    #[error("TLS keys of this connection are worn out after {0} records: reconnect")]
    KeysExhausted(u64),
    #[error("Cannot seal a message for the link: reconnect")]
    Tls(#[source] std::io::Error),
    #[error("Sealing a chunk gave {0} bytes, a frame holds 1 to {MAX_FRAME}: reconnect")]
    FrameSize(usize),
}

/// Why received bytes are not messages of this link.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("Received bytes are no frames: reconnect")]
    Frame(#[from] FrameError),
    #[error("A TLS record is cut by the end of its frame: reconnect")]
    SplitRecord,
    #[error("Cannot open a received TLS record, it was altered or is out of order: reconnect")]
    Tls(#[source] Error),
    #[error("Peer ended the link with the TLS alert {0:?}")]
    Alert(AlertDescription),
    #[error("Peer closed the TLS session")]
    Closed,
}

/// One sealed link. Owned by one task; sealing and opening share the TLS state.
pub struct Sealed {
    tls: Connection,
    frames: FrameDecoder,
    assembler: MessageAssembler,
    /// Records that may still be sealed with these keys.
    records_left: u64,
    record_limit: u64,
}

impl Sealed {
    /// Wraps a TLS connection whose handshake is complete.
    pub fn new(tls: impl Into<Connection>) -> Self {
        let tls = tls.into();
        let limit = tls
            .negotiated_cipher_suite()
            .map_or(0, |suite| match suite {
                tokio_rustls::rustls::SupportedCipherSuite::Tls12(suite) => {
                    suite.common.confidentiality_limit
                }
                tokio_rustls::rustls::SupportedCipherSuite::Tls13(suite) => {
                    suite.common.confidentiality_limit
                }
            })
            .saturating_sub(RECORD_RESERVE);
        Self {
            tls,
            frames: FrameDecoder::default(),
            assembler: MessageAssembler::default(),
            records_left: limit,
            record_limit: limit,
        }
    }

    /// Appends the frames of one message to `out`. An empty message gives none.
    pub fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if message.len() > MAX_MESSAGE {
            return Err(SealError::TooLarge(message.len()));
        }
        let chunks = message.chunks(SEND_CHUNK);
        let records = u64::try_from(chunks.len()).unwrap_or(u64::MAX);
        // Checked for the whole message: half of it must not go out. TLS 1.2 cannot renew its keys, and
        // rustls drops data once AES-GCM has sealed 2^24 records.
        self.records_left =
            self.records_left.checked_sub(records).ok_or(SealError::KeysExhausted(self.record_limit))?;
        out.reserve(message.len() + chunks.len() * 64);
        let last = chunks.len().saturating_sub(1);
        for (index, chunk) in chunks.enumerate() {
            self.seal_chunk(chunk, index < last, out)?;
        }
        Ok(())
    }

    /// Share of the key's lifetime that is left, from 1.0 down to 0.0. With AES-GCM it lasts 16.7 million
    /// frames; a connection that is up for months should be renewed at a quiet moment before it ends.
    pub fn key_lifetime_left(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rough share is all that is asked for")]
        let share = self.records_left as f64 / self.record_limit.max(1) as f64;
        share
    }

    fn seal_chunk(&mut self, chunk: &[u8], more: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.tls.writer().write_all(chunk).map_err(SealError::Tls)?;
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        while self.tls.wants_write() {
            self.tls.write_tls(out).map_err(SealError::Tls)?;
        }
        let len = out.len().saturating_sub(start + HEADER_LEN);
        if len == 0 || len > MAX_FRAME {
            return Err(SealError::FrameSize(len));
        }
        if let Some(place) = out.get_mut(start..start + HEADER_LEN) {
            place.copy_from_slice(&header(len, more));
        }
        Ok(())
    }

    /// Takes bytes as they came from the socket; then call [`Self::next_message`] until it gives `None`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next complete message, `None` until more bytes arrive.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, OpenError> {
        while let Some(frame) = self.frames.next_frame()? {
            let plaintext = self.open_frame(&frame.sealed)?;
            if let Some(message) = self.assembler.push(&plaintext, frame.more)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Bytes received that do not make a frame yet: non-zero at end of stream means a message was cut.
    pub fn pending(&self) -> usize {
        self.frames.pending()
    }

    fn open_frame(&mut self, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        if !is_whole_records(sealed) {
            return Err(OpenError::SplitRecord);
        }
        let mut plaintext = Vec::with_capacity(sealed.len());
        let mut rest = sealed;
        while !rest.is_empty() {
            // Taken in pieces and emptied after each, so rustls' own plaintext limit is never met.
            let taken = self.tls.read_tls(&mut rest).map_err(|error| OpenError::Tls(other(&error)))?;
            let state = self.tls.process_new_packets().map_err(|error| match error {
                Error::AlertReceived(alert) => OpenError::Alert(alert),
                other => OpenError::Tls(other),
            })?;
            let ready = u64::try_from(state.plaintext_bytes_to_read()).unwrap_or(u64::MAX);
            if ready > 0 {
                let mut reader = self.tls.reader().take(ready);
                reader.read_to_end(&mut plaintext).map_err(|error| OpenError::Tls(other(&error)))?;
            }
            if state.peer_has_closed() || taken == 0 {
                return Err(OpenError::Closed);
            }
        }
        Ok(plaintext)
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the buffers: half a message may hold a passphrase.
        f.debug_struct("Sealed")
            .field("pending", &self.pending())
            .field("records_left", &self.records_left)
            .finish_non_exhaustive()
    }
}

fn other(error: &std::io::Error) -> Error {
    Error::General(error.to_string())
}

/// Whether the frame is a sequence of complete TLS records.
fn is_whole_records(mut sealed: &[u8]) -> bool {
    while !sealed.is_empty() {
        let Some((head, rest)) = sealed.split_first_chunk::<RECORD_HEADER>() else { return false };
        let [.., high, low] = *head;
        match rest.get(usize::from(u16::from_be_bytes([high, low]))..) {
            Some(after) => sealed = after,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, connected_pair};

    fn pair() -> (Sealed, Sealed) {
        let (client, server) = connected_pair(&Authority::new("ours"));
        (Sealed::new(client), Sealed::new(server))
    }

    fn frames_of(sealed: &[u8]) -> Vec<(u32, usize)> {
        let mut rest = sealed;
        let mut frames = Vec::new();
        while let Some((head, after)) = rest.split_first_chunk::<4>() {
            let word = u32::from_be_bytes(*head);
            let len = (word & 0xffff) as usize;
            frames.push((word, len));
            rest = &after[len..];
        }
        frames
    }

    #[test]
    fn frame_headers_are_those_measured_on_a_real_server() {
        let (mut client, _) = pair();
        for (len, expected) in [
            (10, vec![0x27]),
            (16_384, vec![0x401d]),
            (16_385, vec![0x1_401d, 0x1e]),
            (40_000, vec![0x1_401d, 0x1_401d, 0x1c5d]),
            (0, vec![]),
        ] {
            let mut out = Vec::new();
            client.seal(&vec![7; len], &mut out).unwrap();
            let headers: Vec<u32> = frames_of(&out).into_iter().map(|(word, _)| word).collect();
            assert_eq!(headers, expected, "{len} bytes");
        }
        let mut out = Vec::new();
        client.seal(&[7; 10], &mut out).unwrap();
        assert_eq!(out[4..9], [0x17, 3, 3, 0, 0x22]);
    }

    #[test]
    fn messages_cross_both_ways_in_any_segmentation() {
        let (mut client, mut server) = pair();
        let messages: Vec<Vec<u8>> = [1, 16_384, 16_385, 300_000]
            .iter()
            .map(|len| (0..*len).map(|i| (i % 251) as u8).collect())
            .collect();
        let mut bytes = Vec::new();
        for message in &messages {
            client.seal(message, &mut bytes).unwrap();
        }
        let mut received = Vec::new();
        for segment in bytes.chunks(1_447) {
            server.push(segment);
            while let Some(message) = server.next_message().unwrap() {
                received.push(message);
            }
        }
        assert_eq!(received, messages);
        assert_eq!(server.pending(), 0);
        let mut back = Vec::new();
        server.seal(b"answer", &mut back).unwrap();
        client.push(&back);
        assert_eq!(client.next_message().unwrap().unwrap(), b"answer");
        assert!(client.next_message().unwrap().is_none());
    }

    #[test]
    fn several_records_in_one_frame_are_opened() {
        let (mut client, mut server) = pair();
        let mut records = Vec::new();
        for part in [b"one ".as_slice(), b"two"] {
            let mut frame = Vec::new();
            client.seal(part, &mut frame).unwrap();
            records.extend_from_slice(&frame[HEADER_LEN..]);
        }
        server.push(&header(records.len(), false));
        server.push(&records);
        assert_eq!(server.next_message().unwrap().unwrap(), b"one two");
    }

    #[test]
    fn a_record_split_over_two_frames_is_an_error() {
        let (mut client, mut server) = pair();
        let mut frame = Vec::new();
        client.seal(&[1; 100], &mut frame).unwrap();
        let record = &frame[HEADER_LEN..];
        server.push(&header(50, true));
        server.push(&record[..50]);
        server.push(&header(record.len() - 50, false));
        server.push(&record[50..]);
        assert!(matches!(server.next_message(), Err(OpenError::SplitRecord)));
    }

    #[test]
    fn altered_or_replayed_records_are_errors() {
        let (mut client, mut server) = pair();
        let mut frame = Vec::new();
        client.seal(b"hello", &mut frame).unwrap();
        let mut altered = frame.clone();
        *altered.last_mut().unwrap() ^= 1;
        server.push(&altered);
        assert!(matches!(server.next_message(), Err(OpenError::Tls(_))));

        let (mut client, mut server) = pair();
        let mut frame = Vec::new();
        client.seal(b"hello", &mut frame).unwrap();
        server.push(&frame);
        server.push(&frame);
        assert_eq!(server.next_message().unwrap().unwrap(), b"hello");
        assert!(matches!(server.next_message(), Err(OpenError::Tls(_))));
    }

    #[test]
    fn a_header_out_of_range_is_an_error() {
        let (_, mut server) = pair();
        server.push(&[0, 0, 0, 0]);
        assert!(matches!(server.next_message(), Err(OpenError::Frame(FrameError::Length(0)))));
    }

    #[test]
    fn close_notify_in_a_frame_ends_the_link() {
        let (mut client, server) = connected_pair(&Authority::new("ours"));
        let mut server = Sealed::new(server);
        client.send_close_notify();
        let mut alert = Vec::new();
        client.write_tls(&mut alert).unwrap();
        server.push(&header(alert.len(), false));
        server.push(&alert);
        assert!(matches!(server.next_message(), Err(OpenError::Closed)));
    }

    #[test]
    fn worn_out_keys_refuse_the_whole_message() {
        let (mut client, _) = pair();
        assert!(client.key_lifetime_left() > 0.999);
        client.records_left = 1;
        let mut out = Vec::new();
        assert!(matches!(client.seal(&[0; 16_385], &mut out), Err(SealError::KeysExhausted(_))));
        assert!(out.is_empty());
        client.seal(&[0; 16_384], &mut out).unwrap();
        assert!(client.key_lifetime_left() < 0.001);
    }

    #[test]
    fn oversized_messages_are_refused() {
        let (mut client, _) = pair();
        let mut out = Vec::new();
        assert!(matches!(client.seal(&vec![0; MAX_MESSAGE + 1], &mut out), Err(SealError::TooLarge(_))));
    }
}
