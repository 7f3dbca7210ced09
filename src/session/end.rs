//! How a session can end, in words for the operator.

use std::time::Duration;

/// How the peer or the network closed the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// End of stream. Servers close without a TLS close_notify; that is normal.
    Fin,
    /// The same while this host was still writing: the kernel reports a reset or a broken pipe.
    MidSentence,
    /// What the socket said.
    Broken(String),
    /// The peer sent something that is not this protocol.
    Garbage(String),
}

impl std::fmt::Display for Close {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Close::Fin => f.write_str("the server closed the connection"),
            Close::MidSentence => {
                f.write_str("the server closed the connection while this host was still talking")
            }
            Close::Broken(error) => write!(f, "the connection broke ({error})"),
            Close::Garbage(error) => write!(f, "the peer sent something that is not this protocol ({error})"),
        }
    }
}

impl From<&std::io::Error> for Close {
    fn from(error: &std::io::Error) -> Close {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => Close::MidSentence,
            _ => Close::Broken(error.to_string()),
        }
    }
}

/// Why this agent leaves a session on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM or SIGINT.
    Signal,
    /// New key and certificate are in place.
    CertificateRenewed,
    /// The server asked to move to another one (4.21).
    Migrate,
    /// The preferred server of the list is back.
    PreferredServer,
    /// The configuration changed in a way that only a new registration carries over.
    Reconfigured,
    /// The TLS keys of this connection have sealed nearly as much as they may.
    KeysWorn,
    /// ShutdownCommand from the server.
    ByServer { reason: String, remove_host: bool },
}

/// The detail of the ShutdownCommand that ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    Plain,
    With(&'static str),
}

impl Farewell {
    pub fn text(self) -> Option<&'static str> {
        match self {
            Farewell::Plain => None,
            Farewell::With(text) => Some(text),
        }
    }
}

impl StopReason {
    /// Whether the server is told, so that it shows the host as Disconnected instead of Alert.
    pub fn farewell(&self) -> Option<Farewell> {
        match self {
            StopReason::Signal | StopReason::Reconfigured => Some(Farewell::Plain),
            StopReason::CertificateRenewed => Some(Farewell::With("Restarting due to new X509 certificates")),
            StopReason::KeysWorn => Some(Farewell::Plain),
            StopReason::Migrate | StopReason::PreferredServer | StopReason::ByServer { .. } => None,
        }
    }
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Dialing or the TLS handshake failed; cause and remedy in words.
    Unreachable {
        cause: String,
        remedy: String,
    },
    ConnectTimeout {
        after: Duration,
    },
    HandshakeTimeout {
        after: Duration,
    },
    /// The facts for the startup request could not be gathered.
    NoInventory {
        cause: String,
    },
    /// The link closed before StartupAnswer.
    CutBeforeAnswer {
        close: Close,
    },
    StartupUnanswered {
        after: Duration,
    },
    StartupRejected {
        sentence: String,
    },
    /// ReadyCommand with details.
    Refused {
        sentence: String,
    },
    /// Accepted, then cut: the Alert loop.
    CutBeforeReady {
        close: Close,
        last_command: Option<String>,
        /// What this host itself answered with a failure: then the cut is no riddle.
        own_failure: Option<String>,
        after: Duration,
    },
    NeverReady {
        after: Duration,
        last_command: Option<String>,
    },
    /// A Ready session was lost.
    Lost {
        close: Close,
    },
    PingUnanswered {
        silent: Duration,
    },
    ReregisterAsked,
    Stopped(StopReason),
}

/// Which delays follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndClass {
    /// No server answered.
    Unreachable,
    /// A server took the startup and then dropped or refused this host.
    TurnedAway,
    /// A server said no in so many words (StartupAnswer with result=false).
    Rejected,
    /// A registered session ended.
    AfterReady,
    /// The host was deleted on the server.
    Deleted,
    /// The process is to end.
    Final,
}

impl End {
    pub fn class(&self) -> EndClass {
        match self {
            End::Unreachable { .. }
            | End::ConnectTimeout { .. }
            | End::HandshakeTimeout { .. }
            | End::NoInventory { .. } => EndClass::Unreachable,
            End::CutBeforeAnswer { .. }
            | End::StartupUnanswered { .. }
            | End::Refused { .. }
            | End::CutBeforeReady { .. }
            | End::NeverReady { .. } => EndClass::TurnedAway,
            End::StartupRejected { .. } => EndClass::Rejected,
            End::Lost { .. } | End::PingUnanswered { .. } | End::ReregisterAsked => EndClass::AfterReady,
            End::Stopped(reason) => match reason {
                StopReason::Signal => EndClass::Final,
                StopReason::ByServer { reason, .. }
                    if reason == crate::commands::agent::shutdown::DELETE_HOST =>
                {
                    EndClass::Deleted
                }
                StopReason::ByServer { .. }
                | StopReason::CertificateRenewed
                | StopReason::Migrate
                | StopReason::PreferredServer
                | StopReason::Reconfigured
                | StopReason::KeysWorn => EndClass::AfterReady,
            },
        }
    }

