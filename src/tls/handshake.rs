//! The TLS handshake over a TCP stream: bare TLS records, before the link frames begin
//! (mirrors `com.cloud.utils.nio.Link.doHandshake`).
//!
//! ```text
//!   write what TLS wants --> finished? --yes--> TcpStream + Sealed
//!        ^                       | no
//!        |                       v
//!        +--- TLS takes it <-- read exactly one record
//! ```
//!
//! Driven by hand instead of through a TLS stream, because a stream reads ahead: bytes behind the last
//! handshake record already belong to the first frame. No deadline in here, the caller sets one.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error, OtherError,
    ServerConfig, ServerConnection,
};

use super::certificate::{CertificateSummary, fingerprint};
use super::sealed::{RECORD_HEADER, Sealed};
use super::verify::Rejection;

/// Longest body of a TLS record: 2^14 and 2 KiB for sealing (RFC 5246, 6.2.3).
const MAX_RECORD: usize = 16_384 + 2_048;

/// Most records of one handshake. A real one has about 10; a peer cannot keep it going for ever.
const MAX_RECORDS: usize = 64;

/// What was negotiated, for logs and `--status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2`.
    pub version: String,
    /// The name OpenSSL and operators use, e.g. `ECDHE-RSA-AES256-GCM-SHA384`.
    pub cipher: String,
    /// Distinguished name in the server's certificate.
    pub peer_subject: String,
    /// SHA-256 of the server's certificate, lower-case hexadecimal.
    pub peer_fingerprint: String,
}

/// Whether this side had a certificate to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnCertificate {
    Present,
    Absent,
}

/// How far the handshake was when the peer ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// No version and cipher were agreed on yet.
    Greeting,
    /// They were: what failed is authentication or what follows it.
    Agreed,
}

