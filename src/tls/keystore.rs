//! `cloud.jks` for the Java agent: this agent never reads it, but a host that goes back to Java needs it.
//!
//! Written as PKCS#12, which is what `keytool` itself has written since JDK 9 and what Java opens under
//! any keystore type name. Entries as the management server's scripts make them: the host's key under
//! the alias `cloud`, the CA certificates under `cloudca.1`, `cloudca.2`, and so on.

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKeyChain};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The keystore could not be built from these parts.
#[derive(Debug, thiserror::Error)]
#[error("Cannot build the PKCS#12 keystore cloud.jks: check that the passphrase is plain text")]
pub struct KeystoreError(#[source] p12_keystore::error::Error);

/// Bytes of a PKCS#12 keystore. `key` is PKCS#8 DER, `chain` begins with its certificate.
pub(super) fn pkcs12(
    key: &[u8],
    chain: &[CertificateDer<'_>],
    authorities: &[CertificateDer<'_>],
    passphrase: &str,
) -> Result<Vec<u8>, KeystoreError> {
    let mut store = KeyStore::new();
    let chain = chain
        .iter()
        .map(|der| Certificate::from_der(der))
        .collect::<Result<Vec<_>, _>>()
        .map_err(KeystoreError)?;
    // The identifier only has to tie the key to its certificate inside this file.
    let entry = PrivateKeyChain::new(key, b"cloud", chain);
    store.add_entry("cloud", KeyStoreEntry::PrivateKeyChain(entry));
    for (number, der) in (1..).zip(authorities) {
        let certificate = Certificate::from_der(der).map_err(KeystoreError)?;
        store.add_entry(&format!("cloudca.{number}"), KeyStoreEntry::Certificate(certificate));
    }
    store.writer(passphrase).write().map_err(KeystoreError)
}
