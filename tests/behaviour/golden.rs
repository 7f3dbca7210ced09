//! Real traffic of a 4.19.1 and a 4.22 server with their own agents, decoded and encoded again.
//!
//! `edited` lines had a secret or a long blob cut out after capture, so their sizes and frames are
//! not those of their body any more.

use cloudstack_agent::wire::classes::{self, Kind};
use cloudstack_agent::wire::frame::{self, FrameDecoder, MessageAssembler};
use cloudstack_agent::wire::{Flags, Header, Message, header, limits};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use std::io::Write;

/// What TLS 1.2 with AES-GCM adds to a record: header 5, nonce 8, tag 16.
const TLS_OVERHEAD: usize = 29;

pub const REGISTRATION_4_19: &str = include_str!("../data/wire/registration-4.19.1.jsonl");
pub const REGISTRATION_4_22: &str = include_str!("../data/wire/registration-4.22.jsonl");
const EXCHANGES_4_19: &str = include_str!("../data/wire/exchanges-4.19.1.jsonl");
const EXCHANGES_4_22: &str = include_str!("../data/wire/exchanges-4.22.jsonl");

/// One captured message.
pub struct Captured {
    pub header: Header,
    pub body: String,
    pub edited: bool,
    pub from_agent: bool,
    gzip: bool,
    frames: Vec<usize>,
}

impl Captured {
    fn new(line: &Value) -> Captured {
        let hex = line["header"].as_str().unwrap();
        let raw: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let header = Header::decode(&raw).unwrap();
        assert_eq!(raw.len(), header::LEN);
        assert_eq!(u64::from(header.flags.0), line["flags"].as_u64().unwrap());
        assert_eq!(header.sequence, line["seq"].as_i64().unwrap());
        assert_eq!(header.mgmt_id, line["mgmt"].as_i64().unwrap());
        assert_eq!(header.agent_id, line["agent"].as_i64().unwrap());
        assert_eq!(header.via, line["via"].as_i64().unwrap());
        let frames = line["frames"].as_array().unwrap().iter();
        Captured {
            header,
            body: line["body"].as_str().unwrap().to_owned(),
            edited: line["edited"].as_bool().unwrap_or(false),
            from_agent: line["dir"] == "agent>server",
            gzip: line["gzip"].as_bool().unwrap(),
            frames: frames
                .map(|f| usize::from_str_radix(f.as_str().unwrap().trim_start_matches("0x"), 16).unwrap())
                .collect(),
        }
    }

    /// The message as it travelled: header and body, gzipped if the header says so.
    pub fn bytes(&self) -> Vec<u8> {
        let size = if self.edited { u32::try_from(self.body.len()).unwrap() } else { self.header.size };
        let mut out = Vec::new();
        Header { size, ..self.header }.encode(&mut out);
        if !self.gzip {
            out.extend_from_slice(self.body.as_bytes());
            return out;
        }
        let mut gzip = GzEncoder::new(out, Compression::default());
        gzip.write_all(self.body.as_bytes()).unwrap();
        gzip.finish().unwrap()
    }
}

/// All messages of a file. Exchange files have pairs, a few of them without an answer.
pub fn captured(text: &str) -> Vec<Captured> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .flat_map(|line| match line.get("header") {
            Some(_) => vec![line],
            None => vec![line["request"].clone(), line["answer"].clone()],
        })
        .filter(|line| !line.is_null())
        .map(|line| Captured::new(&line))
        .collect()
}

fn all() -> Vec<Captured> {
    let files = [REGISTRATION_4_19, REGISTRATION_4_22, EXCHANGES_4_19, EXCHANGES_4_22];
    files.iter().flat_map(|text| captured(text)).collect()
}

#[test]
fn the_captures_are_all_there() {
    assert_eq!(captured(REGISTRATION_4_19).len(), 17);
    assert_eq!(captured(REGISTRATION_4_22).len(), 17);
    assert!(captured(EXCHANGES_4_19).len() > 250);
    assert!(captured(EXCHANGES_4_22).len() > 80);
    assert!(all().iter().filter(|message| message.gzip).count() >= 3);
}

