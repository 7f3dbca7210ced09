//! Bytes from a socket as link frames: never a panic, never more kept than was given, and the same
//! frames however the bytes are cut into segments.
#![no_main]

use cloudstack_agent::wire::frame::{FrameDecoder, MessageAssembler};
use libfuzzer_sys::fuzz_target;

/// The frames as the decoder gives them, and whether it ended with an error.
fn frames(segments: &mut dyn Iterator<Item = &[u8]>) -> (Vec<(Vec<u8>, bool)>, bool) {
    let mut decoder = FrameDecoder::default();
    let mut found = Vec::new();
    for segment in segments {
        decoder.push(segment);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => found.push((frame.sealed, frame.more)),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let whole = frames(&mut std::iter::once(bytes));
    let cut = frames(&mut bytes.chunks(usize::from(step) + 1));
    assert_eq!(whole, cut, "segmentation changed the frames");
    assert!(whole.0.iter().map(|(sealed, _)| sealed.len()).sum::<usize>() <= bytes.len());

    let mut assembler = MessageAssembler::default();
    for (sealed, more) in &whole.0 {
        if assembler.push(sealed, *more).is_err() {
            break;
        }
    }
});
