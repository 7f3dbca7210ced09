//! Configuration: `agent.properties`, read, checked and written back without loss.
//!
//! [`properties`] knows the text, [`keys`] the keys, [`Config`] the meaning; none of them does I/O.
//! [`store`] owns the file: it alone reads and writes it. [`crate::files`] replaces it without risk.
//! Mirrors `com.cloud.agent.properties` and `com.cloud.agent.dao.impl.PropertiesStorage`, except that a
//! value that cannot be used is an error instead of silently the default.

pub mod keys;
pub mod properties;
pub mod store;

mod error;
mod reader;
mod secret;
mod servers;
mod storage;
mod typed;
mod value;

pub use error::{ConfigError, InvalidValue};
pub use properties::Properties;
pub use secret::Secret;
pub use servers::ServerList;
pub use storage::LocalStorage;
pub use store::{Change, ConfigStore, FileState, Persisted, Reload};
pub use typed::Config;
