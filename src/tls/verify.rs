//! Decides whether a server is believed (mirrors the trust manager of
//! `org.apache.cloudstack.utils.security.SSLUtils` with the keystore as trust store).
//!
//! With the built-in CA plugin the server presents the root CA itself as its TLS certificate: a CA
//! certificate as leaf, without alternative names. So a leaf is accepted when it is a trusted CA
//! certificate (or a re-issue with the same name and key; its dates do not count, it is the anchor), or
//! when it chains to one (then all dates count). Names and extended key usage are not checked, as in
//! Java. Handshake signatures always are, even unprovisioned: the server must own the key it shows.

use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::{AlgorithmIdentifier, X509Version};

use super::certificate::{self, fingerprint};
use super::material::Trust;

/// Why a server's certificate was refused. Travels inside the rustls error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No trusted CA issued it: the CA was replaced, or this is not our server.
    #[error(
        "the server's certificate {subject} (SHA-256 {fingerprint}) was issued by {issuer}, \
         this host trusts {}", .trusted.join(" and ")
    )]
    UnknownAuthority { subject: String, issuer: String, fingerprint: String, trusted: Vec<String> },
    #[error("the server's certificate {subject} expired at {not_after}, and this host's clock says {now}")]
    Expired { subject: String, not_after: String, now: String },
    #[error(
        "the server's certificate {subject} is valid from {not_before}, and this host's clock says {now}"
    )]
    NotYetValid { subject: String, not_before: String, now: String },
    #[error("the server's certificate {subject} is unusable: {detail}")]
    Unusable { subject: String, detail: String },
}

/// Accepts what [`Trust`] allows.
#[derive(Debug)]
pub struct ServerVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    pub fn new(trust: &Trust, provider: Arc<CryptoProvider>) -> Self {
        Self { trust: trust.clone(), provider }
    }

    fn check(
        &self,
        authorities: &[CertificateDer<'static>],
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Rejection> {
        if authorities.iter().any(|authority| authority == leaf) {
            return Ok(());
        }
        let Some(parsed) = certificate::parse(leaf) else {
            let detail = "it is not an X.509 certificate".to_owned();
            return Err(Rejection::Unusable { subject: "?".to_owned(), detail });
        };
        if authorities.iter().any(|authority| is_same_anchor(authority, &parsed)) {
            return Ok(());
        }
        let presented = Presented { leaf, parsed: &parsed, intermediates, now };
        self.chain(authorities, &presented).map_err(|error| presented.rejection(&error, authorities))
    }

    /// As rustls' own check, for what webpki cannot read: zones set up by old servers have a root CA
    /// certificate of X.509 version 1.
    fn verify_by_old_certificate(
        &self,
        message: &[u8],
        certificate: &X509Certificate<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = certificate.public_key();
        let candidates = self
            .provider
            .signature_verification_algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == dss.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter())
            .filter(|algorithm| is_for_key(algorithm.public_key_alg_id().as_ref(), &key.algorithm));
        for algorithm in candidates {
            let point_or_modulus = &key.subject_public_key.data;
            if algorithm.verify_signature(point_or_modulus, message, dss.signature()).is_ok() {
                return Ok(HandshakeSignatureValid::assertion());
            }
        }
        Err(CertificateError::BadSignature.into())
    }

    /// Path building by webpki: signatures, dates and basic constraints of the whole chain.
    fn chain(&self, authorities: &[CertificateDer<'static>], presented: &Presented<'_>) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            // A certificate that cannot be an anchor was compared as a leaf above; it is of no use here.
            let _ = roots.add(authority.clone());
        }
        let result = verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(presented.leaf)?,
            &roots,
            presented.intermediates,
            presented.now,
            self.provider.signature_verification_algorithms.all,
        );
        match result {
            // webpki cannot skip the extended key usage, but a certificate that is not for servers is for
            // clients, and that is the same path building.
            Err(Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            )) => WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| Error::General(error.to_string()))?
                .verify_client_cert(presented.leaf, presented.intermediates, presented.now)
                .map(|_| ()),
            other => other,
        }
    }
}

