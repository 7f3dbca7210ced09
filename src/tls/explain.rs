//! Turns the failure of a connection attempt into one sentence and what to do about it.
//!
//! Pure: no I/O, no logging. The session logs it, `--status` and the diagnosis command show it.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio_rustls::rustls::{AlertDescription, Error, PeerIncompatible};

use super::handshake::{OwnCertificate, Progress, TlsFailure};
use super::verify::Rejection;

/// What kind of failure it is; stable, so that counters and alarms can key on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Nothing listens on the port.
    Refused,
    /// No route or network down.
    Unreachable,
    /// No reaction in time.
    Timeout,
    /// The name has no address.
    Dns,
    /// Something else than TLS answers.
    NotTls,
    /// The server insists on a client certificate and got none, or none it likes.
    WantsClientCertificate,
    /// The server's certificate comes from a CA this host does not trust.
    CaChanged,
    /// The server's certificate has expired.
    Expired,
    /// The server's certificate is not valid yet: a clock is wrong.
    ClockSkew,
    /// No TLS version or cipher in common.
    ProtocolVersion,
    /// The server closed the connection during the handshake.
    ClosedInHandshake,
    /// The connection was reset.
    Reset,
    Other,
}

impl FailureKind {
    /// Name for logs, status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::NotTls => "not-tls",
            Self::WantsClientCertificate => "wants-client-certificate",
            Self::CaChanged => "ca-changed",
            Self::Expired => "certificate-expired",
            Self::ClockSkew => "clock-skew",
            Self::ProtocolVersion => "protocol-version",
            Self::ClosedInHandshake => "closed-in-handshake",
            Self::Reset => "reset",
            Self::Other => "other",
        }
    }
}

/// One failure, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub kind: FailureKind,
    /// What happened, with the peer in it.
    pub message: String,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.remedy)
    }
}

impl Explanation {
    fn new(kind: FailureKind, message: String, remedy: &'static str) -> Self {
        Self { kind, message, remedy }
    }
}

/// The step that did not end before its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Resolve,
    Connect,
    Handshake,
}

/// The name of the server could not be resolved.
pub fn dns(error: &io::Error, host: &str) -> Explanation {
    Explanation::new(
        FailureKind::Dns,
        format!("The name {host} has no address ({error})"),
        "check the host setting in agent.properties and this host's DNS",
    )
}

/// A step took longer than its deadline.
pub fn timeout(step: Step, after: Duration, peer: &str) -> Explanation {
    let seconds = after.as_secs_f32();
    let (message, remedy) = match step {
        Step::Resolve => (
            format!("No answer from DNS for {peer} within {seconds} s"),
            "check this host's DNS, or use an address in the host setting",
        ),
        Step::Connect => (
            format!("No answer from {peer} within {seconds} s"),
            "check that the server is up and that no firewall drops the port",
        ),
        Step::Handshake => (
            format!("{peer} accepted the connection but did not finish the TLS handshake within {seconds} s"),
            "the server is overloaded or hangs, or something else listens there: look at its log",
        ),
    };
    Explanation::new(FailureKind::Timeout, message, remedy)
}

/// The TCP connection failed, at the start or later.
pub fn tcp(error: &io::Error, peer: &str) -> Explanation {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Explanation::new(
            FailureKind::Refused,
            format!("{peer} refused the connection: nothing listens there"),
            "start the management server, or correct host and port in agent.properties",
        ),
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
            Explanation::new(
                FailureKind::Unreachable,
                format!("{peer} cannot be reached from this host ({error})"),
                "check the management network, its routes and the firewalls in between",
            )
        }
        Kind::TimedOut => Explanation::new(
            FailureKind::Timeout,
            format!("{peer} stopped answering ({error})"),
            "check that the server is up and that no firewall drops the port",
        ),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::NotConnected => {
            Explanation::new(
                FailureKind::Reset,
                format!("{peer} reset the connection"),
                "the server was stopped or a firewall cut the connection: the agent tries again by itself",
            )
        }
        _ => Explanation::new(
            FailureKind::Other,
            format!("The connection to {peer} failed ({error})"),
            "see the error's text and this host's network",
        ),
    }
}

