//! The bridges that guests are plugged into. Mirrors `BridgeVifDriver` and the control network of
//! `LibvirtComputingResource`.
//!
//! ```text
//!   card of a guest      bridge                       reaches the wire through
//!   ───────────────      ──────                       ────────────────────────
//!   no tag               the operator's (cloudbr0)    what the operator put on it
//!   VLAN 100             breth0-100                   eth0.100
//!   VXLAN 5000           brvx-5000                    vxlan5000 on cloudbr0 or eth0
//!   control              cloud0                       nothing: link-local, host and system VMs only
//! ```
//!
//! Must never change or remove a bridge of the operator. What exists is read from /sys; only changes
//! start a process. Changes are made one at a time.

mod control;
mod error;
mod expected;
mod ip;
mod limits;
mod links;
mod names;
mod plan;
mod vnet;

pub use error::NetworkError;
pub use expected::Ticket;
pub use limits::QdiscSupport;
pub use plan::{Broadcast, NicPlan, Plugged, Traffic, Unplugged};

use expected::Expected;
use links::Links;
use names::{Made, Tag, Vnet};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use tokio::sync::{Mutex, OnceCell};
use vnet::Workshop;

/// Where the Java agent's package has its network scripts.
const SCRIPTS: &str = "/usr/share/cloudstack-common/scripts/vm/network/vnet";

/// Names of this host's bridges, from agent.properties.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `public.network.device`
    pub public_bridge: String,
    /// `guest.network.device`
    pub guest_bridge: String,
    /// `private.network.device`
    pub private_bridge: String,
    /// `private.bridge.name`
    pub control_bridge: String,
    /// `control.cidr`
    pub control_cidr: String,
    /// `network.bridge.type`
    pub bridge_type: String,
    /// Where /sys and /proc are: `/`, but in tests.
    pub root: PathBuf,
    /// Where `modifyvxlan.sh` may be.
    pub scripts: PathBuf,
}

impl Default for Settings {
    /// Of a host whose agent.properties says nothing.
    fn default() -> Settings {
        Settings {
            public_bridge: "cloudbr0".to_owned(),
            guest_bridge: "cloudbr1".to_owned(),
            private_bridge: "cloudbr1".to_owned(),
            control_bridge: "cloud0".to_owned(),
            control_cidr: "169.254.0.0/16".to_owned(),
            bridge_type: "native".to_owned(),
            root: PathBuf::from("/"),
            scripts: PathBuf::from(SCRIPTS),
        }
    }
}

/// The one place where bridges are made and removed.
#[derive(Debug, Clone)]
pub struct Bridges(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    links: Links,
    /// Held while bridges are looked at to be used, made or removed.
    leases: Mutex<Leases>,
    expected: std::sync::Mutex<Expected>,
    qdiscs: OnceCell<QdiscSupport>,
}

/// Bridges of network ids that cards were plugged into whose guests may not run yet.
#[derive(Debug, Default)]
struct Leases(BTreeMap<String, Weak<()>>);

impl Leases {
    fn take(&mut self, bridge: &str) -> Arc<()> {
        self.0.retain(|_, lease| lease.strong_count() > 0);
        let kept = self.0.get(bridge).and_then(Weak::upgrade);
        let lease = kept.unwrap_or_default();
        self.0.insert(bridge.to_owned(), Arc::downgrade(&lease));
        lease
    }

    fn has(&self, bridge: &str) -> bool {
        self.0.get(bridge).is_some_and(|lease| lease.strong_count() > 0)
    }
}

/// Where a card belongs.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Existing(String),
    Control,
    Vnet(Vnet),
}

impl Bridges {
    pub fn new(settings: Settings) -> Bridges {
        let links = Links::new(settings.root.clone());
        let (leases, expected, qdiscs) = (Mutex::default(), Default::default(), OnceCell::new());
        Bridges(Arc::new(Inner { settings, links, leases, expected, qdiscs }))
    }

    /// Gives the bridge for a network card, and makes it first if it is one of a network id.
    pub async fn plug(&self, plan: &NicPlan) -> Result<Plugged, NetworkError> {
        match self.place(plan)? {
            Place::Existing(bridge) => self.existing(bridge, plan.traffic),
            Place::Control => {
                self.control_network().await?;
                Ok(Plugged {
                    bridge: self.0.settings.control_bridge.clone(),
                    created: Vec::new(),
                    _lease: None,
                })
            }
            Place::Vnet(vnet) => {
                let mut leases = self.0.leases.lock().await;
                let lease = leases.take(&vnet.bridge);
                let created = self.workshop().make(&vnet).await?;
                tracing::debug!(mac = plan.mac, bridge = vnet.bridge, "Plugged");
                Ok(Plugged { bridge: vnet.bridge, created, _lease: Some(lease) })
            }
        }
    }

    /// Removes a bridge that was made for a network id when nobody uses it any more. `delete` is false
    /// for networks that are to stay without guests.
    pub async fn unplug(&self, bridge: &str, delete: bool) -> Result<Unplugged, NetworkError> {
        let bridge = names::checked(bridge)?;
        let Some(made) = Made::by_name(bridge) else { return Ok(Unplugged::NotOurs) };
        let leases = self.0.leases.lock().await;
        if !self.0.links.is_bridge(bridge) {
            return Ok(Unplugged::Absent);
        }
        if !delete {
            return Ok(Unplugged::Persistent);
        }
        if leases.has(bridge) {
            return Ok(Unplugged::InUse { port: None });
        }
        self.workshop().remove(bridge, &made).await
    }