/// Why there is no TLS session.
#[derive(Debug, thiserror::Error)]
pub enum TlsFailure {
    #[error("Peer does not speak TLS, it began with {:?}", String::from_utf8_lossy(.0))]
    NotTls(Vec<u8>),
    #[error("Peer closed the connection during the TLS handshake")]
    Closed,
    #[error("Peer's certificate is not accepted")]
    Rejected(#[source] Rejection),
    #[error("Peer refused the TLS handshake with the alert {alert:?}")]
    Alert { alert: AlertDescription, progress: Progress, own_certificate: OwnCertificate },
    #[error("TLS handshake failed")]
    Protocol(#[source] Error),
    #[error("TLS handshake did not end within {MAX_RECORDS} records")]
    TooLong,
    #[error("Connection failed during the TLS handshake")]
    Io(#[source] io::Error),
}

/// Client side: handshake with `host` (a name or an address; used for SNI only, Java checks no names either).
/// Errors are explained by [`super::explain::tls`].
pub async fn connect(
    mut tcp: TcpStream,
    config: Arc<ClientConfig>,
    host: &str,
) -> Result<(TcpStream, Sealed, TlsInfo), TlsFailure> {
    let own_certificate = match config.client_auth_cert_resolver.has_certs() {
        true => OwnCertificate::Present,
        false => OwnCertificate::Absent,
    };
    let name = server_name(host, &tcp);
    let client = ClientConnection::new(config, name).map_err(TlsFailure::Protocol)?;
    let mut tls = Connection::from(client);
    drive(&mut tcp, &mut tls, own_certificate).await?;
    let info = info(&tls);
    Ok((tcp, Sealed::new(tls), info))
}

/// Server side, for the simulated management server. `config` must allow TLS 1.2 only: a TLS 1.3
/// session ticket would end up in the middle of the frames.
pub async fn accept(
    mut tcp: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<(TcpStream, Sealed), TlsFailure> {
    let server = ServerConnection::new(config).map_err(TlsFailure::Protocol)?;
    let mut tls = Connection::from(server);
    drive(&mut tcp, &mut tls, OwnCertificate::Present).await?;
    Ok((tcp, Sealed::new(tls)))
}

async fn drive(
    tcp: &mut TcpStream,
    tls: &mut Connection,
    own_certificate: OwnCertificate,
) -> Result<(), TlsFailure> {
    let mut outgoing = Vec::new();
    let mut incoming = Vec::new();
    for _ in 0..MAX_RECORDS {
        while tls.wants_write() {
            tls.write_tls(&mut outgoing).map_err(TlsFailure::Io)?;
        }
        if !outgoing.is_empty() {
            tcp.write_all(&outgoing).await.map_err(TlsFailure::Io)?;
            outgoing.clear();
        }
        if !tls.is_handshaking() {
            return Ok(());
        }
        read_record(tcp, &mut incoming).await?;
        let mut record = incoming.as_slice();
        while !record.is_empty() {
            tls.read_tls(&mut record).map_err(TlsFailure::Io)?;
            if let Err(error) = tls.process_new_packets() {
                say_goodbye(tcp, tls);
                let progress = match tls.protocol_version() {
                    Some(_) => Progress::Agreed,
                    None => Progress::Greeting,
                };
                return Err(classify(error, progress, own_certificate));
            }
        }
    }
    Err(TlsFailure::TooLong)
}

/// Best effort: the peer's log then names the reason too.
fn say_goodbye(tcp: &TcpStream, tls: &mut Connection) {
    let mut alert = Vec::new();
    if tls.write_tls(&mut alert).is_ok() {
        let _ = tcp.try_write(&alert);
    }
}

fn classify(error: Error, progress: Progress, own_certificate: OwnCertificate) -> TlsFailure {
    match error {
        Error::AlertReceived(alert) => TlsFailure::Alert { alert, progress, own_certificate },
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            match inner.downcast_ref::<Rejection>() {
                Some(rejection) => TlsFailure::Rejected(rejection.clone()),
                None => TlsFailure::Protocol(CertificateError::Other(OtherError(inner)).into()),
            }
        }
        other => TlsFailure::Protocol(other),
    }
}

/// Reads one TLS record into `record`, header included, and not a byte more.
async fn read_record(tcp: &mut TcpStream, record: &mut Vec<u8>) -> Result<(), TlsFailure> {
    let mut head = [0; RECORD_HEADER];
    let mut filled = 0;
    while let Some(space) = head.get_mut(filled..).filter(|space| !space.is_empty()) {
        filled += match tcp.read(space).await.map_err(TlsFailure::Io)? {
            0 => return Err(TlsFailure::Closed),
            count => count,
        };
        // Judged from the first byte on: a peer with a three-byte greeting must not cost a deadline.
        let begun = head.get(..filled).unwrap_or_default();
        if !begins_like_tls(begun) {
            return Err(TlsFailure::NotTls(begun.to_vec()));
        }
    }
    let [.., high, low] = head;
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_RECORD {
        return Err(TlsFailure::NotTls(head.to_vec()));
    }
    record.clear();
    record.extend_from_slice(&head);
    record.resize(RECORD_HEADER + len, 0);
    let body = record.get_mut(RECORD_HEADER..).unwrap_or_default();
    match tcp.read_exact(body).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(TlsFailure::Closed),
        Err(error) => Err(TlsFailure::Io(error)),
    }
}

/// Change cipher spec, alert or handshake, of any TLS version.
fn begins_like_tls(bytes: &[u8]) -> bool {
    let kind_fits = bytes.first().is_none_or(|kind| matches!(kind, 20..=22));
    let version_fits = bytes.get(1).is_none_or(|major| *major == 3);
    kind_fits && version_fits
}

/// The name only decides about SNI, so one that TLS cannot carry is replaced by the address.
fn server_name(host: &str, tcp: &TcpStream) -> ServerName<'static> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare.to_owned()).unwrap_or_else(|_| {
        let peer = tcp.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        ServerName::IpAddress(peer.into())
    })
}

