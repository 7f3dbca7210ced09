//! Server side of the sealed link: the TLS handshake bare on the socket, then frames around single
//! TLS records (mirrors `com.cloud.utils.nio.Link`).
//!
//! Written apart from the agent's own link on purpose, so that the two check each other. It never
//! reads past the handshake: records are taken from the socket one by one until it is over, because
//! the bytes after it are frames and no TLS stream any more.

use crate::wire::frame::{self, FrameDecoder, FrameError, MessageAssembler};
use crate::wire::limits::SEND_CHUNK;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::{self, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

/// Limit of both real sides (`agent.ssl.handshake.timeout`).
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

const RECORD_HEADER: usize = 5;
/// 2^14 bytes of content and what a cipher may add.
const MAX_RECORD: usize = 16_384 + 2_048;
const READ_CHUNK: usize = 16 * 1024;

/// Why the handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("Peer closed during the TLS handshake: it rejected our certificate or only probed the port")]
    Closed,
    #[error("TLS handshake took more than {HANDSHAKE_LIMIT:?}")]
    Timeout,
    #[error("TLS handshake got a record of {0} bytes: the peer does not speak TLS")]
    Record(usize),
    #[error("TLS handshake failed")]
    Tls(#[from] rustls::Error),
    #[error("Socket failed during the TLS handshake")]
    Io(#[from] std::io::Error),
}

/// Why the link cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("Frame does not hold complete TLS records of this session")]
    Seal(#[from] rustls::Error),
    #[error("Stream ended {0} bytes into a frame")]
    Cut(usize),
    #[error("Socket failed")]
    Io(#[from] std::io::Error),
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// One complete message: header and body.
    Message(Vec<u8>),
    /// The peer closed, with or without close_notify.
    End,
}

/// What the handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// `TLSv1_2` or `TLSv1_3`.
    pub protocol: String,
    /// The peer showed a certificate.
    pub client_certificate: bool,
    /// The peer resumed an earlier session.
    pub resumed: bool,
}

/// One connection after its handshake.
#[derive(Debug)]
pub struct Link {
    tcp: TcpStream,
    tls: ServerConnection,
    frames: FrameDecoder,
    assembler: MessageAssembler,
    outgoing: Vec<u8>,
    scratch: Box<[u8]>,
}

impl Link {
    /// Runs the handshake on `tcp`. On failure the alert, if TLS has one, is sent before the error
    /// comes back.
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Link, HandshakeError> {
        let tls = ServerConnection::new(config)?;
        match tokio::time::timeout(HANDSHAKE_LIMIT, handshake(tcp, tls)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HandshakeError::Timeout),
        }
    }

    /// What the handshake agreed on.
    pub fn agreed(&self) -> Agreed {
        let protocol = match self.tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1_2".to_owned(),
            Some(ProtocolVersion::TLSv1_3) => "TLSv1_3".to_owned(),
            other => format!("{other:?}"),
        };
        let client_certificate = self.tls.peer_certificates().is_some_and(|chain| !chain.is_empty());
        let resumed = self.tls.handshake_kind() == Some(HandshakeKind::Resumed);
        Agreed { protocol, client_certificate, resumed }
    }

    /// Seals `message` into frames and queues them; [`Link::next`] and [`Link::flush`] write them.
    pub fn queue(&mut self, message: &[u8]) -> Result<(), LinkError> {
        let frames = self.seal(message)?;
        self.outgoing.extend(frames.into_iter().flatten());
        Ok(())
    }

    /// Seals `message` and gives its frames, header included, without sending them.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>, LinkError> {
        let chunks = message.len().div_ceil(SEND_CHUNK);
        let mut frames = Vec::with_capacity(chunks);
        for (n, chunk) in message.chunks(SEND_CHUNK).enumerate() {
            self.tls.writer().write_all(chunk)?;
            let mut record = Vec::with_capacity(chunk.len() + 64);
            while self.tls.wants_write() {
                self.tls.write_tls(&mut record)?;
            }
            let mut framed = frame::header(record.len(), n + 1 < chunks).to_vec();
            framed.extend_from_slice(&record);
            frames.push(framed);
        }
        Ok(frames)
    }

    /// Queues bytes as they are: for malformed input.
    pub fn queue_raw(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Waits for the next message and writes what is queued meanwhile. Cancel-safe.
    pub async fn next(&mut self) -> Result<Incoming, LinkError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Incoming::Message(message));
            }
            let (mut reader, mut writer) = self.tcp.split();
            tokio::select! {
                wrote = writer.write(&self.outgoing), if !self.outgoing.is_empty() => {
                    let wrote = wrote?;
                    self.outgoing.drain(..wrote);
                }
                read = reader.read(&mut self.scratch) => {
                    let read = read?;
                    if read == 0 {
                        return match self.frames.pending() {
                            0 => Ok(Incoming::End),
                            cut => Err(LinkError::Cut(cut)),
                        };
                    }
                    self.frames.push(self.scratch.get(..read).unwrap_or_default());
                }
            }
        }
    }

    /// Writes everything that is queued.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        self.tcp.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        Ok(())
    }

    /// Ends the link with FIN and without close_notify, as the real server does.
    pub async fn close(mut self) {
        // The peer may be gone already; nothing is left to do then.
        let _ = self.tcp.shutdown().await;
        // Unread input would turn the FIN into a reset.
        while self.tcp.try_read(&mut self.scratch).is_ok_and(|read| read > 0) {}
    }

    fn buffered(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        while let Some(frame) = self.frames.next_frame()? {
            let plain = self.open(&frame.sealed)?;
            if let Some(message) = self.assembler.push(&plain, frame.more)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, LinkError> {
        let mut rest = sealed;
        let mut plain = Vec::with_capacity(sealed.len());
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
            let state = self.tls.process_new_packets()?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(plain.get_mut(start..).unwrap_or_default())?;
        }
        Ok(plain)
    }
}

