//! agent.properties: whatever is in the file, reading it never panics and writing it back unchanged
//! gives the same bytes; a value that is set reads back as it was given.
#![no_main]

use cloudstack_agent::config::{Config, Properties};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|input: (&str, &[u8])| {
    let (value, bytes) = input;
    let Ok(mut file) = Properties::parse(bytes) else { return };
    assert_eq!(file.to_bytes(), bytes, "an untouched file changed");
    let _ = Config::from_properties(Path::new("/etc/cloudstack/agent/agent.properties"), &file);

    file.set("guid", value);
    assert_eq!(file.get("guid"), Some(value));
    let again = Properties::parse(&file.to_bytes()).expect("what was written can be read");
    assert_eq!(again.get("guid"), Some(value));
});