    /// One word for counting; the words never change.
    pub fn word(&self) -> &'static str {
        match self {
            End::Unreachable { .. } => "unreachable",
            End::ConnectTimeout { .. } => "connect_timeout",
            End::HandshakeTimeout { .. } => "handshake_timeout",
            End::NoInventory { .. } => "no_inventory",
            End::CutBeforeAnswer { .. } => "cut_before_answer",
            End::StartupUnanswered { .. } => "startup_unanswered",
            End::StartupRejected { .. } => "startup_rejected",
            End::Refused { .. } => "refused",
            End::CutBeforeReady { .. } => "cut_before_ready",
            End::NeverReady { .. } => "never_ready",
            End::Lost { .. } => "lost",
            End::PingUnanswered { .. } => "ping_unanswered",
            End::ReregisterAsked => "reregister_asked",
            End::Stopped(reason) => match reason {
                StopReason::Signal => "stopped",
                StopReason::CertificateRenewed => "certificate_renewed",
                StopReason::Migrate => "migrate",
                StopReason::PreferredServer => "preferred_server",
                StopReason::Reconfigured => "reconfigured",
                StopReason::KeysWorn => "keys_worn",
                StopReason::ByServer { .. } => "by_server",
            },
        }
    }

    /// The server's own sentence, if it sent one.
    pub fn server_sentence(&self) -> Option<&str> {
        match self {
            End::StartupRejected { sentence } | End::Refused { sentence } => Some(sentence),
            End::Unreachable { .. }
            | End::ConnectTimeout { .. }
            | End::HandshakeTimeout { .. }
            | End::NoInventory { .. }
            | End::CutBeforeAnswer { .. }
            | End::StartupUnanswered { .. }
            | End::CutBeforeReady { .. }
            | End::NeverReady { .. }
            | End::Lost { .. }
            | End::PingUnanswered { .. }
            | End::ReregisterAsked
            | End::Stopped(_) => None,
        }
    }

    /// What an operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            End::Unreachable { remedy, .. } => remedy.clone(),
            End::ConnectTimeout { .. } => {
                "check the route and the firewall between this host and 8250/tcp of the server: agent check net".into()
            }
            End::HandshakeTimeout { .. } => {
                "the port is open but nobody speaks TLS in time: is the management service up and not overloaded?".into()
            }
            End::NoInventory { .. } => "repair what the message names; the agent tries again by itself".into(),
            End::CutBeforeAnswer { .. } => {
                "look into the management server's log at this time; it may be starting, busy or blocking new connections".into()
            }
            End::StartupUnanswered { .. } => "look whether the management server is stuck; its log should show this host's startup".into(),
            End::StartupRejected { .. } | End::Refused { .. } => {
                "the server names the cause; correct zone, pod, cluster or the host's record, the agent tries again by itself".into()
            }
            End::CutBeforeReady { own_failure: Some(_), .. } => {
                "correct what this host's own answer names; the server turns a host away that fails its checks".into()
            }
            End::CutBeforeReady { .. } | End::NeverReady { .. } => "the host will show Alert or Connecting. Look for \"Monitor ... says there is an error in the connect process\" in the management server's log; a known cause are template_store_ref rows that point to a removed image_store (docs/operations.md has the query)".into(),
            End::Lost { .. } | End::PingUnanswered { .. } => "nothing if the server was restarted; else check the network between this host and the server".into(),
            End::ReregisterAsked => "nothing: the server no longer counts this host as Up and asked for a new registration".into(),
            End::Stopped(reason) => match reason {
                StopReason::ByServer { .. } => "the host was removed on the server; add it again, or purge this package".into(),
                StopReason::Signal
                | StopReason::CertificateRenewed
                | StopReason::Migrate
                | StopReason::PreferredServer
                | StopReason::Reconfigured
                | StopReason::KeysWorn => "nothing".into(),
            },
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".into());
        match self {
            End::Unreachable { cause, .. } => f.write_str(cause),
            End::ConnectTimeout { after } => {
                write!(f, "no answer to the TCP connection within {} s", after.as_secs())
            }
            End::HandshakeTimeout { after } => {
                write!(f, "TLS handshake not finished within {} s", after.as_secs())
            }
            End::NoInventory { cause } => write!(f, "this host's inventory is incomplete: {cause}"),
            End::CutBeforeAnswer { close } => write!(f, "{close} before it answered the startup request"),
            End::StartupUnanswered { after } => {
                write!(f, "the server did not answer the startup request within {} s", after.as_secs())
            }
            End::StartupRejected { .. } => f.write_str("the server rejected the startup request"),
            End::Refused { .. } => f.write_str("the server refused this host"),
            End::CutBeforeReady { close, last_command, own_failure, after } => {
                let after = after.as_secs_f64();
                write!(
                    f,
                    "{close} while registering this host, {after:.1} s after it accepted the startup request "
                )?;
                match own_failure {
                    Some(failure) => write!(f, "(this host had answered: {failure})"),
                    None => write!(f, "(last command: {})", last(last_command)),
                }
            }
            End::NeverReady { after, last_command } => write!(
                f,
                "the server accepted the startup request but did not make this host ready within {} s (last command: {})",
                after.as_secs(),
                last(last_command)
            ),
            End::Lost { close } => write!(f, "{close} after this host was registered"),
            End::PingUnanswered { silent } => {
                write!(f, "the server did not answer a ping for {} s", silent.as_secs())
            }
            End::ReregisterAsked => f.write_str("the server asked this host to register again"),
            End::Stopped(StopReason::Signal) => f.write_str("the agent was asked to stop"),
            End::Stopped(StopReason::CertificateRenewed) => {
                f.write_str("reconnecting with the new certificate")
            }
            End::Stopped(StopReason::Migrate) => f.write_str("the server asked to move to another server"),
            End::Stopped(StopReason::PreferredServer) => f.write_str("the preferred server is back"),
            End::Stopped(StopReason::Reconfigured) => f.write_str("the configuration changed"),
            End::Stopped(StopReason::KeysWorn) => {
                f.write_str("the TLS keys of the connection are used up, making new ones")
            }
            End::Stopped(StopReason::ByServer { reason, .. }) => {
                write!(f, "the server ended this host's service ({reason})")
            }
        }
    }
}
