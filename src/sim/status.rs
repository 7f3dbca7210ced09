//! The server's host state machine (mirrors `com.cloud.host.Status`).
//!
//! ```text
//!                AgentConnected               Ready
//!   (new) ───────────────────▶ Connecting ───────────▶ Up
//!                               ▲  │  ▲                │ │
//!                AgentConnected │  │  │ AgentConnected │ │ ShutdownRequested
//!                               │  │  └──────────┐     │ ▼
//!                             Alert ◀──────────── │ ── │ Disconnected
//!                               ▲   AgentDisconnected  │
//!                               └──────────────────────┘
//! ```
//!
//! A host in Alert leaves it only by connecting again: pings alone do not help it.

/// State of a host row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Creating,
    Connecting,
    Up,
    Down,
    Disconnected,
    Alert,
    Removed,
    Error,
    Rebalancing,
}

/// What moves a host from one state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostEvent {
    /// A startup request was accepted.
    AgentConnected,
    /// `ReadyCommand` was answered with result true.
    Ready,
    /// An investigation found the host alive. Not the `PingCommand`.
    Ping,
    PingTimeout,
    AgentDisconnected,
    ShutdownRequested,
    ManagementServerDown,
    HostDown,
    WaitedTooLong,
    Remove,
    Error,
    StartAgentRebalance,
    RebalanceCompleted,
    RebalanceFailed,
}

impl Status {
    /// The state after `event`, `None` where the server refuses the transition.
    pub fn after(self, event: HostEvent) -> Option<Status> {
        use HostEvent as E;
        use Status as S;
        match (self, event) {
            (S::Removed, _) => None,
            (S::Rebalancing, E::RebalanceCompleted) => Some(S::Connecting),
            (_, E::AgentConnected) => Some(S::Connecting),
            (S::Creating, E::Error) => Some(S::Error),
            (S::Creating | S::Error, _) => None,

            (S::Connecting, E::Ready) => Some(S::Up),
            (S::Connecting, E::Ping) => Some(S::Connecting),
            (S::Up | S::Disconnected | S::Alert, E::Ping) => Some(S::Up),

            (S::Connecting | S::Up | S::Disconnected, E::PingTimeout) => Some(S::Alert),
            (S::Down, E::PingTimeout) => Some(S::Down),

            (S::Connecting | S::Up | S::Alert, E::AgentDisconnected) => Some(S::Alert),
            (S::Disconnected, E::AgentDisconnected) => Some(S::Disconnected),
            (S::Down, E::AgentDisconnected) => Some(S::Down),
            (S::Rebalancing, E::AgentDisconnected) => Some(S::Rebalancing),

            (
                S::Connecting | S::Up | S::Disconnected | S::Alert | S::Down | S::Rebalancing,
                E::ShutdownRequested,
            ) => Some(S::Disconnected),

            (S::Connecting | S::Up | S::Disconnected | S::Rebalancing, E::ManagementServerDown) => {
                Some(S::Disconnected)
            }
            (S::Alert, E::ManagementServerDown) => Some(S::Alert),
            (S::Down, E::ManagementServerDown) => Some(S::Down),

            (S::Connecting | S::Up | S::Disconnected | S::Alert | S::Down, E::HostDown) => Some(S::Down),
            (S::Disconnected, E::WaitedTooLong) => Some(S::Alert),
            (S::Up | S::Disconnected | S::Alert | S::Down, E::Remove) => Some(S::Removed),
            (S::Up, E::StartAgentRebalance) => Some(S::Rebalancing),
            (S::Rebalancing, E::RebalanceFailed) => Some(S::Disconnected),

            (S::Up | S::Disconnected | S::Alert | S::Down | S::Rebalancing, E::Ready)
            | (S::Down | S::Rebalancing, E::Ping)
            | (S::Alert | S::Rebalancing, E::PingTimeout)
            | (S::Connecting | S::Rebalancing, E::Remove)
            | (S::Rebalancing, E::HostDown)
            | (S::Connecting | S::Up | S::Alert | S::Down | S::Rebalancing, E::WaitedTooLong)
            | (S::Connecting | S::Up | S::Disconnected | S::Alert | S::Down | S::Rebalancing, E::Error)
            | (
                S::Connecting | S::Disconnected | S::Alert | S::Down | S::Rebalancing,
                E::StartAgentRebalance,
            )
            | (
                S::Connecting | S::Up | S::Disconnected | S::Alert | S::Down,
                E::RebalanceCompleted | E::RebalanceFailed,
            ) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HostEvent as E, Status as S};

    #[test]
    fn the_alert_loop_goes_round_and_ends_at_ready() {
        let mut state = S::Creating;
        for (event, expected) in [
            (E::AgentConnected, S::Connecting),
            (E::AgentDisconnected, S::Alert),
            (E::AgentConnected, S::Connecting),
            (E::AgentDisconnected, S::Alert),
            (E::AgentConnected, S::Connecting),
            (E::Ready, S::Up),
            (E::ShutdownRequested, S::Disconnected),
        ] {
            state = state.after(event).unwrap();
            assert_eq!(state, expected, "{event:?}");
        }
    }

    #[test]
    fn alert_is_not_left_by_time_or_readiness() {
        for event in [E::PingTimeout, E::Ready, E::WaitedTooLong] {
            assert_eq!(S::Alert.after(event), None);
        }
        assert_eq!(S::Removed.after(E::AgentConnected), None);
        assert_eq!(S::Error.after(E::Ready), None);
    }
}
