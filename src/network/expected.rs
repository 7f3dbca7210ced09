//! Bridges of guests that are on their way from another host. They are made ready before a guest comes
//! and must stay although no guest is on them yet.
//!
//! ```text
//!           expect                  arrived
//!  (none) ─────────▶ kept for it ─────────────▶ its own ports keep the bridges
//!              ▲         │ not_coming
//!              └─────────┴────────────────────▶ what was made for it is removed
//!          expect again
//! ```

use super::Bridges;
use super::error::NetworkError;
use super::plan::Plugged;
use crate::errors::chain;
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

/// Tells one wait for a guest from a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Debug, Default)]
pub(super) struct Expected {
    last: u64,
    guests: BTreeMap<String, (Ticket, Vec<Plugged>)>,
}

impl Bridges {
    /// Keeps the bridges of a guest until it has arrived or is not coming. After an earlier wait for it
    /// only those are kept that it still needs.
    pub async fn expect(&self, guest: &str, mut plugs: Vec<Plugged>) -> Ticket {
        let earlier = self.expected().guests.remove(guest).map(|(_, plugs)| plugs).unwrap_or_default();
        let mut useless = Vec::new();
        for old in earlier {
            match plugs.iter_mut().find(|new| new.bridge == old.bridge) {
                // Who made the devices is known from the first wait alone.
                Some(new) if new.created.is_empty() => new.created = old.created,
                Some(_) => {}
                None => useless.push(old),
            }
        }
        let ticket = {
            let mut expected = self.expected();
            expected.last += 1;
            let ticket = Ticket(expected.last);
            expected.guests.insert(guest.to_owned(), (ticket, plugs));
            ticket
        };
        if let Err(error) = self.undo(useless).await {
            tracing::warn!(guest, "Left of an earlier wait for this guest: {}", chain(&error));
        }
        ticket
    }

    /// Whether that wait still goes on.
    pub fn expects(&self, guest: &str, ticket: Ticket) -> bool {
        self.expected().guests.get(guest).is_some_and(|(current, _)| *current == ticket)
    }

    /// The guest runs here. Nothing to do for one that nobody waits for.
    pub fn arrived(&self, guest: &str) {
        let arrived = self.expected().guests.remove(guest);
        drop(arrived);
    }

    /// The guest does not run here after all, or not any more: removes what was made for it, unless
    /// somebody else is on it by now.
    pub async fn not_coming(&self, guest: &str) -> Result<(), NetworkError> {
        let given_up = self.expected().guests.remove(guest);
        match given_up {
            Some((_, plugs)) => self.undo(plugs).await,
            None => Ok(()),
        }
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.0.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Net, in_own_network, skip};
    use super::super::{Broadcast, NicPlan, Traffic, Unplugged};

    const BRIDGE: &str = "brvx-5000";

    fn plan(id: u32) -> NicPlan {
        let mac = "02:00:00:00:00:01".to_owned();
        let label = Some("cloudbr1".to_owned());
        NicPlan { traffic: Traffic::Guest, broadcast: Broadcast::Vxlan(id), label, mac }
    }

    /// A host whose kernel has what the tests need.
    async fn ready(net: &Net) -> bool {
        net.host().await;
        let made = net.try_ip("link add link lo name probe type vxlan id 1 dstport 8472").await.is_ok();
        if made {
            net.ip("link del probe").await;
        } else {
            skip("this kernel has no VXLAN devices");
        }
        made
    }

    #[test]
    fn a_bridge_stays_for_a_guest_that_is_to_come() {
        in_own_network(async |net| {
            if !ready(net).await {
                return;
            }
            let bridges = net.bridges();
            let plug = bridges.plug(&plan(5000)).await.unwrap();
            let ticket = bridges.expect("i-2-3-VM", vec![plug]).await;
            // Another guest was on it and ends.
            assert_eq!(bridges.unplug(BRIDGE, true).await.unwrap(), Unplugged::InUse { port: None });
            net.guest_on(BRIDGE, "vnet0").await;
            assert!(bridges.expects("i-2-3-VM", ticket));
            bridges.arrived("i-2-3-VM");
            assert!(!bridges.expects("i-2-3-VM", ticket));
            // Too late: it is here.
            bridges.not_coming("i-2-3-VM").await.unwrap();
            assert!(net.is_there(BRIDGE));
            net.ip("link del vnet0").await;
            assert_eq!(bridges.unplug(BRIDGE, true).await.unwrap(), Unplugged::Removed);
        });
    }

    #[test]
    fn what_was_made_for_a_guest_that_does_not_come_is_removed() {
        in_own_network(async |net| {
            if !ready(net).await {
                return;
            }
            let (bridges, before) = (net.bridges(), net.devices());
            let plugs =
                vec![bridges.plug(&plan(5000)).await.unwrap(), bridges.plug(&plan(6000)).await.unwrap()];
            let first = bridges.expect("i-2-3-VM", plugs).await;
            // Asked again, with one network less.
            let again = bridges.expect("i-2-3-VM", vec![bridges.plug(&plan(5000)).await.unwrap()]).await;
            assert!(!bridges.expects("i-2-3-VM", first) && bridges.expects("i-2-3-VM", again));
            assert!(net.is_there(BRIDGE) && !net.is_there("brvx-6000"));
            bridges.not_coming("i-2-4-VM").await.unwrap();
            assert!(net.is_there(BRIDGE));
            bridges.not_coming("i-2-3-VM").await.unwrap();
            assert_eq!(net.devices(), before);
        });
    }

    #[test]
    fn a_bridge_that_others_use_by_now_stays() {
        in_own_network(async |net| {
            if !ready(net).await {
                return;
            }
            let bridges = net.bridges();
            let plug = bridges.plug(&plan(5000)).await.unwrap();
            bridges.expect("i-2-3-VM", vec![plug]).await;
            net.guest_on(BRIDGE, "vnet1").await;
            bridges.not_coming("i-2-3-VM").await.unwrap();
            assert!(net.is_there(BRIDGE));
        });
    }
}
