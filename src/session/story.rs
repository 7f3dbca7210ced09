//! The vocabulary of the session machine: phases, events, actions, limits.

use super::end::{Close, End, StopReason};
use std::time::Duration;

/// Time since an arbitrary fixed moment.
pub type Now = Duration;

/// Where the session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    Dialing,
    Tls,
    StartupSent,
    Accepted,
    Commanding,
    Ready,
    Draining,
    Ended,
}

/// Limits on how long the peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub connect: Duration,
    pub handshake: Duration,
    pub startup_answer: Duration,
    /// From StartupAnswer to ReadyCommand.
    pub ready: Duration,
    /// For commands in flight before the link is closed on purpose.
    pub drain: Duration,
    /// Intervals after which an unanswered ping ends the session.
    pub missed_pings: u32,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
            startup_answer: Duration::from_secs(180),
            ready: Duration::from_secs(300),
            drain: Duration::from_secs(6),
            missed_pings: 3,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The TCP connection stands.
    TcpConnected,
    /// The TLS handshake is over.
    Secured,
    /// Dialing or the handshake failed.
    DialFailed(End),
    /// A StartupAnswer to this session's startup request. `ping_interval` in seconds.
    StartupAnswered {
        accepted: bool,
        host_id: Option<i64>,
        ping_interval: Option<i64>,
        details: Option<String>,
    },
    /// Any command other than the two below; the simple class name.
    CommandArrived(String),
    /// This host answered a command with a failure: the command's class and the details.
    AnswerFailed(String),
    /// ReadyCommand.
    ReadyArrived {
        refusal: Option<String>,
        host_id: Option<i64>,
    },
    /// ShutdownCommand from the server.
    ShutdownArrived {
        reason: String,
        remove_host: bool,
    },
    /// A ping was handed to the link.
    PingSent {
        sequence: i64,
    },
    PingAnswered {
        sequence: i64,
        send_startup: bool,
    },
    /// The link is gone.
    Closed(Close),
    /// Leave in an orderly way.
    Stop(StopReason),
    /// No command is in flight.
    Idle,
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Build and send the startup request.
    SendStartup,
    /// Collect the guests' states and send a ping with this host id.
    SendPing { host_id: Option<i64> },
    /// Give the request just received to the dispatcher.
    Dispatch,
    /// The server assigned this host id.
    HostId(i64),
    /// A new phase was entered.
    Entered(Phase),
    /// Ask for [`Event::Idle`] as soon as no command is in flight.
    WatchIdle,
    /// Send ShutdownCommand, with this detail, before closing.
    SendShutdown { detail: Option<&'static str> },
    /// Close the link; the machine is finished.
    End(End),
}
