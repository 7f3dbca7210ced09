//! A whole message: header and body, gzip included
//! (mirrors `com.cloud.agent.transport.Request` and `Response`).

use super::envelope::{Body, Element};
use super::gson;
use super::header::{self, Flags, Header, HeaderError};
use super::limits::{COMPRESS_FROM, MAX_BODY, MAX_MESSAGE};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use std::io::{Read, Write};

/// Why bytes are not a message. `Body` still carries the header, so that a request can be refused
/// by an answer instead of by silence.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("Compressed body is not gzip")]
    Gzip(Header, #[source] std::io::Error),
    #[error("Body unpacks to more than the {announced} bytes that its header announces (limit {MAX_BODY})")]
    Inflated { header: Header, announced: u64 },
    #[error("Body is not an array of commands or answers")]
    Body(Header, #[source] serde_json::Error),
}

impl DecodeError {
    /// Header of the message, if at least that was readable.
    pub fn header(&self) -> Option<&Header> {
        match self {
            DecodeError::Header(_) => None,
            DecodeError::Gzip(header, _)
            | DecodeError::Inflated { header, .. }
            | DecodeError::Body(header, _) => Some(header),
        }
    }
}

/// Why a message cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("Body cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("Body of {0} bytes is larger than the {MAX_MESSAGE} that a message may have")]
    TooLarge(usize),
    #[error("Body cannot be compressed")]
    Gzip(#[from] std::io::Error),
}

/// A request (commands) or a response (answers).
#[derive(Debug, Clone)]
pub struct Message {
    pub header: Header,
    pub elements: Vec<Element>,
}

impl Message {
    /// Decodes one complete message as the link frames delivered it.
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        let header = Header::decode(bytes)?;
        let raw = bytes.get(header::LEN..).unwrap_or_default();
        let inflated;
        let json = if header.flags.contains(Flags::COMPRESSED) {
            inflated = inflate(&header, raw)?;
            inflated.as_slice()
        } else {
            raw
        };
        let text = String::from_utf8_lossy(json);
        let Body(elements) = serde_json::from_str(&text).map_err(|e| DecodeError::Body(header, e))?;
        Ok(Message { header, elements })
    }

    /// Encodes the message; sets the size and the `COMPRESSED` flag from the body.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let json = gson::to_string(&self.elements)?;
        if json.len() > MAX_MESSAGE {
            return Err(EncodeError::TooLarge(json.len()));
        }
        let size = u32::try_from(json.len()).map_err(|_| EncodeError::TooLarge(json.len()))?;
        let compress = json.len() >= COMPRESS_FROM;
        let flags = self.header.flags.without(Flags::COMPRESSED);
        let flags = if compress { flags.with(Flags::COMPRESSED) } else { flags };
        let mut out = Vec::with_capacity(header::LEN + if compress { json.len() / 4 } else { json.len() });
        Header { flags, size, ..self.header }.encode(&mut out);
        if compress {
            let mut gzip = GzEncoder::new(out, Compression::fast());
            gzip.write_all(json.as_bytes())?;
            return Ok(gzip.finish()?);
        }
        out.extend_from_slice(json.as_bytes());
        Ok(out)
    }
}

/// Unpacks at most the announced number of bytes. The reference reader allocates exactly that much.
fn inflate(header: &Header, raw: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let announced = u64::from(header.size);
    let allowed = announced.min(MAX_BODY as u64);
    let mut out = Vec::new();
    let mut reader = MultiGzDecoder::new(raw).take(allowed + 1);
    reader.read_to_end(&mut out).map_err(|e| DecodeError::Gzip(*header, e))?;
    if out.len() as u64 > allowed {
        return Err(DecodeError::Inflated { header: *header, announced });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(class: &str, json: &str) -> Element {
        Element {
            class: class.into(),
            fields: serde_json::value::RawValue::from_string(json.into()).unwrap(),
        }
    }

    fn message(fields: &str) -> Message {
        Message {
            header: Header::request(0, None, Flags::default()),
            elements: vec![element("com.cloud.agent.api.CheckHealthCommand", fields)],
        }
    }

    #[test]
    fn the_worked_example_is_encoded_byte_by_byte() {
        let caps = r#"{"cpus":0,"speed":0,"memory":0,"dom0MinMemory":0,"poolSync":false,"supportsClonedVolumes":false,"caps":"hvm,snapshot","hostTags":[],"type":"Routing","contextMap":{},"wait":0,"bypassHostMaintenance":false}"#;
        let mut example = message(caps);
        example.elements[0].class = "com.cloud.agent.api.StartupRoutingCommand".into();
        let bytes = example.encode().unwrap();
        assert_eq!(bytes.len(), 292);
        assert_eq!(&bytes[..16], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfc]);
        assert_eq!(&bytes[16..40], &[0xff; 24]);
    }

    #[test]
    fn compression_starts_at_8192_bytes_of_body() {
        let wrap = message("\"\"").encode().unwrap().len() - header::LEN;
        for (body, compressed) in [(8191, false), (8192, true)] {
            let bytes = message(&format!("\"{}\"", "x".repeat(body - wrap))).encode().unwrap();
            let header = Header::decode(&bytes).unwrap();
            assert_eq!(header.flags.contains(Flags::COMPRESSED), compressed, "{body}");
            assert_eq!(header.size as usize, body);
            assert_eq!(Message::decode(&bytes).unwrap().elements.len(), 1);
        }
    }

    #[test]
    fn a_decompression_bomb_stops_at_the_announced_size() {
        let mut bytes = message(&format!("\"{}\"", "x".repeat(1_000_000))).encode().unwrap();
        bytes[12..16].copy_from_slice(&100u32.to_be_bytes());
        assert!(matches!(Message::decode(&bytes), Err(DecodeError::Inflated { announced: 100, .. })));
    }

    #[test]
    fn broken_bodies_keep_their_header() {
        let mut bytes = message("{}").encode().unwrap();
        bytes.truncate(bytes.len() - 1);
        assert!(matches!(Message::decode(&bytes), Err(e) if e.header().is_some()));
        bytes[3] |= 0x80;
        assert!(matches!(Message::decode(&bytes), Err(DecodeError::Gzip(..))));
    }

    proptest! {
        #[test]
        fn messages_round_trip(text in ".{0,9000}", sequence: i64) {
            let mut sent = message(&gson::to_string(&text).unwrap());
            sent.header.sequence = sequence;
            let got = Message::decode(&sent.encode().unwrap()).unwrap();
            prop_assert_eq!(got.header.sequence, sequence);
            prop_assert_eq!(got.elements[0].read::<String>().unwrap(), text);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&bytes);
        }
    }
}
