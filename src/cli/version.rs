//! `agent version`.

use serde_json::json;

use super::out::{self, JsonLayout};
use crate::service::exit;
use crate::status::WIRE_VERSION;
use crate::status::snapshot::SCHEMA;

/// Prints the version and returns the exit code.
pub fn show(json: bool) -> u8 {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        let value = json!({
            "name": env!("CARGO_PKG_NAME"),
            "version": version,
            "wire_version": WIRE_VERSION,
            "status_schema": SCHEMA,
        });
        out::show_json(&value, JsonLayout::Indented);
    } else {
        out::show(&format!("{} {version} (speaks {WIRE_VERSION})\n", env!("CARGO_PKG_NAME")));
    }
    exit::OK
}