/// A trust anchor is a name and a key (RFC 5280, 6.1.1): a CA certificate issued anew with both is the
/// same authority, and the handshake proves that the server holds the key.
fn is_same_anchor(authority: &CertificateDer<'_>, leaf: &X509Certificate<'_>) -> bool {
    certificate::parse(authority).is_some_and(|authority| {
        authority.subject().as_raw() == leaf.subject().as_raw()
            && authority.public_key().raw == leaf.public_key().raw
    })
}

/// Whether an encoded algorithm identifier (without its outer SEQUENCE) begins with the key's algorithm.
fn is_for_key(encoded: &[u8], key: &AlgorithmIdentifier<'_>) -> bool {
    const OBJECT_IDENTIFIER: u8 = 6;
    let oid = key.algorithm.as_bytes();
    matches!(encoded, [OBJECT_IDENTIFIER, len, rest @ ..] if usize::from(*len) == oid.len() && rest.starts_with(oid))
}

struct Presented<'a> {
    leaf: &'a CertificateDer<'a>,
    parsed: &'a X509Certificate<'a>,
    intermediates: &'a [CertificateDer<'a>],
    now: UnixTime,
}

impl Presented<'_> {
    fn rejection(&self, error: &Error, authorities: &[CertificateDer<'static>]) -> Rejection {
        let subject = self.parsed.subject().to_string();
        // webpki looks at dates before it looks for the issuer; a stranger's dates are beside the point.
        if !self.has_known_issuer(authorities) {
            return self.unknown(authorities);
        }
        let now = self.now.as_secs();
        match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                self.unknown(authorities)
            }
            Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
                Rejection::Expired { subject, not_after: rfc3339(not_after.as_secs()), now: rfc3339(now) }
            }
            Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
                Rejection::NotYetValid {
                    subject,
                    not_before: rfc3339(not_before.as_secs()),
                    now: rfc3339(now),
                }
            }
            other => Rejection::Unusable { subject, detail: other.to_string() },
        }
    }

    /// A self-signed leaf that reached this point is no anchor, so its issuer is unknown even when it
    /// borrows a trusted name (every CloudStack CA has the same default name).
    fn has_known_issuer(&self, authorities: &[CertificateDer<'static>]) -> bool {
        let issuer = self.parsed.issuer().as_raw();
        let is_subject = |der: &CertificateDer<'_>| {
            certificate::parse(der).is_some_and(|c| c.subject().as_raw() == issuer)
        };
        issuer != self.parsed.subject().as_raw()
            && (authorities.iter().any(is_subject) || self.intermediates.iter().any(is_subject))
    }

    fn unknown(&self, authorities: &[CertificateDer<'static>]) -> Rejection {
        Rejection::UnknownAuthority {
            subject: self.parsed.subject().to_string(),
            issuer: self.parsed.issuer().to_string(),
            fingerprint: fingerprint(self.leaf),
            trusted: authorities.iter().map(|der| describe(der)).collect(),
        }
    }
}

fn describe(authority: &[u8]) -> String {
    let name = certificate::parse(authority).map_or_else(|| "?".to_owned(), |c| c.subject().to_string());
    format!("{name} (SHA-256 {})", fingerprint(authority))
}