/// The TLS handshake failed.
pub fn tls(failure: &TlsFailure, peer: &str) -> Explanation {
    match failure {
        TlsFailure::NotTls(_) => Explanation::new(
            FailureKind::NotTls,
            format!("{peer} is no management server: {failure}"),
            "correct host and port in agent.properties (the agent port is 8250), and let load balancers pass TCP",
        ),
        TlsFailure::Closed => Explanation::new(
            FailureKind::ClosedInHandshake,
            format!(
                "{peer} closed the connection during the TLS handshake: it is busy or refuses new connections"
            ),
            "the agent tries again by itself; if it stays so, look at the server's log and its limit of new \
             connections (agent.max.concurrent.new.connections)",
        ),
        TlsFailure::Rejected(rejection) => rejected(rejection, peer),
        TlsFailure::Alert { alert, progress, own_certificate } => {
            refused_by_alert(*alert, *progress, *own_certificate, peer)
        }
        TlsFailure::Protocol(error) => protocol(error, peer),
        TlsFailure::TooLong => Explanation::new(
            FailureKind::Other,
            format!("{peer} does not finish the TLS handshake"),
            "check that host and port in agent.properties lead to the management server",
        ),
        TlsFailure::Io(error) => tcp(error, peer),
    }
}

fn rejected(rejection: &Rejection, peer: &str) -> Explanation {
    let message = format!("{peer} is not believed: {rejection}");
    match rejection {
        Rejection::UnknownAuthority { .. } => Explanation::new(
            FailureKind::CaChanged,
            message,
            "if the server's CA was replaced, put the new CA certificate into cloud.ca.crt or provision this \
             host again; if not, something else answers at this address",
        ),
        Rejection::Expired { .. } => Explanation::new(
            FailureKind::Expired,
            message,
            "renew the management server's certificate, or correct this host's clock",
        ),
        Rejection::NotYetValid { .. } => Explanation::new(
            FailureKind::ClockSkew,
            message,
            "set the clocks of this host and of the server (chrony or NTP)",
        ),
        Rejection::Unusable { .. } => Explanation::new(
            FailureKind::Other,
            message,
            "replace the management server's certificate by a usable one",
        ),
    }
}

fn refused_by_alert(
    alert: AlertDescription,
    progress: Progress,
    own: OwnCertificate,
    peer: &str,
) -> Explanation {
    use AlertDescription as Alert;
    match alert {
        Alert::BadCertificate
        | Alert::NoCertificate
        | Alert::CertificateRequired
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => client_certificate(alert, own, peer),
        // One alert for two causes (RFC 5246, 7.2.2 and 7.4.6): after the agreement only the missing
        // certificate is left.
        Alert::HandshakeFailure if progress == Progress::Agreed => client_certificate(alert, own, peer),
        Alert::ProtocolVersion | Alert::InsufficientSecurity | Alert::HandshakeFailure => {
            no_common_version(format!("{alert:?}"), peer)
        }
        other => Explanation::new(
            FailureKind::Other,
            format!("{peer} ended the TLS handshake with the alert {other:?}"),
            "look at the management server's log at this moment",
        ),
    }
}

fn client_certificate(alert: AlertDescription, own: OwnCertificate, peer: &str) -> Explanation {
    let (message, remedy) = match own {
        OwnCertificate::Absent => (
            format!("{peer} wants a client certificate and this host has none (alert {alert:?})"),
            "provision this host first (provisionCertificate, or add the host from the server), or set \
             ca.plugin.root.auth.strictness=false on the server",
        ),
        OwnCertificate::Present => (
            format!("{peer} does not accept this host's client certificate (alert {alert:?})"),
            "it may be expired, revoked, from another CA, or lack the address the server sees this host at: \
             provision this host again (provisionCertificate)",
        ),
    };
    Explanation::new(FailureKind::WantsClientCertificate, message, remedy)
}

fn protocol(error: &Error, peer: &str) -> Explanation {
    match error {
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon,
        ) => no_common_version(error.to_string(), peer),
        other => Explanation::new(
            FailureKind::Other,
            format!("The TLS handshake with {peer} failed ({other})"),
            "look at the management server's log at this moment",
        ),
    }
}

