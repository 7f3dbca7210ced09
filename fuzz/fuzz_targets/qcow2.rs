//! Headers of images that users upload: never a panic, and none that names another file passes.
#![no_main]

use cloudstack_agent::storage::qcow2::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tail: &[u8]| {
    // The magic is given, so that every input gets past it.
    let bytes = [b"QFI\xfb", tail].concat();
    let Ok(header) = Header::parse(&bytes) else { return };
    if header.self_contained().is_ok() {
        assert_eq!(bytes[8..16], [0; 8], "a backing file passes");
        assert!(header.version == 2 || bytes[79] & 4 == 0, "an external data file passes");
    }
});
