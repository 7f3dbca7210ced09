//! TLS to the servers of templates: who is believed there, and the handshake. Mirrors
//! `org.apache.cloudstack.direct.download.HttpsDirectTemplateDownloader`.
//!
//! Believed is what chains to the CAs of the operating system or to a certificate of this agent's own
//! store, a directory of PEM files that servers add to and remove from by name. Unlike towards
//! management servers, TLS 1.3 is offered: nothing is framed here.

use super::certificate::{self, CertificateError, MAX_CERTIFICATES_PEM};
use super::client::provider;
use super::files::{read_bounded, remove_if_present, write_private};
use super::material::Trust;
use super::verify::{Rejection, ServerVerifier};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, verify_server_name};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError as RustlsCertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError,
    SignatureScheme, version,
};

/// The store's directory, beside `agent.properties`.
pub const DIRECTORY: &str = "direct-download-certs";
const EXTENSION: &str = "pem";
/// Files read of the store.
const MOST_FILES: usize = 256;
/// Where distributions keep the CAs of the system in one file; the first that exists counts.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];
const LARGEST_SYSTEM_FILE: usize = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum DownloadTlsError {
    #[error(
        "The provided certificate name is invalid: {0:?} is not letters, digits and inner hyphens, at most 63"
    )]
    Alias(String),
    #[error("Certificate {alias} is not imported")]
    Certificate { alias: String, source: CertificateError },
    #[error("Cannot change certificate {alias} in {}", directory.display())]
    Store { alias: String, directory: PathBuf, source: io::Error },
    #[error("This host has neither CAs of the system nor certificates in {}: install ca-certificates", .0.display())]
    NothingTrusted(PathBuf),
    #[error("TLS is not available in this build")]
    Build(#[source] Error),
    #[error("{0:?} is not a host name")]
    HostName(String),
    #[error("TLS with {host} failed: {reason}")]
    Handshake { host: String, reason: String },
}

fn file(store: &Path, alias: &str) -> Result<PathBuf, DownloadTlsError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let label = !alias.is_empty()
        && alias.len() <= 63
        && alias.chars().all(legal)
        && !alias.starts_with('-')
        && !alias.ends_with('-');
    match label {
        // Servers and keytool do not tell upper from lower case.
        true => Ok(store.join(format!("{}.{EXTENSION}", alias.to_ascii_lowercase()))),
        false => Err(DownloadTlsError::Alias(alias.chars().take(80).collect())),
    }
}

/// Puts a certificate into the store, in the place of one of the same name.
pub fn install(store: &Path, alias: &str, pem: &str) -> Result<(), DownloadTlsError> {
    let path = file(store, alias)?;
    let alias = alias.to_owned();
    if let Err(source) = certificate::from_pem(pem.as_bytes()) {
        return Err(DownloadTlsError::Certificate { alias, source });
    }
    std::fs::create_dir_all(store)
        .and_then(|()| write_private(&path, pem.as_bytes(), 0o644))
        .map_err(|source| DownloadTlsError::Store { alias, directory: store.to_owned(), source })
}

/// Takes a certificate out of the store; one that is not there is no error.
pub fn revoke(store: &Path, alias: &str) -> Result<(), DownloadTlsError> {
    remove_if_present(&file(store, alias)?).map_err(|source| DownloadTlsError::Store {
        alias: alias.to_owned(),
        directory: store.to_owned(),
        source,
    })
}

/// TLS settings for downloads, from the files as they are now.
#[derive(Debug, Clone)]
pub struct DownloadTls(Arc<ClientConfig>);

impl DownloadTls {
    /// Blocking, but only a few files.
    pub fn load(store: &Path) -> Result<DownloadTls, DownloadTlsError> {
        let mut authorities = system_authorities();
        authorities.extend(stored(store));
        if authorities.is_empty() {
            return Err(DownloadTlsError::NothingTrusted(store.to_owned()));
        }
        let provider = provider();
        let inner = ServerVerifier::new(&Trust::Authorities(authorities), Arc::clone(&provider));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(DownloadTlsError::Build)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TemplateServer { inner }))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(DownloadTls(Arc::new(config)))
    }

    /// The handshake; `host` as in the URL, without brackets.
    pub async fn connect<S: AsyncRead + AsyncWrite + Send + Unpin>(
        &self,
        stream: S,
        host: &str,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<S>, DownloadTlsError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| DownloadTlsError::HostName(host.to_owned()))?;
        TlsConnector::from(Arc::clone(&self.0))
            .connect(name, stream)
            .await
            .map_err(|error| DownloadTlsError::Handshake { host: host.to_owned(), reason: reason(&error) })
    }
}

