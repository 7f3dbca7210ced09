//! TLS material, verification, handshake, sealed link.