    /// Takes back the plugs of a guest that does not run after all: removes only what they made, and
    /// not what others use by now. The first error is given when all was tried.
    pub async fn undo(&self, plugs: Vec<Plugged>) -> Result<(), NetworkError> {
        let leases = self.0.leases.lock().await;
        // Two cards may be on one bridge: none of them may keep it.
        let plugs: Vec<_> = plugs.into_iter().map(|plug| (plug.bridge, plug.created)).collect();
        let mut outcome = Ok(());
        for (bridge, created) in plugs.into_iter().rev() {
            if created.is_empty() || leases.has(&bridge) {
                continue;
            }
            outcome = outcome.and(self.workshop().take_back(&bridge, &created).await);
        }
        outcome
    }

    /// The bridge that a plan leads to if that is one of a network id, whether it exists or not.
    pub fn vnet_bridge(&self, plan: &NicPlan) -> Result<Option<String>, NetworkError> {
        Ok(match self.place(plan)? {
            Place::Vnet(vnet) => Some(vnet.bridge),
            Place::Existing(_) | Place::Control => None,
        })
    }

    /// Whether there is a bridge of that name.
    pub fn exists(&self, bridge: &str) -> bool {
        names::checked(bridge).is_ok_and(|bridge| self.0.links.is_bridge(bridge))
    }

    /// Bridges that, by their names, were made for a network id.
    pub fn of_vnet(&self, id: u32) -> Vec<String> {
        let mut bridges = self.0.links.bridges();
        bridges.retain(|bridge| vnet_id(bridge) == Some(id));
        bridges
    }

    /// The VLAN whose traffic is on a bridge, by its name or by its port.
    pub fn vlan(&self, bridge: &str) -> Option<u16> {
        let bridge = names::checked(bridge).ok()?;
        match Made::by_name(bridge) {
            Some(made) if made.is_vxlan() => None,
            Some(made) => u16::try_from(made.id).ok(),
            None => self.0.links.ports(bridge).iter().find_map(|port| self.0.links.vlan_id(port)),
        }
    }

    /// Makes what is missing of the control network.
    pub async fn control_network(&self) -> Result<(), NetworkError> {
        let bridge = names::checked(&self.0.settings.control_bridge)?;
        let _one_at_a_time = self.0.leases.lock().await;
        control::ensure(&self.0.links, bridge, &self.0.settings.control_cidr).await
    }

    /// Whether bandwidth of cards can be limited. Found out once, within milliseconds.
    pub async fn qdisc_support(&self) -> &QdiscSupport {
        self.0.qdiscs.get_or_init(limits::probe).await
    }

    fn workshop(&self) -> Workshop<'_> {
        Workshop { links: &self.0.links, scripts: &self.0.settings.scripts }
    }

    fn existing(&self, bridge: String, traffic: Traffic) -> Result<Plugged, NetworkError> {
        let links = &self.0.links;
        let traffic = traffic.name();
        if links.is_bridge(&bridge) {
            return Ok(Plugged { bridge, created: Vec::new(), _lease: None });
        }
        let name = bridge;
        if links.exists(&name) {
            return Err(NetworkError::NotABridge { name, traffic });
        }
        Err(NetworkError::NoBridge { name, traffic })
    }

    fn place(&self, plan: &NicPlan) -> Result<Place, NetworkError> {
        let settings = &self.0.settings;
        let kind = &settings.bridge_type;
        if matches!(plan.traffic, Traffic::Guest | Traffic::Public) && !kind.eq_ignore_ascii_case("native") {
            return Err(NetworkError::BridgeKind { kind: kind.clone() });
        }
        let label = plan.label.as_deref().filter(|label| !label.is_empty());
        // Tagged traffic of guests without a label goes by the private bridge, untagged by the guest
        // bridge; untagged public traffic pays no heed to the label. That is how hosts are set up.
        let (tagged_on, untagged_on) = match plan.traffic {
            Traffic::Guest => {
                (label.unwrap_or(&settings.private_bridge), label.unwrap_or(&settings.guest_bridge))
            }
            Traffic::Public => (label.unwrap_or(&settings.public_bridge), settings.public_bridge.as_str()),
            Traffic::Storage => {
                let base = label.unwrap_or(&settings.private_bridge);
                (base, base)
            }
            Traffic::Management => return existing(&settings.private_bridge),
            Traffic::Control => return Ok(Place::Control),
        };
        match plan.broadcast {
            Broadcast::Native => existing(untagged_on),
            Broadcast::Vlan(id) => self.vnet(tagged_on, Tag::Vlan(id)),
            Broadcast::Vxlan(id) => self.vnet(tagged_on, Tag::Vxlan(id)),
        }
    }

    fn vnet(&self, base: &str, tag: Tag) -> Result<Place, NetworkError> {
        let links = &self.0.links;
        let base = names::checked(base)?;
        let pif = match tag {
            Tag::Vlan(_) => links.pif(base),
            // The tunnel ends at the address of the base itself, if that is a device.
            Tag::Vxlan(_) => links.exists(base).then(|| base.to_owned()),
        };
        let pif = pif.ok_or_else(|| NetworkError::NoPif { base: base.to_owned(), what: tag.title() })?;
        Vnet::new(&pif, tag).map(Place::Vnet)
    }
}

fn existing(name: &str) -> Result<Place, NetworkError> {
    names::checked(name).map(|name| Place::Existing(name.to_owned()))
}

/// The network id in the name of a bridge, as `vlanToPersistenceMap` of the server has it for a key.
pub fn vnet_id(bridge: &str) -> Option<u32> {
    Made::by_name(bridge).map(|made| made.id)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
