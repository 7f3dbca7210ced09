//! What this host trusts and who it is, read from the PEM files next to `agent.properties`.
//!
//! ```text
//!   cloud.ca.crt     trusted CA certificates       missing: not provisioned, trust any server
//!   cloud.crt        own certificate, then chain   missing or broken: no client certificate, with a note
//!   cloud.key        its private key               not the certificate's: try cloud.key.new, else as above
//!   cloud.key.new    key of a pending request      (see `provision`)
//! ```
//!
//! Read again at every connection, as the Java agent does with `cloud.jks`
//! (`org.apache.cloudstack.utils.security.SSLUtils`), so that a renewal needs no restart. A broken CA file
//! is an error, since trusting any server instead would be worse; a broken identity is a note, since the
//! server may well accept a host without one. Never prints keys.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::certificate::{self, CertificateError, CertificateSummary, MAX_CERTIFICATES_PEM, MAX_KEY_PEM};
use super::client::provider;
use super::files::read_bounded;

pub const CA_FILE: &str = "cloud.ca.crt";
pub const CERTIFICATE_FILE: &str = "cloud.crt";
pub const KEY_FILE: &str = "cloud.key";
/// Key of a request that is not answered yet; becomes [`KEY_FILE`] with its certificate.
pub const PENDING_KEY_FILE: &str = "cloud.key.new";

/// Why no connection should be tried with these files.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("Cannot read {}: make it a readable file, or remove it to run unprovisioned", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "No CA certificates in {}: provision this host again (provisionCertificate), or restore the file",
        .path.display()
    )]
    Authorities {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
}

/// Which servers are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// There is no CA file: any server is accepted, and the caller says so aloud.
    NotProvisioned,
    /// Servers that present or chain to one of these CA certificates.
    Authorities(Vec<CertificateDer<'static>>),
}

/// Trust and identity of this host at one moment.
pub struct Material {
    trust: Trust,
    identity: Option<Arc<CertifiedKey>>,
    notes: Vec<String>,
}

impl Material {
    /// Reads the files in `dir`. Blocking, but only a few small files.
    pub fn load(dir: &Path) -> Result<Self, MaterialError> {
        let path = dir.join(CA_FILE);
        let text = match read_bounded(&path, MAX_CERTIFICATES_PEM) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Self { trust: Trust::NotProvisioned, identity: None, notes: Vec::new() }),
            Err(source) => return Err(MaterialError::Read { path, source }),
        };
        let authorities =
            certificate::from_pem(&text).map_err(|source| MaterialError::Authorities { path, source })?;
        let (identity, notes) = match load_identity(dir) {
            Ok(identity) => (Some(Arc::new(identity)), Vec::new()),
            Err(reason) => (None, vec![reason.to_string()]),
        };
        Ok(Self { trust: Trust::Authorities(authorities), identity, notes })
    }

    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Own certificate chain and key, known to belong together.
    pub fn identity(&self) -> Option<&Arc<CertifiedKey>> {
        self.identity.as_ref()
    }

    /// Why there is no client certificate although the host is provisioned; whole sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The own certificate, when there is a usable one.
    pub fn summary(&self) -> Option<CertificateSummary> {
        CertificateSummary::from_der(self.identity.as_ref()?.cert.first()?)
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authorities = match &self.trust {
            Trust::NotProvisioned => 0,
            Trust::Authorities(authorities) => authorities.len(),
        };
        f.debug_struct("Material")
            .field("authorities", &authorities)
            .field("has_identity", &self.identity.is_some())
            .field("notes", &self.notes)
            .finish()
    }
}

/// Why the host has no client certificate.
#[derive(Debug, thiserror::Error)]
enum NoIdentity {
    #[error("No client certificate: {0} is missing. provisionCertificate makes one")]
    Missing(&'static str),
    #[error("No client certificate: {0} cannot be read ({1}). Check its owner and mode")]
    Unreadable(&'static str, io::Error),
    #[error(
        "No client certificate: {CERTIFICATE_FILE} is broken ({0}). provisionCertificate makes a new one"
    )]
    Certificate(CertificateError),
    #[error("No client certificate: {0} is no usable private key. provisionCertificate makes a new one")]
    Key(&'static str),
    #[error(
        "No client certificate: {KEY_FILE} is not the key of {CERTIFICATE_FILE}. It ends when the server \
         sends the certificate of the pending request, or with provisionCertificate"
    )]
    Mismatch,
}

fn load_identity(dir: &Path) -> Result<CertifiedKey, NoIdentity> {
    let text = read_part(dir, CERTIFICATE_FILE, MAX_CERTIFICATES_PEM)?;
    let chain = certificate::from_pem(&text).map_err(NoIdentity::Certificate)?;
    match pair_with(dir, KEY_FILE, &chain) {
        Ok(identity) => Ok(identity),
        // A crash while a new certificate was being installed leaves its key under the pending name.
        Err(reason) => pair_with(dir, PENDING_KEY_FILE, &chain).map_err(|_| reason),
    }
}