fn rfc3339(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| "a time out of range".to_owned())
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::NotProvisioned => Ok(ServerCertVerified::assertion()),
            Trust::Authorities(authorities) => self
                .check(authorities, end_entity, intermediates, now)
                .map(|()| ServerCertVerified::assertion())
                .map_err(|rejection| {
                    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejection))))
                }),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match certificate::parse(cert) {
            Some(parsed) if parsed.version() != X509Version::V3 => {
                self.verify_by_old_certificate(message, &parsed, dss)
            }
            _ => verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::client::provider;
    use crate::tls::testing::{Authority, Validity};

    fn verdict(trusted: &[&Authority], leaf: &CertificateDer<'_>) -> Result<(), Rejection> {
        let trust = Trust::Authorities(trusted.iter().map(|authority| authority.der()).collect());
        let verifier = ServerVerifier::new(&trust, provider());
        let name = ServerName::try_from("any.example").unwrap();
        match verifier.verify_server_cert(leaf, &[], &name, &[], UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
                Err(inner.downcast_ref::<Rejection>().unwrap().clone())
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn trusted_ca_certificate_is_accepted_as_leaf_whatever_its_dates() {
        for validity in [Validity::Current, Validity::Past, Validity::Future] {
            let authority = Authority::valid("ours", validity);
            assert_eq!(verdict(&[&authority], &authority.der()), Ok(()));
        }
    }

    #[test]
    fn reissued_ca_certificate_with_the_same_name_and_key_is_accepted() {
        let authority = Authority::new("ours");
        let reissued = authority.reissued();
        assert_ne!(reissued, authority.der());
        assert_eq!(verdict(&[&authority], &reissued), Ok(()));
    }

    #[test]
    fn another_ca_is_refused_even_under_the_same_name() {
        let (ours, other) = (Authority::new("ca.example"), Authority::new("ca.example"));
        let Err(Rejection::UnknownAuthority { issuer, fingerprint, trusted, .. }) =
            verdict(&[&ours], &other.der())
        else {
            panic!("accepted");
        };
        assert_eq!(issuer, "CN=ca.example");
        assert!(!trusted[0].contains(&fingerprint), "the two must be told apart: {trusted:?}");
    }

    #[test]
    fn chained_leaf_is_accepted_without_a_name_check() {
        let authority = Authority::new("ours");
        assert_eq!(verdict(&[&authority], &authority.issue("server", Validity::Current).certificate), Ok(()));
    }

    #[test]
    fn extended_key_usage_is_not_checked() {
        let authority = Authority::new("ours");
        assert_eq!(verdict(&[&authority], &authority.issue_for_clients("server").certificate), Ok(()));
    }

    #[test]
    fn chained_leaf_with_wrong_dates_is_refused() {
        let authority = Authority::new("ours");
        let past = authority.issue("server", Validity::Past).certificate;
        assert!(matches!(verdict(&[&authority], &past), Err(Rejection::Expired { .. })));
        let future = authority.issue("server", Validity::Future).certificate;
        assert!(matches!(verdict(&[&authority], &future), Err(Rejection::NotYetValid { .. })));
    }

    #[test]
    fn leaf_of_a_stranger_is_an_unknown_authority_even_if_expired_or_same_named() {
        let (ours, other) = (Authority::new("ours"), Authority::new("other"));
        let leaf = other.issue("server", Validity::Past).certificate;
        assert!(matches!(verdict(&[&ours], &leaf), Err(Rejection::UnknownAuthority { .. })));
        let impostor = Authority::new("ours").issue("server", Validity::Current).certificate;
        assert!(matches!(verdict(&[&ours], &impostor), Err(Rejection::UnknownAuthority { .. })));
    }

    #[test]
    fn real_server_ca_is_accepted_as_leaf_and_signs_the_real_host_certificate() {
        let ca = certificate::from_pem(include_bytes!("../../tests/data/tls/java-ca.crt")).unwrap();
        let host = certificate::from_pem(include_bytes!("../../tests/data/tls/java-host.crt")).unwrap();
        let verifier = ServerVerifier::new(&Trust::Authorities(ca.clone()), provider());
        let name = ServerName::try_from("10.99.0.1").unwrap();
        let midterm = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        for leaf in [&ca[0], &host[0]] {
            assert!(verifier.verify_server_cert(leaf, &[], &name, &[], midterm).is_ok());
        }
    }

    #[test]
    fn unprovisioned_accepts_anything() {
        let verifier = ServerVerifier::new(&Trust::NotProvisioned, provider());
        let name = ServerName::try_from("x").unwrap();
        let leaf = Authority::new("any").der();
        assert!(verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).is_ok());
    }
}
