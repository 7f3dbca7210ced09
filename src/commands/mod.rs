//! Commands of the management server: one file per command, grouped by domain.
//!
//! A file holds the command struct (wire fields), the answer struct, the handler and its test.
//! Only this module sees both wire types and the hypervisor. To add a command: write its file, add
//! its line to [`table`], run the tests; `CONTRIBUTING.md` walks through an example.

pub mod claims;
pub mod ctx;
pub mod fault;
pub mod place;
pub mod registry;
pub mod secret;
pub mod table;
pub mod to;

pub mod agent;
pub mod certificate;
pub mod host;
pub mod network;
pub mod storage;
pub mod vm;

#[cfg(feature = "sim")]
#[cfg(test)]
mod captured_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use claims::{Claims, Key};
pub use ctx::{Ctx, Identity, ServerList, Services, SessionLink, SessionRequest};
pub use fault::Fault;
pub use registry::{Answer, Call, Command, Domain, Entry, Lane, NoFields, Reply, Support};
