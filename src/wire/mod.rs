//! The wire format, without I/O: bytes in, values out, and back.
//!
//! Layers, outermost first: [`frame`] (the link frame around TLS records), [`message`] (40-byte
//! [`header`] and an optionally gzipped body), [`envelope`] (the JSON array of
//! `{"fully.qualified.Class": {..}}`), [`classes`] (every class name the servers 4.19 to 4.22 know).
//!
//! This module imports nothing else of the crate, uses no clock, no randomness and no runtime.
//! Every size that a peer controls is bounded by a constant in [`limits`].

pub mod base64;
pub mod classes;
pub mod envelope;
pub mod frame;
pub mod gson;
pub mod header;
pub mod lenient;
pub mod limits;
pub mod message;

pub use envelope::{CommandTail, Element, Sent};
pub use header::{Flags, Header};
pub use message::{DecodeError, Message};
