//! A decrypted message (header, perhaps gzip, JSON): never a panic, and what decodes encodes to
//! something that decodes to the same.
#![no_main]

use cloudstack_agent::wire::{Flags, Header, Message};
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else { return };
    let Ok(encoded) = message.encode() else { return };
    let again = Message::decode(&encoded).expect("what was encoded here decodes");
    assert_eq!(again.elements.len(), message.elements.len());
    for (one, other) in again.elements.iter().zip(&message.elements) {
        assert_eq!(one.class, other.class);
    }
    let plain = |header: Header| Header { size: 0, flags: header.flags.without(Flags::COMPRESSED), ..header };
    assert_eq!(plain(again.header), plain(message.header));
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The same input as the body behind a correct header: the fuzzer need not find the header.
    if let Ok(size) = u32::try_from(bytes.len()) {
        let mut framed = Vec::new();
        Header { size, ..Header::request(1, Some(1), Flags::default()) }.encode(&mut framed);
        framed.extend_from_slice(bytes);
        check(&framed);
    }
});
