//! Bounds on everything a peer controls. Exceeding one costs that connection, never the process.

/// Largest payload of one link frame, in bytes. The Java reader drops the connection above this
/// (mirrors `com.cloud.utils.nio.Link`, `MAX_SIZE_PER_PACKET`).
pub const MAX_FRAME: usize = 18_000;

/// Plaintext bytes sealed into one TLS record and one frame when sending (one JSSE record).
pub const SEND_CHUNK: usize = 16_384;

/// Largest message (header and body as sent, possibly compressed), in bytes. Aggregated router
/// configurations and security-group member lists reach MiB size.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Largest body after decompression, in bytes: a gzip bomb stops here.
pub const MAX_BODY: usize = 64 * 1024 * 1024;

/// Bodies of at least this many bytes are sent gzipped (mirrors `com.cloud.agent.transport.Request`).
pub const COMPRESS_FROM: usize = 8_192;

/// Most commands or answers in one message. The largest batch seen in real use had 16.
pub const MAX_ELEMENTS: usize = 4_096;
