//! The TLS client configuration: TLS 1.2 only, ring, own verifier, client certificate when there is one.
//!
//! TLS 1.3 must never be offered: a Java server then writes its session tickets outside the link
//! frames after the handshake, and the framing is lost at the first read.

use std::sync::Arc;

use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, SignatureScheme, version};

use super::certificate;
use super::material::Material;
use super::verify::ServerVerifier;

/// The TLS configuration could not be built from the parts compiled in.
#[derive(Debug, thiserror::Error)]
#[error("TLS 1.2 is not available in this build: install a release built with the tls12 and ring features")]
pub struct ClientConfigError(#[source] tokio_rustls::rustls::Error);

/// The one cryptography provider of the program, given explicitly so that no process-wide default can
/// replace it.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Client configuration for one connection, from material just read.
pub fn client_config(material: &Material) -> Result<Arc<ClientConfig>, ClientConfigError> {
    let provider = provider();
    let verifier = ServerVerifier::new(material.trust(), Arc::clone(&provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS12])
        .map_err(ClientConfigError)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(OwnIdentity { identity: material.identity().cloned() }));
    // Each connection gets its own configuration, so a session could never be resumed anyway.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Offers the host's certificate when the server's list of acceptable issuers allows it.
struct OwnIdentity {
    identity: Option<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for OwnIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnIdentity").field("present", &self.identity.is_some()).finish()
    }
}

impl ResolvesClientCert for OwnIdentity {
    fn resolve(&self, acceptable: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.identity.as_ref().filter(|identity| is_acceptable(identity, acceptable)).cloned()
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

/// As the Java key manager: some certificate of the chain was issued by a listed name; an empty list
/// accepts all.
fn is_acceptable(identity: &CertifiedKey, acceptable: &[&[u8]]) -> bool {
    acceptable.is_empty()
        || identity.cert.iter().any(|der| {
            certificate::parse(der).is_some_and(|parsed| acceptable.contains(&parsed.issuer().as_raw()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Provisioned};

    #[test]
    fn identity_is_offered_only_to_its_own_authority() {
        let (ours, other) = (Authority::new("ours"), Authority::new("other"));
        let host = Provisioned::by(&ours);
        let material = Material::load(host.dir()).unwrap();
        let resolver = OwnIdentity { identity: material.identity().cloned() };
        let (ours, other) = (ours.subject_der(), other.subject_der());
        assert!(resolver.resolve(&[], &[]).is_some());
        assert!(resolver.resolve(&[&other, &ours], &[]).is_some());
        assert!(resolver.resolve(&[&other], &[]).is_none());
    }

    #[test]
    fn debug_shows_no_key() {
        let authority = Authority::new("ours");
        let host = Provisioned::by(&authority);
        let material = Material::load(host.dir()).unwrap();
        let resolver = OwnIdentity { identity: material.identity().cloned() };
        assert_eq!(format!("{resolver:?}"), "OwnIdentity { present: true }");
    }
}
