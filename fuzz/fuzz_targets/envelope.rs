//! The JSON envelope: never a panic, whatever is nested in it, and writing it keeps every field's
//! text as it was.
#![no_main]

use cloudstack_agent::wire::envelope::{Body, CommandTail};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Body(elements)) = serde_json::from_slice::<Body>(bytes) else { return };
    for element in &elements {
        // Reading the common tail of anything may fail, but not panic.
        let _ = element.read::<CommandTail>();
        let _ = element.simple_name();
    }
    let text = serde_json::to_string(&elements).expect("elements that were read can be written");
    let Body(again) = serde_json::from_str(&text).expect("elements that were written can be read");
    assert_eq!(again.len(), elements.len());
    for (one, other) in again.iter().zip(&elements) {
        assert_eq!((&one.class, one.fields.get()), (&other.class, other.fields.get()));
    }
});
