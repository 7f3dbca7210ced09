//! Makes the host's key and certificate request, and installs the certificate that comes back
//! (`SetupKeyStoreCommand` and `SetupCertificateCommand`; does what the Java agent has the scripts
//! `keystore-setup` and `keystore-cert-import` do).
//!
//! ```text
//!   setup_keystore            install_certificate
//!        |                         | parse, compare, build everything in memory
//!        v                         v
//!   cloud.key.new, cloud.csr   (key given: cloud.key.new) cloud.crt, cloud.key, cloud.ca.crt, cloud.jks
//!                                  | then
//!                                  v
//!                              cloud.key.new removed
//! ```
//!
//! The old key stays in place until its successor has a certificate: the link may break in between, and
//! the reconnect then still has its valid identity. The order of installing keeps one of the pairs
//! (`cloud.crt`, `cloud.key`) and (`cloud.crt`, `cloud.key.new`) matching after a crash at any point, and
//! `material` tries both. Everything here blocks: RSA key generation takes up to seconds, so call it on
//! the blocking pool. Never logs keys or passphrases.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::string::PrintableString;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::{self, CertificateError, CertificateSummary, MAX_KEY_PEM};
use super::files::{read_bounded, remove_if_present, write_private};
use super::keystore::{self, KeystoreError};
use super::material::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, PENDING_KEY_FILE, Pairing, pair, private_key};

pub const REQUEST_FILE: &str = "cloud.csr";
pub const KEYSTORE_FILE: &str = "cloud.jks";

const RSA_BITS: usize = 2_048;

/// Longest host name in a certificate request, as DNS has it.
const MAX_HOSTNAME: usize = 253;

/// Most addresses in a certificate request; further ones are left out.
const MAX_ADDRESSES: usize = 256;

/// Longest passphrase accepted; servers send 16 characters.
const LONGEST_PASSPHRASE: usize = 256;

/// For the owner only: secrets nothing else on the host reads.
const OWNER_ONLY: u32 = 0o600;

/// Also for the group: libvirt and QEMU read these three through links made by the server's scripts, which
/// hand them to QEMU's group. A file that is new belongs to root's group.
const OWNER_AND_GROUP: u32 = 0o640;

/// Why provisioning failed.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error("Host name {0:?} does not fit a certificate: set a proper fully qualified host name")]
    Hostname(String),
    #[error("Cannot generate an RSA key: try again")]
    GenerateKey(#[source] rsa::Error),
    #[error("Cannot encode the new RSA key: try again")]
    EncodeKey(#[source] rsa::pkcs8::Error),
    #[error("Cannot make the certificate request: check host name and addresses of this host")]
    Request(#[source] rcgen::Error),
    #[error("The certificate sent by the server cannot be used: check the server's CA plugin")]
    Certificate(#[source] CertificateError),
    #[error("The CA certificates sent by the server cannot be used: check the server's CA plugin")]
    Authorities(#[source] CertificateError),
    #[error(
        "The certificate sent by the server was not issued by one of the CAs it sent: check its CA plugin"
    )]
    ForeignIssuer,
    #[error("The private key sent by the server cannot be used: only unencrypted RSA keys in PEM can")]
    GivenKey,
    #[error(
        "The certificate sent by the server belongs to another key: ask for a new one (provisionCertificate)"
    )]
    KeyMismatch,
    #[error("There is no keystore passphrase: set keystore.passphrase in agent.properties")]
    NoPassphrase,
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    #[error("Cannot read {}: check its owner and mode", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("Cannot write {}: check free space, owner and mode of its directory", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A certificate request in PEM, as `SetupKeystoreAnswer.csr` carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsrPem(pub String);

/// What was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub certificate: CertificateSummary,
    /// Number of trusted CA certificates.
    pub authorities: usize,
}

/// Whether a passphrase can be stored: other set-up programs read agent.properties with a shell, so it must
/// be one plain word.
pub fn is_plain_passphrase(passphrase: &str) -> bool {
    (1..=LONGEST_PASSPHRASE).contains(&passphrase.len())
        && passphrase.chars().all(|c| c.is_ascii_alphanumeric() || "._-+/@%".contains(c))
}