fn pair_with(
    dir: &Path,
    file: &'static str,
    chain: &[CertificateDer<'static>],
) -> Result<CertifiedKey, NoIdentity> {
    let key = private_key(&read_part(dir, file, MAX_KEY_PEM)?).ok_or(NoIdentity::Key(file))?;
    match pair(chain.to_vec(), key) {
        Pairing::Matches(identity) => Ok(identity),
        Pairing::Mismatch => Err(NoIdentity::Mismatch),
        Pairing::UnusableKey => Err(NoIdentity::Key(file)),
    }
}

fn read_part(dir: &Path, file: &'static str, max: usize) -> Result<Vec<u8>, NoIdentity> {
    match read_bounded(&dir.join(file), max) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(NoIdentity::Missing(file)),
        Err(error) => Err(NoIdentity::Unreadable(file, error)),
    }
}

/// First private key of a PEM text (PKCS#1, PKCS#8 or SEC1, unencrypted).
pub(super) fn private_key(text: &[u8]) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(text).ok()
}

/// Whether a key and a certificate belong together.
pub(super) enum Pairing {
    Matches(CertifiedKey),
    Mismatch,
    UnusableKey,
}

/// Compares the public halves of a key and of the first certificate of `chain`.
pub(super) fn pair(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Pairing {
    let Ok(key) = provider().key_provider.load_private_key(key) else { return Pairing::UnusableKey };
    // Not rustls' own comparison: that one cannot read X.509 version 1 certificates.
    let certified =
        chain.first().and_then(|der| certificate::parse(der)).map(|c| c.public_key().raw.to_vec());
    match (certified, key.public_key()) {
        (Some(certified), Some(own)) if certified == own.as_ref() => {
            Pairing::Matches(CertifiedKey::new(chain, key))
        }
        _ => Pairing::Mismatch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Provisioned, other_key_pem};
    use std::fs;

    #[test]
    fn empty_directory_is_not_provisioned() {
        let dir = tempfile::tempdir().unwrap();
        let material = Material::load(dir.path()).unwrap();
        assert_eq!(material.trust(), &Trust::NotProvisioned);
        assert!(material.identity().is_none() && material.summary().is_none() && material.notes().is_empty());
    }

    #[test]
    fn complete_directory_gives_trust_and_identity() {
        let authority = Authority::new("ours");
        let host = Provisioned::by(&authority);
        let material = Material::load(host.dir()).unwrap();
        assert_eq!(material.trust(), &Trust::Authorities(vec![authority.der()]));
        assert_eq!(material.notes(), [] as [String; 0]);
        assert_eq!(material.summary().unwrap().issuer, "CN=ours");
    }

    #[test]
    fn several_authorities_are_all_trusted() {
        let (one, two) = (Authority::new("one"), Authority::new("two"));
        let host = Provisioned::by(&one);
        fs::write(host.dir().join(CA_FILE), one.pem() + &two.pem()).unwrap();
        let material = Material::load(host.dir()).unwrap();
        assert_eq!(material.trust(), &Trust::Authorities(vec![one.der(), two.der()]));
    }

    #[test]
    fn a_foreign_key_means_no_client_certificate_and_a_note() {
        let host = Provisioned::by(&Authority::new("ours"));
        fs::write(host.dir().join(KEY_FILE), other_key_pem()).unwrap();
        let material = Material::load(host.dir()).unwrap();
        assert!(material.identity().is_none());
        assert!(
            material.notes()[0].contains("cloud.key is not the key of cloud.crt"),
            "{:?}",
            material.notes()
        );
    }

    #[test]
    fn the_pending_key_serves_after_a_crash_during_installation() {
        let host = Provisioned::by(&Authority::new("ours"));
        fs::rename(host.dir().join(KEY_FILE), host.dir().join(PENDING_KEY_FILE)).unwrap();
        fs::write(host.dir().join(KEY_FILE), other_key_pem()).unwrap();
        assert!(Material::load(host.dir()).unwrap().identity().is_some());
    }

    #[test]
    fn broken_identity_files_become_notes_naming_the_file() {
        for (file, content, expected) in [
            (CERTIFICATE_FILE, "junk", "cloud.crt is broken"),
            (KEY_FILE, "junk", "cloud.key is no usable private key"),
            (KEY_FILE, &"x".repeat(MAX_KEY_PEM + 1), "cloud.key cannot be read"),
        ] {
            let host = Provisioned::by(&Authority::new("ours"));
            fs::write(host.dir().join(file), content).unwrap();
            let material = Material::load(host.dir()).unwrap();
            assert!(material.identity().is_none());
            assert!(material.notes()[0].contains(expected), "{:?}", material.notes());
        }
        let host = Provisioned::by(&Authority::new("ours"));
        fs::remove_file(host.dir().join(CERTIFICATE_FILE)).unwrap();
        assert!(Material::load(host.dir()).unwrap().notes()[0].contains("cloud.crt is missing"));
    }

    #[test]
    fn a_broken_ca_file_is_an_error_naming_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CA_FILE), "junk").unwrap();
        let error = Material::load(dir.path()).unwrap_err();
        assert!(matches!(error, MaterialError::Authorities { .. }));
        assert!(error.to_string().contains("cloud.ca.crt"), "{error}");
        fs::remove_file(dir.path().join(CA_FILE)).unwrap();
        fs::create_dir(dir.path().join(CA_FILE)).unwrap();
        assert!(matches!(Material::load(dir.path()).unwrap_err(), MaterialError::Read { .. }));
    }

    #[test]
    fn debug_shows_no_key() {
        let host = Provisioned::by(&Authority::new("ours"));
        let shown = format!("{:?}", Material::load(host.dir()).unwrap());
        assert!(shown.contains("has_identity: true") && !shown.contains("CertifiedKey"), "{shown}");
    }
}
