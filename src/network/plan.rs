//! What a network card wants, what it got, and what came of taking it back.

use std::sync::Arc;

/// `com.cloud.network.Networks.TrafficType`, as far as cards have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    Guest,
    Control,
    Public,
    Management,
    Storage,
}

impl Traffic {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Traffic::Guest => "guest",
            Traffic::Control => "control",
            Traffic::Public => "public",
            Traffic::Management => "management",
            Traffic::Storage => "storage",
        }
    }
}

/// How the network of a card is told apart on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broadcast {
    /// Not at all, or by something that is not the bridge's business: the bridge of the label as it is.
    Native,
    Vlan(u16),
    Vxlan(u32),
}

/// What decides about the bridge of a network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicPlan {
    pub traffic: Traffic,
    pub broadcast: Broadcast,
    /// The traffic label: a bridge or interface of this host.
    pub label: Option<String>,
    /// Tells the card in logs.
    pub mac: String,
}

/// A bridge that is ready for a network card.
///
/// While this value lives nobody removes the bridge, also not when the last other guest on it ends.
/// Keep it until the guest runs, or fails to; then drop it or give it to [`super::Bridges::undo`].
#[derive(Debug)]
#[must_use = "the bridge is kept for as long as this is"]
pub struct Plugged {
    pub bridge: String,
    /// Devices that were made for this card, in order; empty if all were there.
    pub created: Vec<String>,
    pub(super) _lease: Option<Arc<()>>,
}

/// What became of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unplugged {
    /// There is no such bridge.
    Absent,
    /// Not a bridge that this agent makes for a network id.
    NotOurs,
    /// The network is to stay without guests.
    Persistent,
    /// A port is on it, or a card was plugged in whose guest does not run yet.
    InUse {
        port: Option<String>,
    },
    Removed,
}
