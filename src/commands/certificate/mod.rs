//! Commands that renew the certificate of this host.
//!
//! ```text
//!   SetupKeyStoreCommand ──▶ key and request ──▶ SetupCertificateCommand ──▶ reconnect once idle
//! ```

pub mod post_certificate_renewal;
pub mod setup_certificate;
pub mod setup_key_store;

use super::fault::{Fault, fault_from};
use crate::tls::provision::ProvisionError;

fault_from!(ProvisionError);

/// Whom a certificate command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recipient {
    ThisHost,
    /// A system VM that is reached through this host.
    Router,
}

impl Recipient {
    fn of(handle_by_agent: bool) -> Recipient {
        if handle_by_agent { Recipient::ThisHost } else { Recipient::Router }
    }

    fn must_be_this_host(self) -> Result<(), Fault> {
        match self {
            Recipient::ThisHost => Ok(()),
            Recipient::Router => Err(Fault::new("Router commands are not supported yet by this agent")),
        }
    }
}

/// Runs work that blocks: RSA keys take up to seconds.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProvisionError> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => {
            Err(Fault::new("The certificate code of the agent panicked; please report it with the log"))
        }
    }
}