async fn handshake(mut tcp: TcpStream, mut tls: ServerConnection) -> Result<Link, HandshakeError> {
    while tls.is_handshaking() {
        write_pending(&mut tcp, &mut tls).await?;
        if !tls.is_handshaking() {
            break;
        }
        let record = read_record(&mut tcp).await?;
        if let Err(reason) = feed(&mut tls, &record)? {
            // The alert is what tells the peer why; the handshake's own error matters more than a
            // failure to send it.
            let _ = write_pending(&mut tcp, &mut tls).await;
            let _ = tcp.shutdown().await;
            return Err(reason.into());
        }
    }
    // With TLS 1.3 this puts session tickets on the socket without a frame, exactly the trap that
    // the real server sets.
    write_pending(&mut tcp, &mut tls).await?;
    Ok(Link {
        tcp,
        tls,
        frames: FrameDecoder::default(),
        assembler: MessageAssembler::default(),
        outgoing: Vec::new(),
        scratch: vec![0; READ_CHUNK].into_boxed_slice(),
    })
}

/// Gives a whole record to the session, which takes at most 4 KiB per call.
fn feed(tls: &mut ServerConnection, record: &[u8]) -> std::io::Result<Result<(), rustls::Error>> {
    let mut rest = record;
    while !rest.is_empty() {
        tls.read_tls(&mut rest)?;
        if let Err(reason) = tls.process_new_packets() {
            return Ok(Err(reason));
        }
    }
    Ok(Ok(()))
}

async fn write_pending(tcp: &mut TcpStream, tls: &mut ServerConnection) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes)?;
    }
    tcp.write_all(&bytes).await
}

async fn read_record(tcp: &mut TcpStream) -> Result<Vec<u8>, HandshakeError> {
    let mut record = vec![0; RECORD_HEADER];
    match tcp.read_exact(&mut record).await {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(HandshakeError::Closed),
        other => other?,
    };
    let len = match record.as_slice() {
        [_, _, _, high, low] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    if len > MAX_RECORD {
        return Err(HandshakeError::Record(len));
    }
    record.resize(RECORD_HEADER + len, 0);
    tcp.read_exact(record.get_mut(RECORD_HEADER..).unwrap_or_default()).await?;
    Ok(record)
}