/// Makes a new RSA key, keeps it aside in `dir`, and returns the request to sign. `addresses` are all of the
/// host's; those no server could see it at are left out. The validity the server asks for is its own to
/// grant, so there is no parameter for it.
pub fn setup_keystore(dir: &Path, hostname: &str, addresses: &[IpAddr]) -> Result<CsrPem, ProvisionError> {
    let params = request_params(hostname, addresses)?;
    let key =
        RsaPrivateKey::new(&mut rsa::rand_core::OsRng, RSA_BITS).map_err(ProvisionError::GenerateKey)?;
    let key = key.to_pkcs8_pem(LineEnding::LF).map_err(ProvisionError::EncodeKey)?;
    let pair = KeyPair::from_pem(&key).map_err(ProvisionError::Request)?;
    let request = params.serialize_request(&pair).and_then(|r| r.pem()).map_err(ProvisionError::Request)?;
    // The label keytool writes; the server has parsed nothing else from a host so far.
    let request = request.replace("CERTIFICATE REQUEST-----", "NEW CERTIFICATE REQUEST-----");
    write(dir, PENDING_KEY_FILE, key.as_bytes(), OWNER_ONLY)?;
    write(dir, REQUEST_FILE, request.as_bytes(), OWNER_ONLY)?;
    Ok(CsrPem(request))
}

/// Installs what the server issued. `private_key_pem` is empty or absent when the key of the request is meant
/// (`SetupCertificateCommand.privateKey`). Nothing is touched unless everything fits together.
pub fn install_certificate(
    dir: &Path,
    certificate_pem: &str,
    ca_pem: &str,
    private_key_pem: Option<&str>,
    passphrase: &str,
) -> Result<Installed, ProvisionError> {
    if passphrase.is_empty() {
        return Err(ProvisionError::NoPassphrase);
    }
    let chain = certificate::from_pem(certificate_pem.as_bytes()).map_err(ProvisionError::Certificate)?;
    let authorities = certificate::from_pem(ca_pem.as_bytes()).map_err(ProvisionError::Authorities)?;
    if !is_issued_by(&chain, &authorities) {
        return Err(ProvisionError::ForeignIssuer);
    }
    let summary = chain
        .first()
        .and_then(|der| CertificateSummary::from_der(der))
        .ok_or(ProvisionError::Certificate(CertificateError::NotX509(1)))?;
    let given = private_key_pem.filter(|text| !text.trim().is_empty());
    let key = match given {
        Some(text) => given_key(text, &chain)?,
        None => key_of_request(dir, &chain)?,
    };
    let keystore = keystore::pkcs12(&key.pkcs8, &chain, &authorities, passphrase)?;

    if given.is_some() {
        write(dir, PENDING_KEY_FILE, &key.pem, OWNER_ONLY)?;
    }
    write(dir, CERTIFICATE_FILE, certificate_pem.as_bytes(), OWNER_AND_GROUP)?;
    write(dir, KEY_FILE, &key.pem, OWNER_AND_GROUP)?;
    write(dir, CA_FILE, ca_pem.as_bytes(), OWNER_AND_GROUP)?;
    write(dir, KEYSTORE_FILE, &keystore, OWNER_ONLY)?;
    let pending = dir.join(PENDING_KEY_FILE);
    remove_if_present(&pending).map_err(|source| ProvisionError::Write { path: pending, source })?;
    Ok(Installed { certificate: summary, authorities: authorities.len() })
}

