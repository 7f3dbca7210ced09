//! What is read out of certificates: names, dates, alternative names, fingerprints, and lists of
//! them in PEM. Parses only; it trusts nothing (that is `verify`).

use std::net::IpAddr;

use time::OffsetDateTime;
use tokio_rustls::rustls::SupportedCipherSuite;
use tokio_rustls::rustls::crypto::ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Most certificates accepted in one PEM text. CloudStack has one or two.
pub const MAX_CERTIFICATES: usize = 64;

/// Longest PEM text with certificates, in bytes.
pub const MAX_CERTIFICATES_PEM: usize = 512 * 1024;

/// Longest PEM text with one private key, in bytes (RSA 16384 has 13 KiB).
pub const MAX_KEY_PEM: usize = 32 * 1024;

/// Why a text is not a list of certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("PEM is damaged near a BEGIN or END line, or its base64 is")]
    Pem(#[source] pem::Error),
    #[error("it holds no BEGIN CERTIFICATE block")]
    Empty,
    #[error("it holds more than {MAX_CERTIFICATES} certificates or more than {MAX_CERTIFICATES_PEM} bytes")]
    TooMany,
    #[error("certificate {0} in it is not an X.509 certificate")]
    NotX509(usize),
}

/// What an operator wants to know about a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSummary {
    /// Distinguished name, e.g. `CN=host1, OU=cloudstack`.
    pub subject: String,
    pub issuer: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// Hexadecimal, colon separated.
    pub serial: String,
    /// Subject alternative names: `ip:192.0.2.1`, `dns:host1`.
    pub sans: Vec<String>,
    /// SHA-256 of the DER form, lower-case hexadecimal.
    pub fingerprint: String,
}

impl CertificateSummary {
    /// Reads one DER certificate; `None` when it is not one.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let certificate = parse(der)?;
        let time = |seconds| OffsetDateTime::from_unix_timestamp(seconds).ok();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
            serial: certificate.raw_serial_as_string(),
            sans: alternative_names(&certificate),
            fingerprint: fingerprint(der),
        })
    }

    /// Whole days until it expires, negative once it has.
    pub fn days_left(&self, now: OffsetDateTime) -> i64 {
        (self.not_after - now).whole_seconds().div_euclid(24 * 60 * 60)
    }
}

/// SHA-256 of a DER certificate, lower-case hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    // The provider's own SHA-256, reached through a suite that uses it: no second implementation.
    let hash = match TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
    };
    hash.hash(der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

/// All certificates of a PEM text, each known to parse; other PEM blocks are skipped.
pub(super) fn from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    if text.len() > MAX_CERTIFICATES_PEM {
        return Err(CertificateError::TooMany);
    }
    let certificates = CertificateDer::pem_slice_iter(text)
        .take(MAX_CERTIFICATES + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(CertificateError::Pem)?;
    if certificates.is_empty() {
        return Err(CertificateError::Empty);
    }
    if certificates.len() > MAX_CERTIFICATES {
        return Err(CertificateError::TooMany);
    }
    match certificates.iter().position(|der| parse(der).is_none()) {
        Some(index) => Err(CertificateError::NotX509(index + 1)),
        None => Ok(certificates),
    }
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().map(alternative_name).collect()
}

fn alternative_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::IPAddress(bytes) => match address(bytes) {
            Some(address) => format!("ip:{address}"),
            None => "ip:?".to_owned(),
        },
        GeneralName::DNSName(name) => format!("dns:{name}"),
        other => other.to_string(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(octets) => Some(IpAddr::from(octets)),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const JAVA_HOST: &[u8] = include_bytes!("../../tests/data/tls/java-host.crt");

    #[test]
    fn summary_of_a_certificate_issued_by_a_real_server() {
        let der = from_pem(JAVA_HOST).unwrap();
        let summary = CertificateSummary::from_der(&der[0]).unwrap();
        assert_eq!(summary.subject, "CN=vm, OU=cloudstack, O=cloudstack, C=cloudstack");
        assert_eq!(summary.issuer, "CN=ca.cloudstack.apache.org");
        assert_eq!(summary.not_before, datetime!(2026-11-22 06:17:02 UTC));
        assert_eq!(summary.not_after, datetime!(2027-11-22 18:17:02 UTC));
        assert_eq!(summary.serial, "49:98:bd:70:03:e2:9e:9b");
        assert_eq!(summary.sans, ["ip:10.99.0.2", "dns:vm", "dns:10.99.0.2"]);
        assert_eq!(summary.fingerprint.len(), 64);
    }

    #[test]
    fn days_left_counts_whole_days_and_goes_negative() {
        let der = from_pem(JAVA_HOST).unwrap();
        let summary = CertificateSummary::from_der(&der[0]).unwrap();
        assert_eq!(summary.days_left(datetime!(2027-11-21 18:17:02 UTC)), 1);
        assert_eq!(summary.days_left(datetime!(2027-11-22 12:00:00 UTC)), 0);
        assert_eq!(summary.days_left(datetime!(2027-11-22 19:00:00 UTC)), -1);
    }

    #[test]
    fn texts_that_are_no_certificates_say_why() {
        assert!(matches!(from_pem(b"hello"), Err(CertificateError::Empty)));
        let cut = &JAVA_HOST[..JAVA_HOST.len() / 2];
        assert!(matches!(from_pem(cut), Err(CertificateError::Pem(_))));
        let junk = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(from_pem(junk), Err(CertificateError::NotX509(1))));
        let many = junk.repeat(MAX_CERTIFICATES + 1);
        assert!(matches!(from_pem(&many), Err(CertificateError::TooMany)));
    }
}
