//! The certificate authority of the simulated server.
//!
//! Like the real one (`RootCAProvider`), the CA certificate itself is what the server presents in
//! the TLS handshake: self-signed, CN `ca.cloudstack.apache.org`, `CA:TRUE`, no subject alternative
//! name. It never protects anything: its keys are made for one test run.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SignatureAlgorithm,
};
use rsa::pkcs8::EncodePrivateKey;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};

/// Subject of the real server's CA (`ca.plugin.root.issuer.dn` by default).
pub const CA_NAME: &str = "ca.cloudstack.apache.org";

/// What keys are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// ECDSA P-256: made in a millisecond.
    #[default]
    Ecdsa,
    /// RSA 2048, as the real server's kind (it uses 4096 bits for its CA).
    Rsa,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// From yesterday on for this many days.
    Days(i64),
    /// It ended yesterday.
    Expired,
    /// It starts tomorrow.
    NotYet,
}

/// Why key material could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("Key or certificate cannot be made")]
    Make(#[from] rcgen::Error),
    #[error("RSA key cannot be made: {0}")]
    Rsa(String),
    #[error("Certificate request cannot be read ({0}): send the PEM text of a PKCS#10 request")]
    Request(String),
    #[error("{path} cannot be written: check the directory and its rights")]
    Write { path: PathBuf, source: std::io::Error },
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A certificate authority: what the server presents, and what signs agents' certificates.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    kind: KeyKind,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Pki {
    /// A new CA with the real server's name. Two calls give two CAs that do not trust each other:
    /// the second one is "the wrong CA" of a test.
    pub fn new(kind: KeyKind) -> Result<Pki, PkiError> {
        Pki::with_validity(kind, Validity::Days(365 * 30))
    }

    /// A new CA with the given validity of its own certificate.
    pub fn with_validity(kind: KeyKind, validity: Validity) -> Result<Pki, PkiError> {
        let key = make_key(kind)?;
        let mut params = named(CA_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        apply(&mut params, validity);
        let certificate = params.self_signed(&key)?;
        Ok(Pki { issuer: Issuer::new(params, key), certificate, kind })
    }

    /// The CA certificate, PEM: `cloud.ca.crt` of an agent.
    pub fn ca_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The CA certificate, DER: also the server's TLS certificate.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// The CA's private key: also the server's TLS key.
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.issuer.key().serialize_der()))
    }

    /// Makes a key and a certificate for an agent at these addresses.
    pub fn issue(&self, name: &str, addresses: &[IpAddr], validity: Validity) -> Result<Identity, PkiError> {
        let key = make_key(self.kind)?;
        let mut params = named(name);
        params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
        apply(&mut params, validity);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Signs a PEM certificate request the way `SetupCertificateCommand` needs it: the subject's
    /// names and addresses are taken over, the certificate comes back as PEM.
    pub fn sign(&self, request_pem: &str, validity: Validity) -> Result<String, PkiError> {
        let unreadable = |e: &dyn std::fmt::Display| PkiError::Request(e.to_string());
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(request_pem.as_bytes()).map_err(|e| unreadable(&e))?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| unreadable(&e))?;
        let info = &request.certification_request_info;
        let name = info.subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or("agent");
        let mut params = named(name);
        params.subject_alt_names = requested_names(&request)?;
        apply(&mut params, validity);
        let key = RequestedKey::new(&info.subject_pki)?;
        Ok(params.signed_by(&key, &self.issuer)?.pem())
    }

    /// Writes `ca.crt` and `ca.key` into `dir`, which is made if it is missing.
    pub fn write(&self, dir: &Path) -> Result<(), PkiError> {
        write(dir, "ca.crt", &self.ca_pem())?;
        write(dir, "ca.key", &self.issuer.key().serialize_pem())
    }

    /// Writes what a provisioned agent has: `cloud.key`, `cloud.crt`, `cloud.ca.crt`.
    pub fn provision(&self, dir: &Path, identity: &Identity) -> Result<(), PkiError> {
        write(dir, "cloud.key", &identity.key)?;
        write(dir, "cloud.crt", &identity.certificate)?;
        write(dir, "cloud.ca.crt", &self.ca_pem())
    }
}

