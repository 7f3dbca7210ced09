//! Input that no agent should survive badly: each kind as the bytes to put on the socket.

use super::link::{Link, LinkError};
use super::outbox::Outbox;
use super::outbox::Purpose;
use super::plan::Malformed;
use super::profile::Command;
use crate::wire::{Element, Flags, Header, Message, frame};
use flate2::{Compression, write::GzEncoder};
use serde_json::value::RawValue;
use std::io::Write;

const DEPTH: usize = 100_000;
const BOMB: usize = 200 * 1024 * 1024;
/// The header of the bomb announces this much.
const BOMB_ANNOUNCED: u32 = 4_096;

impl Malformed {
    pub(super) fn what(self) -> &'static str {
        match self {
            Malformed::HalfFrame => "half a frame",
            Malformed::LongFrame => "a frame header that announces 20000 bytes",
            Malformed::SwappedFrames => "two sealed messages in the wrong order",
            Malformed::RandomFrame => "a frame of random bytes",
            Malformed::GzipBomb => "a gzip bomb",
            Malformed::DeepJson => "a command nested 100000 levels deep",
        }
    }

    /// Queues the input on `link`. `sample` is an ordinary message to damage.
    pub(super) fn queue(
        self,
        link: &mut Link,
        sample: &[u8],
        outbox: &mut Outbox,
        rng: &mut fastrand::Rng,
    ) -> Result<(), LinkError> {
        match self {
            Malformed::HalfFrame => {
                let frame = link.seal(sample)?.concat();
                link.queue_raw(frame.get(..frame.len() / 2).unwrap_or_default());
            }
            Malformed::LongFrame => {
                link.queue_raw(&frame::header(20_000, false));
                link.queue_raw(&[0; 20_000]);
            }
            Malformed::SwappedFrames => {
                let first = link.seal(sample)?.concat();
                let second = link.seal(sample)?.concat();
                link.queue_raw(&second);
                link.queue_raw(&first);
            }
            Malformed::RandomFrame => {
                let noise: Vec<u8> = (0..300).map(|_| rng.u8(..)).collect();
                link.queue_raw(&frame::header(noise.len(), false));
                link.queue_raw(&noise);
            }
            Malformed::GzipBomb => {
                let (header, _) = health(outbox);
                link.queue(&bomb(header)?)?;
            }
            Malformed::DeepJson => {
                let (header, _) = health(outbox);
                if let Some(message) = deep(header) {
                    link.queue(&message)?;
                }
            }
        }
        Ok(())
    }
}

/// Header and sequence of a registered health check, so that an answer to it is not unexpected.
fn health(outbox: &mut Outbox) -> (Header, i64) {
    let class = "com.cloud.agent.api.CheckHealthCommand";
    let placeholder = Element::new(class, &serde_json::json!({})).into_iter().collect();
    let (sequence, message) =
        outbox.submit(placeholder, Flags::STOP_ON_ERROR, Purpose::Step(Command::CheckHealth));
    let mut header = Header::request(sequence, None, Flags::STOP_ON_ERROR);
    if let Some(message) = message {
        header = message.header;
    }
    (header, sequence)
}

fn bomb(header: Header) -> Result<Vec<u8>, std::io::Error> {
    let mut out = Vec::new();
    Header { flags: header.flags.with(Flags::COMPRESSED), size: BOMB_ANNOUNCED, ..header }.encode(&mut out);
    let mut gzip = GzEncoder::new(out, Compression::fast());
    let zeros = vec![b' '; 1024 * 1024];
    for _ in 0..BOMB / zeros.len() {
        gzip.write_all(&zeros)?;
    }
    gzip.finish()
}

fn deep(header: Header) -> Option<Vec<u8>> {
    let text = format!("{{\"x\":{}{}}}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let fields = RawValue::from_string(text).ok()?;
    let class = "com.cloud.agent.api.CheckHealthCommand".to_owned();
    Message { header, elements: vec![Element { class, fields }] }.encode().ok()
}
