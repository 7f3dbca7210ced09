//! TLS settings of the simulated server: TLS 1.3 and 1.2 offered, the CA certificate as leaf, a
//! client certificate wanted or needed (mirrors `RootCAProvider` and `RootCACustomTrustManager`).

use super::pki::{self, Pki};
use std::net::IpAddr;
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What the server does about client certificates (`ca.plugin.root.auth.strictness`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificate {
    /// Strictness false: asks, accepts none or any.
    #[default]
    Want,
    /// Strictness true: demands one that is valid now and names the peer's address.
    Need,
}

/// Why a TLS setting cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("TLS settings of the simulated server cannot be made from its CA")]
pub struct TlsSetupError(#[from] Error);

/// Makes one TLS configuration per connection, because the check of a client certificate depends
/// on the peer's address.
#[derive(Debug, Clone)]
pub struct ServerTls {
    provider: Arc<CryptoProvider>,
    identity: Arc<CertifiedKey>,
    issuer_hint: DistinguishedName,
    sessions: Arc<dyn StoresServerSessions>,
}

impl ServerTls {
    /// Presents the certificate of `pki`.
    pub fn new(pki: &Pki) -> Result<ServerTls, TlsSetupError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let ca = pki.ca_der();
        let identity = CertifiedKey::from_der(vec![ca.clone()], pki.key_der(), &provider)?;
        let subject = X509Certificate::from_der(&ca).map(|(_, c)| c.subject().as_raw().to_vec());
        let issuer_hint = DistinguishedName::from(subject.unwrap_or_default());
        let sessions = ServerSessionMemoryCache::new(64);
        Ok(ServerTls { provider, identity: Arc::new(identity), issuer_hint, sessions })
    }

    /// The configuration for a connection from `peer`.
    pub fn config(&self, peer: IpAddr, mode: ClientCertificate) -> Result<Arc<ServerConfig>, TlsSetupError> {
        let verifier = Verifier { tls: self.clone(), peer, mode, hints: vec![self.issuer_hint.clone()] };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.identity))));
        config.session_storage = Arc::clone(&self.sessions);
        Ok(Arc::new(config))
    }
}

/// Looks at the first certificate only and builds no path, like the real server.
#[derive(Debug)]
struct Verifier {
    tls: ServerTls,
    peer: IpAddr,
    mode: ClientCertificate,
    hints: Vec<DistinguishedName>,
}

impl Verifier {
    fn check(&self, der: &CertificateDer<'_>) -> Result<(), CertificateError> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
        if !parsed.validity().is_valid() {
            return Err(CertificateError::Expired);
        }
        let san = parsed.subject_alternative_name().ok().flatten();
        let named = san.is_some_and(|san| {
            san.value.general_names.iter().any(|name| match name {
                GeneralName::IPAddress(raw) => pki::address(raw) == Some(self.peer),
                _ => false,
            })
        });
        if named { Ok(()) } else { Err(CertificateError::NotValidForName) }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mode == ClientCertificate::Need
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match (self.mode, self.check(end_entity)) {
            (ClientCertificate::Want, _) | (ClientCertificate::Need, Ok(())) => {
                Ok(ClientCertVerified::assertion())
            }
            (ClientCertificate::Need, Err(reason)) => Err(Error::InvalidCertificate(reason)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.tls.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.tls.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.tls.provider.signature_verification_algorithms.supported_schemes()
    }
}