fn make_key(kind: KeyKind) -> Result<KeyPair, PkiError> {
    match kind {
        KeyKind::Ecdsa => Ok(KeyPair::generate()?),
        KeyKind::Rsa => {
            let failed = |e: &dyn std::fmt::Display| PkiError::Rsa(e.to_string());
            let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).map_err(|e| failed(&e))?;
            let der = key.to_pkcs8_der().map_err(|e| failed(&e))?;
            let der = PrivatePkcs8KeyDer::from(der.as_bytes());
            Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_RSA_SHA256)?)
        }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn apply(params: &mut CertificateParams, validity: Validity) {
    let now = OffsetDateTime::now_utc();
    let day = Duration::DAY;
    (params.not_before, params.not_after) = match validity {
        Validity::Days(days) => (now - day, now + day * i32::try_from(days).unwrap_or(i32::MAX)),
        Validity::Expired => (now - day * 30, now - day),
        Validity::NotYet => (now + day, now + day * 30),
    };
}

fn requested_names(request: &X509CertificationRequest<'_>) -> Result<Vec<SanType>, PkiError> {
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(san) = extension else { continue };
        for name in &san.general_names {
            match name {
                GeneralName::DNSName(dns) => names.push(SanType::DnsName((*dns).try_into()?)),
                GeneralName::IPAddress(raw) => names.extend(address(raw).map(SanType::IpAddress)),
                _ => {}
            }
        }
    }
    Ok(names)
}

/// The address in the bytes of an `iPAddress` name.
pub(super) fn address(raw: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(raw).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(raw).map(IpAddr::from)).ok()
}

/// The public key of a certificate request.
struct RequestedKey {
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl RequestedKey {
    fn new(info: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<RequestedKey, PkiError> {
        let algorithm = match info.algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.1" => &rcgen::PKCS_RSA_SHA256,
            "1.2.840.10045.2.1" => &rcgen::PKCS_ECDSA_P256_SHA256,
            other => return Err(PkiError::Request(format!("key of kind {other}, RSA or P-256 expected"))),
        };
        Ok(RequestedKey { bits: info.subject_public_key.data.to_vec(), algorithm })
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// Writes one file, keys readable for the owner only.
fn write(dir: &Path, name: &str, text: &str) -> Result<(), PkiError> {
    let path = dir.join(name);
    let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
    let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path);
    std::fs::create_dir_all(dir)
        .and_then(|()| open()?.write_all(text.as_bytes()))
        .map_err(|source| PkiError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::X509Certificate;

    fn der(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn the_ca_looks_like_the_real_one() {
        for kind in [KeyKind::Ecdsa, KeyKind::Rsa] {
            let pki = Pki::new(kind).unwrap();
            let ca = pki.ca_der();
            let (_, parsed) = X509Certificate::from_der(&ca).unwrap();
            assert_eq!(parsed.subject().to_string(), "CN=ca.cloudstack.apache.org");
            assert_eq!(parsed.issuer(), parsed.subject());
            assert!(parsed.is_ca());
            assert!(parsed.subject_alternative_name().unwrap().is_none());
        }
    }

    #[test]
    fn a_request_is_signed_with_its_names_and_its_key() {
        let pki = Pki::new(KeyKind::Ecdsa).unwrap();
        for kind in [KeyKind::Ecdsa, KeyKind::Rsa] {
            let key = make_key(kind).unwrap();
            let mut wanted = named("kvm1");
            wanted.subject_alt_names = vec![
                SanType::DnsName("kvm1.example".try_into().unwrap()),
                SanType::IpAddress(IpAddr::from([192, 0, 2, 7])),
            ];
            let request = wanted.serialize_request(&key).unwrap().pem().unwrap();
            let signed = der(&pki.sign(&request, Validity::Days(365)).unwrap());
            let (_, parsed) = X509Certificate::from_der(&signed).unwrap();
            assert_eq!(parsed.subject().to_string(), "CN=kvm1");
            assert_eq!(parsed.issuer().to_string(), "CN=ca.cloudstack.apache.org");
            assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
            let names = parsed.subject_alternative_name().unwrap().unwrap();
            assert_eq!(names.value.general_names.len(), 2);
        }
        assert!(matches!(pki.sign("no request", Validity::Expired), Err(PkiError::Request(_))));
    }

    #[test]
    fn validity_is_as_asked() {
        let pki = Pki::new(KeyKind::Ecdsa).unwrap();
        for (validity, valid) in
            [(Validity::Days(2), true), (Validity::Expired, false), (Validity::NotYet, false)]
        {
            let issued = der(&pki.issue("kvm1", &[], validity).unwrap().certificate);
            let (_, parsed) = X509Certificate::from_der(&issued).unwrap();
            assert_eq!(parsed.validity().is_valid(), valid, "{validity:?}");
        }
    }
}