fn request_params(hostname: &str, addresses: &[IpAddr]) -> Result<CertificateParams, ProvisionError> {
    let printable = |text: &str| PrintableString::try_from(text).map(DnValue::PrintableString);
    let fits = !hostname.is_empty()
        && hostname.len() <= MAX_HOSTNAME
        && hostname.chars().all(|c| c.is_ascii_graphic());
    if !fits {
        return Err(ProvisionError::Hostname(hostname.chars().take(MAX_HOSTNAME).collect()));
    }
    // Java's order and string type. The country is no two-letter code, and the server expects just that.
    let mut name = DistinguishedName::new();
    for kind in [DnType::CountryName, DnType::OrganizationName, DnType::OrganizationalUnitName] {
        name.push(kind, printable("cloudstack").map_err(ProvisionError::Request)?);
    }
    name.push(DnType::CommonName, printable(hostname).unwrap_or_else(|_| hostname.into()));
    let mut params = CertificateParams::new(Vec::new()).map_err(ProvisionError::Request)?;
    params.distinguished_name = name;
    params.subject_alt_names = addresses
        .iter()
        .filter(|address| is_visible_to_servers(address))
        .take(MAX_ADDRESSES)
        .map(|address| SanType::IpAddress(*address))
        .collect();
    Ok(params)
}

fn is_visible_to_servers(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast())
        }
    }
}

/// `keytool` refuses a certificate it cannot tie to a CA too; better before anything is replaced.
fn is_issued_by(chain: &[CertificateDer<'_>], authorities: &[CertificateDer<'_>]) -> bool {
    let parsed = |ders: &[CertificateDer<'_>],
                  pick: fn(&x509_parser::certificate::X509Certificate<'_>) -> Vec<u8>| {
        ders.iter().filter_map(|der| certificate::parse(der).map(|c| pick(&c))).collect::<Vec<_>>()
    };
    let issuers = parsed(chain, |c| c.issuer().as_raw().to_vec());
    let subjects = parsed(authorities, |c| c.subject().as_raw().to_vec());
    issuers.iter().any(|issuer| subjects.contains(issuer))
}

/// A private key known to fit the certificate. Has no `Debug` on purpose.
struct FittingKey {
    /// As it goes into `cloud.key`.
    pem: Vec<u8>,
    /// DER for the keystore.
    pkcs8: Vec<u8>,
}

fn given_key(text: &str, chain: &[CertificateDer<'static>]) -> Result<FittingKey, ProvisionError> {
    if text.len() > MAX_KEY_PEM {
        return Err(ProvisionError::GivenKey);
    }
    fitting(text.as_bytes().to_vec(), chain)
}

/// The pending key, else the current one: a certificate issued anew for a key already in use fits as well,
/// and a command that is repeated after a lost answer succeeds again.
fn key_of_request(dir: &Path, chain: &[CertificateDer<'static>]) -> Result<FittingKey, ProvisionError> {
    for file in [PENDING_KEY_FILE, KEY_FILE] {
        let path = dir.join(file);
        let text =
            read_bounded(&path, MAX_KEY_PEM).map_err(|source| ProvisionError::Read { path, source })?;
        if let Some(Ok(key)) = text.map(|text| fitting(text, chain)) {
            return Ok(key);
        }
    }
    Err(ProvisionError::KeyMismatch)
}

fn fitting(pem: Vec<u8>, chain: &[CertificateDer<'static>]) -> Result<FittingKey, ProvisionError> {
    let key = private_key(&pem).ok_or(ProvisionError::GivenKey)?;
    let pkcs8 = match &key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Pkcs1(key) => RsaPrivateKey::from_pkcs1_der(key.secret_pkcs1_der())
            .map_err(|_| ProvisionError::GivenKey)?
            .to_pkcs8_der()
            .map_err(ProvisionError::EncodeKey)?
            .as_bytes()
            .to_vec(),
        _ => return Err(ProvisionError::GivenKey),
    };
    match pair(chain.to_vec(), key) {
        Pairing::Matches(_) => Ok(FittingKey { pem, pkcs8 }),
        Pairing::Mismatch => Err(ProvisionError::KeyMismatch),
        Pairing::UnusableKey => Err(ProvisionError::GivenKey),
    }
}

fn write(dir: &Path, file: &str, bytes: &[u8], mode: u32) -> Result<(), ProvisionError> {
    let path = dir.join(file);
    write_private(&path, bytes, mode).map_err(|source| ProvisionError::Write { path, source })
}

#[cfg(test)]
mod tests;