/// The words of the verifier, which rustls wraps twice, else those of rustls.
fn reason(error: &io::Error) -> String {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    if let Some(Error::InvalidCertificate(RustlsCertificateError::Other(OtherError(inner)))) = rustls {
        return match inner.downcast_ref::<Rejection>() {
            // Names of a hundred system CAs would help nobody.
            Some(Rejection::UnknownAuthority { subject, issuer, .. }) => format!(
                "its certificate {subject} was issued by {issuer}, which is neither a CA of the system nor \
                 among the direct download certificates: upload it as one"
            ),
            Some(other) => other.to_string(),
            None => inner.to_string(),
        };
    }
    error.to_string()
}

fn system_authorities() -> Vec<CertificateDer<'static>> {
    let bundle = SYSTEM.iter().find_map(|path| read_bounded(Path::new(path), LARGEST_SYSTEM_FILE).ok()?);
    // One that is damaged does not spoil the others.
    CertificateDer::pem_slice_iter(&bundle.unwrap_or_default()).flatten().collect()
}

fn stored(store: &Path) -> Vec<CertificateDer<'static>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(store).into_iter().flatten().flatten();
    let files =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == EXTENSION));
    for path in files.take(MOST_FILES) {
        let read = read_bounded(&path, MAX_CERTIFICATES_PEM).ok().flatten();
        match read.map(|text| certificate::from_pem(&text)) {
            Some(Ok(certificates)) => found.extend(certificates),
            _ => {
                tracing::warn!(path = %path.display(), "Certificate for downloads cannot be read, it is passed over")
            }
        }
    }
    found
}

/// The chain must lead to what is trusted. The name need not fit: the Java agent switches that check
/// off, and template servers are registered by addresses that their certificates do not name. Refusing
/// them would break zones that work; so a certificate for another name is accepted, and logged.
#[derive(Debug)]
struct TemplateServer {
    inner: ServerVerifier,
}

impl ServerCertVerifier for TemplateServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let named = ParsedCertificate::try_from(end_entity)
            .and_then(|certificate| verify_server_name(&certificate, server_name));
        if named.is_err() {
            let host = server_name.to_str();
            tracing::warn!(%host, "The certificate of this template server is trusted but does not name it; accepted as by the Java agent");
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A template server with a CA of its own, for the tests of downloads.
#[cfg(test)]
pub(crate) mod testing {
    use super::super::testing::{Authority, ClientAuth, Validity, server_config_for};
    use std::sync::Arc;
    pub(crate) use tokio_rustls::TlsAcceptor as Acceptor;
    use tokio_rustls::rustls::version::TLS13;

    pub(crate) struct Own(Authority);

    impl Own {
        pub fn new() -> Own {
            Own(Authority::new("own"))
        }

        pub fn pem(&self) -> String {
            self.0.pem()
        }

        /// With a certificate that names no host.
        pub fn acceptor(&self) -> Acceptor {
            let leaf = self.0.issue("template server", Validity::Current);
            Arc::new(server_config_for(&[&TLS13], leaf, ClientAuth::None)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::Authority;

    #[test]
    fn the_store_takes_and_gives_up_certificates_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join(DIRECTORY);
        revoke(&store, "none").unwrap();
        let authority = Authority::new("ours");
        for _ in 0..2 {
            install(&store, "Mirror-1", &authority.pem()).unwrap();
        }
        assert_eq!(stored(&store), [authority.der()]);
        std::fs::write(store.join("broken.pem"), "x").unwrap();
        assert_eq!(stored(&store), [authority.der()]);
        for _ in 0..2 {
            revoke(&store, "mirror-1").unwrap();
        }
        assert!(stored(&store).is_empty());
    }

    #[test]
    fn names_that_are_paths_and_texts_that_are_no_certificates_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let long = "a".repeat(64);
        for alias in ["", "../x", "a/b", "-a", "a-", "a.b", "a\0", &long] {
            assert!(
                matches!(install(directory.path(), alias, ""), Err(DownloadTlsError::Alias(_))),
                "{alias}"
            );
            assert!(matches!(revoke(directory.path(), alias), Err(DownloadTlsError::Alias(_))), "{alias}");
        }
        let refused = install(directory.path(), "a", "no PEM");
        assert!(matches!(refused, Err(DownloadTlsError::Certificate { .. })));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