fn info(tls: &Connection) -> TlsInfo {
    let unknown = || "unknown".to_owned();
    let leaf = tls.peer_certificates().and_then(<[_]>::first);
    TlsInfo {
        version: tls
            .protocol_version()
            .map_or_else(unknown, |version| format!("{version:?}").replace('_', ".")),
        cipher: tls
            .negotiated_cipher_suite()
            .map_or_else(unknown, |suite| openssl_name(&format!("{:?}", suite.suite()))),
        peer_subject: leaf
            .and_then(|der| CertificateSummary::from_der(der))
            .map_or_else(unknown, |summary| summary.subject),
        peer_fingerprint: leaf.map_or_else(unknown, |der| fingerprint(der)),
    }
}

/// `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384` → `ECDHE-RSA-AES256-GCM-SHA384`.
fn openssl_name(iana: &str) -> String {
    let short = iana.trim_start_matches("TLS_").replace("_WITH_", "-").replace("AES_", "AES");
    short.replace('_', "-").trim_end_matches("-POLY1305-SHA256").to_owned()
        + if iana.contains("POLY1305") { "-POLY1305" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::client::client_config;
    use crate::tls::material::Material;
    use crate::tls::testing::{
        Authority, ClientAuth, Provisioned, Validity, other_rsa_key, server_config, tcp_pair, version_1_ca,
    };
    use tokio_rustls::rustls::version;

    #[test]
    fn cipher_suites_have_the_names_that_operators_know() {
        for (iana, openssl) in [
            ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
            ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
            ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ] {
            assert_eq!(openssl_name(iana), openssl);
        }
    }

    async fn handshake(host: &Provisioned, config: ServerConfig) -> Result<TlsInfo, TlsFailure> {
        let material = Material::load(host.dir()).unwrap();
        let (near, far) = tcp_pair().await;
        let server = tokio::spawn(accept(far, Arc::new(config)));
        let result = connect(near, client_config(&material).unwrap(), "server.example").await;
        let _ = server.await.unwrap();
        result.map(|(_, _, info)| info)
    }

    #[tokio::test]
    async fn ca_as_leaf_is_accepted_and_described() {
        let authority = Authority::new("ours");
        let info =
            handshake(&Provisioned::by(&authority), server_config(authority.as_leaf(), ClientAuth::None))
                .await
                .unwrap();
        assert_eq!(info.version, "TLSv1.2");
        assert_eq!(info.cipher, "ECDHE-ECDSA-AES256-GCM-SHA384");
        assert_eq!(info.peer_subject, "CN=ours");
        assert_eq!(info.peer_fingerprint, fingerprint(&authority.der()));
    }

    #[tokio::test]
    async fn bytes_behind_the_handshake_belong_to_the_first_frame() {
        let authority = Authority::new("ours");
        let host = Provisioned::by(&authority);
        let material = Material::load(host.dir()).unwrap();
        let (near, far) = tcp_pair().await;
        let config = Arc::new(server_config(authority.as_leaf(), ClientAuth::None));
        let server = tokio::spawn(async move {
            let (mut tcp, mut sealed) = accept(far, config).await.unwrap();
            let mut frames = Vec::new();
            sealed.seal(b"at once", &mut frames).unwrap();
            tcp.write_all(&frames).await.unwrap();
            tcp
        });
        let (mut tcp, mut sealed, _) = connect(near, client_config(&material).unwrap(), "::1").await.unwrap();
        let mut buffer = [0; 256];
        let message = loop {
            let count = tcp.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0);
            sealed.push(&buffer[..count]);
            if let Some(message) = sealed.next_message().unwrap() {
                break message;
            }
        };
        assert_eq!(message, b"at once");
        drop(server.await.unwrap());
    }

    #[tokio::test]
    async fn client_certificate_is_shown_when_the_server_insists() {
        let authority = Authority::new("ours");
        let config = server_config(authority.as_leaf(), ClientAuth::RequiredFrom(&authority));
        handshake(&Provisioned::by(&authority), config).await.unwrap();
    }

    #[tokio::test]
    async fn without_client_certificate_an_insisting_server_sends_an_alert() {
        let authority = Authority::new("ours");
        let host = Provisioned::trusting_only(&authority);
        let config = server_config(authority.as_leaf(), ClientAuth::RequiredFrom(&authority));
        let failure = handshake(&host, config).await.unwrap_err();
        assert!(
            matches!(
                failure,
                TlsFailure::Alert {
                    alert: AlertDescription::CertificateRequired,
                    progress: Progress::Agreed,
                    own_certificate: OwnCertificate::Absent
                }
            ),
            "{failure:?}"
        );
    }

    #[tokio::test]
    async fn untrusted_server_is_rejected_with_the_reason() {
        let (ours, other) = (Authority::new("ours"), Authority::new("other"));
        let host = Provisioned::by(&ours);
        let failure = handshake(&host, server_config(other.as_leaf(), ClientAuth::None)).await.unwrap_err();
        assert!(matches!(failure, TlsFailure::Rejected(Rejection::UnknownAuthority { .. })), "{failure:?}");
        let expired = ours.issue("server", Validity::Past);
        let failure = handshake(&host, server_config(expired, ClientAuth::None)).await.unwrap_err();
        assert!(matches!(failure, TlsFailure::Rejected(Rejection::Expired { .. })), "{failure:?}");
    }

    #[tokio::test]
    async fn ca_certificate_of_x509_version_1_is_accepted_as_leaf() {
        let leaf = version_1_ca();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cloud.ca.crt"), &leaf.pem).unwrap();
        let material = Material::load(dir.path()).unwrap();
        let (near, far) = tcp_pair().await;
        let server = tokio::spawn(accept(far, Arc::new(server_config(leaf, ClientAuth::None))));
        let (_, _, info) = connect(near, client_config(&material).unwrap(), "192.0.2.1").await.unwrap();
        assert_eq!(info.peer_subject, "CN=ca.cloudstack.apache.org");
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn server_without_the_key_of_its_certificate_is_refused_even_unprovisioned() {
        let dir = tempfile::tempdir().unwrap();
        let material = Material::load(dir.path()).unwrap();
        let mut ecdsa = Authority::new("thief").as_leaf();
        ecdsa.certificate = Authority::new("ours").der();
        let mut rsa = version_1_ca();
        rsa.key = other_rsa_key();
        for leaf in [ecdsa, rsa] {
            let (near, far) = tcp_pair().await;
            let server = tokio::spawn(accept(far, Arc::new(server_config(leaf, ClientAuth::None))));
            let failure = connect(near, client_config(&material).unwrap(), "x").await.unwrap_err();
            assert!(
                matches!(
                    failure,
                    TlsFailure::Protocol(Error::InvalidCertificate(CertificateError::BadSignature))
                ),
                "{failure:?}"
            );
            assert!(server.await.unwrap().is_err());
        }
    }

    #[tokio::test]
    async fn server_that_only_speaks_tls_1_3_is_a_version_problem() {
        let authority = Authority::new("ours");
        let config =
            crate::tls::testing::server_config_for(&[&version::TLS13], authority.as_leaf(), ClientAuth::None);
        let failure = handshake(&Provisioned::by(&authority), config).await.unwrap_err();
        assert!(
            matches!(failure, TlsFailure::Alert { alert: AlertDescription::ProtocolVersion, .. }),
            "{failure:?}"
        );
    }

    #[tokio::test]
    async fn plain_text_and_silent_closing_are_told_apart() {
        let host = Provisioned::by(&Authority::new("ours"));
        let material = Material::load(host.dir()).unwrap();
        for (greeting, expected) in [(&b"SSH-2.0-x\r\n"[..], "NotTls"), (b"+", "NotTls"), (b"", "Closed")] {
            let (near, mut far) = tcp_pair().await;
            let server = tokio::spawn(async move {
                let mut hello = [0; 16];
                far.read_exact(&mut hello).await.unwrap();
                far.write_all(greeting).await.unwrap();
                // Only this direction ends: closing with unread bytes would be a reset.
                far.shutdown().await.unwrap();
                far
            });
            let failure = connect(near, client_config(&material).unwrap(), "x").await.unwrap_err();
            assert!(format!("{failure:?}").starts_with(expected), "{failure:?}");
            drop(server.await.unwrap());
        }
    }
}
