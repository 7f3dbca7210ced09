//! Whether this host is secured: it has a certificate and libvirt listens for TLS on the private
//! address, so that guests can be migrated encrypted.
//!
//! The Java agent opens `qemu+tls://<address>/system` each time; here a TCP connection to libvirt's
//! TLS port has to do, since a full handshake would hold up each registration.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

const LIBVIRT_TLS_PORT: u16 = 16514;
/// The address is our own: an answer that takes longer is none.
const DEADLINE: Duration = Duration::from_millis(500);
const VALID_FOR: Duration = Duration::from_secs(60);

/// Asks, and remembers the last answer for a minute. Clones share it.
#[derive(Debug, Clone)]
pub struct SecuredProbe {
    certificate: PathBuf,
    port: u16,
    last: watch::Sender<Option<Answer>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Answer {
    address: Ipv4Addr,
    at: Instant,
    listens: bool,
}

impl SecuredProbe {
    /// `certificate` is cloud.crt beside agent.properties.
    pub fn new(certificate: PathBuf) -> Self {
        Self { certificate, port: LIBVIRT_TLS_PORT, last: watch::channel(None).0 }
    }

    pub async fn is_secured(&self, private: Ipv4Addr) -> bool {
        self.certificate.exists() && self.listens(private).await
    }

    async fn listens(&self, address: Ipv4Addr) -> bool {
        let known = *self.last.borrow();
        if let Some(answer) = known
            && answer.address == address
            && answer.at.elapsed() < VALID_FOR
        {
            return answer.listens;
        }
        let attempt = tokio::time::timeout(DEADLINE, TcpStream::connect((address, self.port))).await;
        let listens = matches!(attempt, Ok(Ok(_)));
        self.last.send_replace(Some(Answer { address, at: Instant::now(), listens }));
        listens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn it_takes_a_certificate_and_a_listener() {
        let directory = tempfile::tempdir().unwrap();
        let certificate = directory.path().join("cloud.crt");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut probe = SecuredProbe::new(certificate.clone());
        probe.port = listener.local_addr().unwrap().port();
        assert!(!probe.is_secured(Ipv4Addr::LOCALHOST).await, "no certificate");
        std::fs::write(&certificate, "x").unwrap();
        assert!(probe.is_secured(Ipv4Addr::LOCALHOST).await);
        drop(listener);
        assert!(probe.is_secured(Ipv4Addr::LOCALHOST).await, "remembered");
        probe.last.send_replace(None);
        assert!(!probe.is_secured(Ipv4Addr::LOCALHOST).await, "nobody listens");
    }
}
