//! The socket of one connection: dialing, and afterwards reading and writing sealed frames.
//!
//! Reading happens in the session's own task; writing in a small task of its own, so that a server
//! that stops reading never stops us from reading. What waits to be written is bounded.

use super::end::{Close, End};
use crate::errors::chain;
use crate::tls::{self, Sealed, TlsInfo, explain};
use socket2::{SockRef, TcpKeepalive};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::rustls::ClientConfig;

/// Bytes that may wait for a server that reads slowly.
const MAX_BACKLOG: usize = 128 * 1024 * 1024;
/// A single write that makes no progress for this long means a dead link.
const WRITE_STALL: Duration = Duration::from_secs(60);
/// Silence after which the kernel probes the peer.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Unacknowledged data for this long breaks the connection (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a close waits for the last bytes to leave and the peer to see them.
const LINGER: Duration = Duration::from_secs(2);

/// Resolves and connects; all addresses of a name are tried in order.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, End> {
    let peer = format!("{host}:{port}");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = match lookup_host((bare, port)).await {
        Ok(addresses) => addresses,
        Err(error) => return Err(unreachable(explain::dns(&error, host))),
    };
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                tune(&tcp);
                return Ok(tcp);
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| std::io::Error::other("the name has no address"));
    Err(unreachable(explain::tcp(&error, &peer)))
}

fn tune(tcp: &TcpStream) {
    // One write per frame and no delay: the Java side loses 40 ms per round trip to the opposite.
    let _ = tcp.set_nodelay(true);
    let socket = SockRef::from(tcp);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_AFTER / 3).with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

fn unreachable(explanation: tls::Explanation) -> End {
    End::Unreachable { cause: explanation.message, remedy: explanation.remedy.into() }
}

/// TLS handshake over a connected socket.
pub async fn secure(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    host: &str,
    port: u16,
) -> Result<(Link, TlsInfo), End> {
    let peer = format!("{host}:{port}");
    match tls::connect(tcp, config, host).await {
        Ok((tcp, sealed, info)) => Ok((Link::new(tcp, sealed), info)),
        Err(failure) => Err(unreachable(explain::tls(&failure, &peer))),
    }
}

/// An established link.
#[derive(Debug)]
pub struct Link {
    reader: OwnedReadHalf,
    sealed: Sealed,
    writer: mpsc::UnboundedSender<Vec<u8>>,
    /// The writing task: one, or none once its end was noticed. Dropping the set ends it.
    writing: JoinSet<Result<(), std::io::Error>>,
    written: tokio::sync::watch::Receiver<u64>,
    queued: u64,
    buffer: Box<[u8]>,
}

impl Link {
    fn new(tcp: TcpStream, sealed: Sealed) -> Link {
        let (reader, write_half) = tcp.into_split();
        let (writer, outbox) = mpsc::unbounded_channel();
        let (progress, written) = tokio::sync::watch::channel(0);
        let mut writing = JoinSet::new();
        writing.spawn(write_all(write_half, outbox, progress));
        let buffer = vec![0; 16 * 1024].into_boxed_slice();
        Link { reader, sealed, writer, writing, written, queued: 0, buffer }
    }

    /// Seals a message and queues its frames. Never waits.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Close> {
        let mut frames = Vec::with_capacity(message.len() + message.len() / 256 + 64);
        self.sealed.seal(message, &mut frames).map_err(|e| Close::Broken(e.to_string()))?;
        self.queued += frames.len() as u64;
        if self.queued.saturating_sub(*self.written.borrow()) > MAX_BACKLOG as u64 {
            return Err(Close::Broken(format!(
                "more than {} MiB wait to be read by the server",
                MAX_BACKLOG >> 20
            )));
        }
        // A writer that has ended is noticed, with its cause, by `receive`.
        let _ = self.writer.send(frames);
        Ok(())
    }

    /// The keys are nearly used up (a TLS 1.2 connection may seal 2^24 records): time to reconnect.
    pub fn keys_worn(&self) -> bool {
        self.sealed.key_lifetime_left() < 0.1
    }

    /// The next message of the server, or how the link ended. Cancel safe.
    pub async fn receive(&mut self) -> Result<Vec<u8>, Close> {
        loop {
            match self.sealed.next_message() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(Close::Garbage(chain(&error))),
            }
            let read = tokio::select! {
                read = self.reader.read(&mut self.buffer) => read,
                Some(ended) = self.writing.join_next() => return Err(write_failure(ended)),
            };
            match read {
                Ok(0) if self.sealed.pending() > 0 => {
                    return Err(Close::Garbage("the stream ended in the middle of a frame".into()));
                }
                Ok(0) => return Err(Close::Fin),
                Ok(count) => self.sealed.push(self.buffer.get(..count).unwrap_or_default()),
                Err(error) => return Err(Close::from(&error)),
            }
        }
    }

    /// Flushes what is queued, closes our side and lets the peer see it, bounded in time.
    pub async fn close(self) {
        let Link { mut reader, writer, mut writing, mut buffer, .. } = self;
        drop(writer);
        let _ = tokio::time::timeout(LINGER, async {
            // None if its end was what ended the link.
            let _ = writing.join_next().await;
            // Unread input at close would turn into a reset that can overtake our last bytes.
            while matches!(reader.read(&mut buffer).await, Ok(count) if count > 0) {}
        })
        .await;
    }
}

fn write_failure(ended: Result<Result<(), std::io::Error>, tokio::task::JoinError>) -> Close {
    match ended {
        Ok(Ok(())) => Close::Broken("the writer ended".into()),
        Ok(Err(error)) => Close::from(&error),
        Err(error) => Close::Broken(error.to_string()),
    }
}

async fn write_all(
    mut socket: OwnedWriteHalf,
    mut outbox: mpsc::UnboundedReceiver<Vec<u8>>,
    progress: tokio::sync::watch::Sender<u64>,
) -> Result<(), std::io::Error> {
    while let Some(frames) = outbox.recv().await {
        match tokio::time::timeout(WRITE_STALL, socket.write_all(&frames)).await {
            Ok(written) => written?,
            Err(_) => {
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server stopped reading"));
            }
        }
        progress.send_modify(|bytes| *bytes += frames.len() as u64);
    }
    socket.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Material;
    use tokio_rustls::rustls::ClientConnection;

    /// A link whose socket takes no more bytes while the peer stays, and the peer.
    async fn link_that_cannot_write() -> (Link, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        SockRef::from(&near).shutdown(std::net::Shutdown::Write).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = tls::client_config(&Material::load(dir.path()).unwrap()).unwrap();
        let client = ClientConnection::new(config, "server.example".try_into().unwrap()).unwrap();
        (Link::new(near, Sealed::new(client)), far)
    }

    #[tokio::test]
    async fn a_link_that_ended_by_writing_can_be_closed() {
        let (mut link, far) = link_that_cannot_write().await;
        link.writer.send(vec![1]).unwrap();
        let end = link.receive().await.unwrap_err();
        assert_eq!(end, Close::MidSentence);
        drop(far);
        assert_eq!(link.receive().await, Err(Close::Fin), "only the reader is left");
        link.close().await;
    }
}
