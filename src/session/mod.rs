//! The connection to the management server.
//!
//! Policy and mechanism are apart: [`machine`], [`survivors`], [`servers`], [`backoff`], [`inbound`]
//! decide (no I/O), [`driver`], [`link`], [`pings`], [`requests`] perform, [`supervisor`] starts one
//! session after the other. A session is a value that is dropped at its end.

pub mod backoff;
pub mod driver;
pub mod end;
pub mod facts;
pub mod inbound;
pub mod link;
pub mod machine;
mod pings;
pub mod report;
mod requests;
pub mod servers;
pub mod story;
pub mod supervisor;
pub mod survivors;
