//! A connection before its first message: TLS, or whatever the scenario does instead.

use super::event::{ConnectionNumber, SimEvent};
use super::link::Link;
use super::plan::Door;
use super::server::Shared;
use super::tls::ClientCertificate;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What happens before the first message. `None` ends the connection.
pub(super) async fn enter(
    shared: &Shared,
    number: ConnectionNumber,
    mut tcp: TcpStream,
    peer: SocketAddr,
    door: Door,
) -> Option<Link> {
    const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];
    let mode = match door {
        Door::NeedCertificate => ClientCertificate::Need,
        _ => shared.config.client_certificate,
    };
    let failed = |error: String| shared.ledger.record(number, SimEvent::HandshakeFailed { error });
    let (settings, reason) = match door {
        Door::Open | Door::NeedCertificate => (&shared.tls, ""),
        Door::OtherCa => (&shared.other_tls, ""),
        Door::Close => (&shared.tls, "closed before TLS"),
        Door::PlainText | Door::Alert => {
            let mut hello = [0; 4096];
            let _ = tcp.read(&mut hello).await;
            let plain = door == Door::PlainText;
            let reply: &[u8] = if plain { b"HTTP/1.1 400 Bad Request\r\n\r\n" } else { &ALERT };
            let _ = tcp.write_all(reply).await;
            (&shared.tls, if plain { "plain text sent" } else { "handshake_failure sent" })
        }
    };
    if !reason.is_empty() {
        failed(reason.to_owned());
        return None;
    }
    let config = settings.config(peer.ip(), mode).map_err(|e| failed(e.to_string())).ok()?;
    match Link::accept(tcp, config).await {
        Ok(link) => Some(link),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
            failed(format!("{error}{cause}"));
            None
        }
    }
}