#[test]
fn every_message_decodes_and_encodes_to_itself() {
    for message in all() {
        let raw = message.bytes();
        let decoded = Message::decode(&raw).unwrap();
        let again = decoded.encode().unwrap();
        let header = Header::decode(&again).unwrap();
        let context = &message.body[..message.body.len().min(120)];
        if message.edited {
            assert_eq!(header.size as usize, message.body.len(), "{context}");
            let plain = |flags: Flags| flags.without(Flags::COMPRESSED);
            assert_eq!(
                Header { size: 0, flags: plain(header.flags), ..header },
                Header { size: 0, flags: plain(message.header.flags), ..message.header },
                "{context}"
            );
        } else {
            assert_eq!(header, message.header, "{context}");
        }
        let body = serde_json::to_value(Message::decode(&again).unwrap().elements).unwrap();
        assert_eq!(body, serde_json::from_str::<Value>(&message.body).unwrap(), "{context}");
        if !message.gzip && !message.edited {
            assert_eq!(again, raw, "{context}");
        }
    }
}

#[test]
fn every_class_is_known_and_of_its_kind() {
    for message in all() {
        let kind = if message.header.is_request() { Kind::Command } else { Kind::Answer };
        for element in Message::decode(&message.bytes()).unwrap().elements {
            let class = classes::find(&element.class);
            assert_eq!(class.map(|class| class.kind), Some(kind), "{}", element.class);
        }
    }
}

#[test]
fn frame_lengths_are_those_on_the_wire() {
    let mut checked = 0;
    for message in all().into_iter().filter(|message| !message.gzip && !message.edited) {
        let encoded = Message::decode(&message.bytes()).unwrap().encode().unwrap();
        let frames: Vec<usize> =
            encoded.chunks(limits::SEND_CHUNK).map(|chunk| chunk.len() + TLS_OVERHEAD).collect();
        let seen: Vec<usize> = message.frames.iter().map(|word| word & 0xffff).collect();
        assert_eq!(frames, seen, "{}", &message.body[..message.body.len().min(120)]);
        checked += 1;
    }
    assert!(checked > 300);
}

#[test]
fn server_and_agent_flags_are_told_apart() {
    for message in all() {
        let flags = message.header.flags;
        assert_eq!(flags.contains(Flags::FROM_SERVER), !message.from_agent, "{flags:?}");
    }
}

/// Answers carry the header that [`Header::response`] makes from their request.
#[test]
fn responses_are_predicted_from_their_requests() {
    let mut checked = 0;
    for text in [EXCHANGES_4_19, EXCHANGES_4_22] {
        for line in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            if line["answer"].is_null() || line["request"]["dir"] != "server>agent" {
                continue;
            }
            let (request, answer) = (Captured::new(&line["request"]), Captured::new(&line["answer"]));
            let plain =
                Header { flags: answer.header.flags.without(Flags::COMPRESSED), size: 0, ..answer.header };
            assert_eq!(plain, request.header.response());
            checked += 1;
        }
    }
    assert!(checked > 100);
}

#[test]
fn a_registration_survives_every_segmentation() {
    for text in [REGISTRATION_4_19, REGISTRATION_4_22] {
        let messages: Vec<Vec<u8>> = captured(text).iter().map(Captured::bytes).collect();
        let mut stream = Vec::new();
        for message in &messages {
            // Small chunks, so that messages span frames.
            let chunks = message.len().div_ceil(100);
            for (n, chunk) in message.chunks(100).enumerate() {
                stream.extend_from_slice(&frame::header(chunk.len(), n + 1 < chunks));
                stream.extend_from_slice(chunk);
            }
        }
        for segment in [1, 3, 7, 101, 4_093] {
            let (mut decoder, mut assembler) = (FrameDecoder::default(), MessageAssembler::default());
            let mut seen = Vec::new();
            for bytes in stream.chunks(segment) {
                decoder.push(bytes);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.extend(assembler.push(&frame.sealed, frame.more).unwrap());
                }
            }
            assert_eq!(decoder.pending(), 0);
            assert_eq!(seen, messages, "segments of {segment}");
        }
    }
}
