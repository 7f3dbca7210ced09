//! The 40-byte message header, big endian (mirrors `com.cloud.agent.transport.Request`).
//!
//! ```text
//!  0        1         2      4          12     16        24        32    40
//!  +--------+---------+------+----------+------+---------+---------+-----+
//!  |version |reserved |flags | sequence | size | mgmt id | agent id| via |
//!  +--------+---------+------+----------+------+---------+---------+-----+
//! ```

/// Header length in bytes.
pub const LEN: usize = 40;

/// The only version that servers send (enum ordinal of `v1`).
pub const VERSION_1: u8 = 0;

/// Id used where a host or management server is not known.
pub const UNKNOWN_ID: i64 = -1;

/// Why 40 bytes are not a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("Message of {0} bytes is shorter than its 40-byte header: the peer does not speak this protocol")]
    Short(usize),
    #[error(
        "Message header has version {0}, only version 0 (v1) is understood: check what answers on this port"
    )]
    Version(u8),
}

/// The flag word. Unknown bits are kept, so that a message can be written back unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u16);

impl Flags {
    pub const REQUEST: Flags = Flags(0x0001);
    pub const STOP_ON_ERROR: Flags = Flags(0x0002);
    pub const IN_SEQUENCE: Flags = Flags(0x0004);
    /// Set by servers only. An agent that sets it would be taken for a peer server.
    pub const FROM_SERVER: Flags = Flags(0x0020);
    pub const CONTROL: Flags = Flags(0x0040);
    pub const COMPRESSED: Flags = Flags(0x0080);

    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    #[must_use]
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// A decoded header. `size` is the length in bytes of the uncompressed JSON body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub version: u8,
    pub reserved: u8,
    pub flags: Flags,
    pub sequence: i64,
    pub size: u32,
    pub mgmt_id: i64,
    pub agent_id: i64,
    pub via: i64,
}

impl Header {
    /// Header of a request that this agent originates: no management server id, agent and via are
    /// the host id, -1 while it is unknown.
    pub fn request(sequence: i64, host_id: Option<i64>, flags: Flags) -> Header {
        let id = host_id.unwrap_or(UNKNOWN_ID);
        Header {
            version: VERSION_1,
            reserved: 0,
            flags: flags.with(Flags::REQUEST),
            sequence,
            size: 0,
            mgmt_id: UNKNOWN_ID,
            agent_id: id,
            via: id,
        }
    }

    /// Header of the response to `self`: ids and sequence echoed, `IN_SEQUENCE` and
    /// `STOP_ON_ERROR` kept (the server releases its per-host queue only on the echoed
    /// `IN_SEQUENCE`), `FROM_SERVER` never set.
    pub fn response(&self) -> Header {
        let kept = self.flags.0 & (Flags::IN_SEQUENCE.0 | Flags::STOP_ON_ERROR.0);
        Header { flags: Flags(kept), size: 0, reserved: 0, ..*self }
    }

    pub fn is_request(&self) -> bool {
        self.flags.contains(Flags::REQUEST)
    }

    /// Decodes the first 40 bytes of a message.
    pub fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let Some(head) = bytes.first_chunk::<LEN>() else { return Err(HeaderError::Short(bytes.len())) };
        let [version, reserved, f0, f1, s0, s1, s2, s3, s4, s5, s6, s7, z0, z1, z2, z3, ids @ ..] = *head;
        if version != VERSION_1 {
            return Err(HeaderError::Version(version));
        }
        let id = |n: usize| -> i64 {
            ids.get(n * 8..).and_then(|r| r.first_chunk::<8>()).map_or(UNKNOWN_ID, |b| i64::from_be_bytes(*b))
        };
        Ok(Header {
            version,
            reserved,
            flags: Flags(u16::from_be_bytes([f0, f1])),
            sequence: i64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            size: u32::from_be_bytes([z0, z1, z2, z3]),
            mgmt_id: id(0),
            agent_id: id(1),
            via: id(2),
        })
    }

    /// Appends the 40 bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.version);
        out.push(self.reserved);
        out.extend_from_slice(&self.flags.0.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.mgmt_id.to_be_bytes());
        out.extend_from_slice(&self.agent_id.to_be_bytes());
        out.extend_from_slice(&self.via.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The worked example of a CheckHealthCommand: server to agent, and the agent's answer.
    #[test]
    fn a_response_echoes_everything_but_direction() {
        let raw: [u8; LEN] = [
            0, 0, 0, 0x23, 1, 2, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0x66, 0, 0, 0x92, 0xbb, 0x6b, 0xe0, 0x24, 0xc2,
            0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 5,
        ];
        let request = Header::decode(&raw).unwrap();
        assert_eq!(request.sequence, 0x0102_0000_0000_0007);
        assert_eq!((request.size, request.mgmt_id), (102, 161_333_666_391_234));
        let response = request.response();
        assert_eq!(response.flags, Flags::STOP_ON_ERROR);
        assert_eq!((response.sequence, response.agent_id, response.via), (request.sequence, 5, 5));
        assert_eq!(response.mgmt_id, request.mgmt_id);
    }

    #[test]
    fn in_sequence_survives_the_response() {
        let mut request = Header::request(9, None, Flags::IN_SEQUENCE);
        request.flags = Flags(0x0027);
        assert_eq!(request.response().flags, Flags(0x0006));
    }

    #[test]
    fn short_and_foreign_headers_are_named() {
        assert_eq!(Header::decode(&[0; 39]), Err(HeaderError::Short(39)));
        let mut raw = [0u8; LEN];
        raw[0] = 0x16;
        assert_eq!(Header::decode(&raw), Err(HeaderError::Version(0x16)));
    }

    proptest! {
        #[test]
        fn every_header_round_trips(flags: u16, reserved: u8, sequence: i64, size: u32, mgmt_id: i64, agent_id: i64, via: i64) {
            let header = Header { version: 0, reserved, flags: Flags(flags), sequence, size, mgmt_id, agent_id, via };
            let mut bytes = Vec::new();
            header.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), LEN);
            prop_assert_eq!(Header::decode(&bytes), Ok(header));
        }
    }
}
