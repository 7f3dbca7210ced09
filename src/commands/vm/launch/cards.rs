//! Bridges for the network cards of a guest.

use crate::commands::network::nic::Nic;
use crate::commands::to::{NicTo, VirtualMachineTo};
use crate::commands::vm::guest_spec::ResolvedBridge;
use crate::commands::{Ctx, Fault};
use crate::guest::nics;
use crate::journal::{Action, Work};
use crate::network::Plugged;
use std::collections::BTreeMap;

/// Bridges that stay for as long as this is kept: until the guest runs.
#[derive(Debug)]
pub(in crate::commands) struct Cards {
    /// By device number of the card.
    pub bridges: BTreeMap<i64, ResolvedBridge>,
    plugs: Vec<Plugged>,
}

impl Cards {
    /// The plugs by themselves, for a guest that does not run soon.
    pub(in crate::commands) fn into_plugs(self) -> Vec<Plugged> {
        self.plugs
    }

    /// Plugs all cards in, in the order of the devices; `work` takes back what was made for them.
    pub(in crate::commands) async fn plug(
        ctx: &Ctx,
        vm: &VirtualMachineTo,
        work: &mut Work,
    ) -> Result<Cards, Fault> {
        let mut sorted: Vec<&NicTo> = vm.nics.iter().collect();
        sorted.sort_by_key(|nic| nic.device_id);
        let mut cards = Cards { bridges: BTreeMap::new(), plugs: Vec::new() };
        for nic in sorted {
            if vm.is_user() {
                filtered(&vm.name, nic)?;
            }
            let plugged = plug(ctx, nic, work).await.map_err(|fault| {
                Fault::new(format!("Network card {} of guest {}: {fault}", nic.device_id, vm.name))
            })?;
            let bridge = ResolvedBridge { bridge: plugged.bridge.clone(), ovs: None };
            cards.bridges.insert(nic.device_id, bridge);
            cards.plugs.push(plugged);
        }
        Ok(cards)
    }
}

/// Refuses a card that security groups are to protect: a guest that is open to all without anybody's
/// knowledge is worse than one that does not start.
pub(in crate::commands) fn filtered(guest: &str, nic: &NicTo) -> Result<(), Fault> {
    if !nic.has_security_groups() {
        return Ok(());
    }
    Err(Fault::new(format!(
        "Network card {} of guest {guest} is in a network with security groups, which this agent cannot apply: use a \
         network without them, or a host with the Java agent",
        nic.device_id
    )))
}

/// The bridge for one card, made if need be; `work` takes back what was made.
pub(in crate::commands) async fn plug(ctx: &Ctx, nic: &NicTo, work: &mut Work) -> Result<Plugged, Fault> {
    let bridges = &ctx.services.bridges;
    let plan = Nic::from(nic).plan()?;
    let made = bridges.vnet_bridge(&plan)?;
    let before = made.as_ref().is_some_and(|bridge| bridges.exists(bridge));
    if let Some(bridge) = made.filter(|_| !before) {
        work.before(Action::Unplug { bridge, delete: true }).await?;
    }
    let plugged = bridges.plug(&plan).await?;
    if before && !plugged.created.is_empty() {
        // It went between the look and the plug, with the last guest of somebody else.
        work.before(Action::Unplug { bridge: plugged.bridge.clone(), delete: true }).await?;
    }
    Ok(plugged)
}

/// Leaves limits of bandwidth out where the kernel has none: libvirt would refuse the cards.
pub(in crate::commands) async fn limit(ctx: &Ctx, guest: &str, cards: &mut [nics::Nic]) {
    if cards.iter().all(|card| card.rate.is_none()) {
        return;
    }
    let support = ctx.services.bridges.qdisc_support().await;
    if support.worth_trying() {
        return;
    }
    tracing::warn!(guest, ?support, "Its network rate is not limited: this host cannot do that");
    for card in cards {
        card.rate = None;
    }
}
