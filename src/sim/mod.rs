//! A simulated management server, for `mgmt-sim`, the behaviour tests and the benchmark.
//!
//! It speaks the server's side of the protocol as captured from real servers, plays faults on
//! purpose, keeps the server's host states, and records every rule that an agent breaks. It must
//! never be part of a package: it is compiled with feature `sim` only, and its private keys are
//! made for one run.
//!
//! ```text
//!   SimServer ── listener task ──▶ connection task (per agent)
//!       │                            │  scenario: Plan of Steps      (scenario, plan, steps)
//!       │                            │  agent's messages             (inbound, discipline)
//!       ▼                            ▼  sequences, in-sequence queue  (outbox)
//!    EventStream ◀────────────── Ledger: events, violations, host rows with Status
//! ```
//!
//! In a test:
//!
//! ```no_run
//! # use cloudstack_agent::sim::{Scenario, Script, SimConfig, SimEvent, SimServer};
//! # use std::time::Duration;
//! # async fn test() -> Result<(), Box<dyn std::error::Error>> {
//! let script = Script::first(Scenario::CutAfterStartup, 3).finally(Scenario::Normal);
//! let server = SimServer::start(SimConfig { script, ..SimConfig::default() }).await?;
//! // start an agent against server.address()
//! let ready = server
//!     .events()
//!     .until(Duration::from_secs(60), |r| matches!(r.event, SimEvent::Ready { .. }))
//!     .await;
//! assert!(ready.is_some() && server.violations().is_empty());
//! # Ok(()) }
//! ```

pub mod captured;
mod connection;
mod discipline;
mod door;
pub mod edge;
mod event;
mod inbound;
mod ledger;
mod link;
mod malformed;
mod order;
mod outbox;
mod pki;
mod plan;
mod profile;
mod scenario;
mod server;
mod status;
mod steps;
mod tls;

pub use event::{ConnectionNumber, Ending, Recorded, Rule, SimEvent, Violation};
pub use ledger::{EventStream, HostRow, Transition};
pub use link::Agreed;
pub use order::{Answers, SendError};
pub use outbox::MANAGEMENT_ID;
pub use pki::{CA_NAME, Identity, KeyKind, Pki, PkiError, Validity};
pub use profile::Profile;
pub use scenario::{Knobs, Lasts, Scenario, Script, ScriptError, SshKeys};
pub use server::{SimConfig, SimError, SimServer};
pub use status::{HostEvent, Status};
pub use tls::{ClientCertificate, TlsSetupError};
