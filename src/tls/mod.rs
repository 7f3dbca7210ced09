//! Everything TLS: what this host trusts and is, the handshake, and the sealed link after it.
//!
//! ```text
//!   cloud.ca.crt, cloud.crt, cloud.key
//!        | material::Material::load          (at every connection: renewals need no restart)
//!        v
//!   client::client_config  ---- verify::ServerVerifier
//!        |
//!        v
//!   handshake::connect(TcpStream)  -> TcpStream + sealed::Sealed    (bare TLS until here)
//!        |                                       |
//!        | failure                               | bytes in, messages out; messages in, frames out
//!        v                                       v
//!   explain::tls -> one sentence + remedy    the session's reader and writer
//! ```
//!
//! [`provision`] answers the server's certificate commands: it makes the key and the request, and
//! installs what comes back, including the PKCS#12 keystore that lets the Java agent take over again.
//!
//! Mirrors `com.cloud.utils.nio.{Link,NioClient}` and
//! `org.apache.cloudstack.utils.security.{SSLUtils,KeyStoreUtils}`. Nothing here logs or prints keys
//! or passphrases, decides when to reconnect, or sets deadlines: callers do.

pub mod certificate;
pub mod client;
pub mod download;
pub mod explain;
mod files;
pub mod handshake;
mod keystore;
pub mod material;
pub mod provision;
pub mod sealed;
pub mod verify;

#[cfg(test)]
mod testing;

pub use certificate::CertificateSummary;
pub use client::{client_config, provider};
pub use explain::{Explanation, FailureKind};
pub use handshake::{TlsFailure, TlsInfo, accept, connect};
pub use material::{Material, MaterialError, Trust};
pub use sealed::{OpenError, SealError, Sealed};