fn no_common_version(detail: String, peer: &str) -> Explanation {
    Explanation::new(
        FailureKind::ProtocolVersion,
        format!("{peer} and this host have no TLS version or cipher in common ({detail})"),
        "allow TLS 1.2 with an ECDHE AES-GCM cipher in the server's java.security settings",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "192.0.2.10:8250";

    #[test]
    fn every_tcp_failure_names_peer_and_kind() {
        for (error, kind) in [
            (io::ErrorKind::ConnectionRefused, FailureKind::Refused),
            (io::ErrorKind::HostUnreachable, FailureKind::Unreachable),
            (io::ErrorKind::NetworkUnreachable, FailureKind::Unreachable),
            (io::ErrorKind::TimedOut, FailureKind::Timeout),
            (io::ErrorKind::ConnectionReset, FailureKind::Reset),
            (io::ErrorKind::BrokenPipe, FailureKind::Reset),
            (io::ErrorKind::PermissionDenied, FailureKind::Other),
        ] {
            let explanation = tcp(&io::Error::from(error), PEER);
            assert_eq!(explanation.kind, kind);
            assert!(explanation.message.contains(PEER), "{explanation}");
        }
    }

    #[test]
    fn every_alert_about_certificates_is_about_the_client_certificate() {
        let alert = |alert, own_certificate| {
            tls(&TlsFailure::Alert { alert, progress: Progress::Agreed, own_certificate }, PEER)
        };
        let absent = alert(AlertDescription::BadCertificate, OwnCertificate::Absent);
        assert_eq!(absent.kind, FailureKind::WantsClientCertificate);
        assert!(absent.remedy.contains("ca.plugin.root.auth.strictness=false"), "{absent}");
        let present = alert(AlertDescription::CertificateRequired, OwnCertificate::Present);
        assert_eq!(present.kind, FailureKind::WantsClientCertificate);
        assert!(present.message.contains("does not accept"), "{present}");
        let version = alert(AlertDescription::ProtocolVersion, OwnCertificate::Absent);
        assert_eq!(version.kind, FailureKind::ProtocolVersion);
    }

    #[test]
    fn handshake_failure_means_what_the_handshake_had_come_to() {
        for (progress, kind) in [
            (Progress::Greeting, FailureKind::ProtocolVersion),
            (Progress::Agreed, FailureKind::WantsClientCertificate),
        ] {
            let own_certificate = OwnCertificate::Absent;
            let failure =
                TlsFailure::Alert { alert: AlertDescription::HandshakeFailure, progress, own_certificate };
            assert_eq!(tls(&failure, PEER).kind, kind);
        }
    }

    #[test]
    fn rejections_have_their_own_kinds() {
        let subject = || "CN=server".to_owned();
        let time = || "2026-01-01T00:00:00Z".to_owned();
        for (rejection, kind) in [
            (
                Rejection::UnknownAuthority {
                    subject: subject(),
                    issuer: "CN=new".to_owned(),
                    fingerprint: "ab".to_owned(),
                    trusted: vec!["CN=old".to_owned()],
                },
                FailureKind::CaChanged,
            ),
            (Rejection::Expired { subject: subject(), not_after: time(), now: time() }, FailureKind::Expired),
            (
                Rejection::NotYetValid { subject: subject(), not_before: time(), now: time() },
                FailureKind::ClockSkew,
            ),
        ] {
            let explanation = tls(&TlsFailure::Rejected(rejection), PEER);
            assert_eq!(explanation.kind, kind);
            assert!(explanation.message.contains("CN=server"), "{explanation}");
        }
    }

    #[test]
    fn other_ends_of_a_handshake() {
        assert_eq!(tls(&TlsFailure::Closed, PEER).kind, FailureKind::ClosedInHandshake);
        let not_tls = tls(&TlsFailure::NotTls(b"HTTP/".to_vec()), PEER);
        assert_eq!(not_tls.kind, FailureKind::NotTls);
        assert!(not_tls.message.contains("HTTP/"), "{not_tls}");
        let reset = TlsFailure::Io(io::ErrorKind::ConnectionReset.into());
        assert_eq!(tls(&reset, PEER).kind, FailureKind::Reset);
        let old = TlsFailure::Protocol(PeerIncompatible::ServerDoesNotSupportTls12Or13.into());
        assert_eq!(tls(&old, PEER).kind, FailureKind::ProtocolVersion);
    }

    #[test]
    fn timeouts_name_step_and_peer() {
        for (step, word) in
            [(Step::Resolve, "DNS"), (Step::Connect, "No answer"), (Step::Handshake, "handshake")]
        {
            let explanation = timeout(step, Duration::from_secs(30), PEER);
            assert_eq!(explanation.kind, FailureKind::Timeout);
            assert!(
                explanation.message.contains(word) && explanation.message.contains("30 s"),
                "{explanation}"
            );
        }
    }

    #[tokio::test]
    async fn a_real_refusal_is_recognised() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = tokio::net::TcpStream::connect(address).await.unwrap_err();
        assert_eq!(tcp(&error, &address.to_string()).kind, FailureKind::Refused);
    }
}
