//! Waits for a guest from another host, so that the bridges kept for it are let go when it is here.

use crate::commands::Ctx;
use crate::errors::chain;
use crate::hypervisor::{DomainState, Hypervisor};
use crate::network::{Bridges, Ticket};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Nothing depends on noticing it at once.
const LOOK: Duration = Duration::from_secs(2);

/// Waits in the background until the guest runs here, nobody waits any more, or patience ends.
pub(super) fn watch(ctx: &Ctx, guest: String, ticket: Ticket, patience: Duration) {
    let (hypervisor, bridges) = (ctx.services.hypervisor.clone(), ctx.services.bridges.clone());
    tokio::spawn(wait(hypervisor, bridges, guest, ticket, patience));
}

async fn wait(hypervisor: Hypervisor, bridges: Bridges, guest: String, ticket: Ticket, patience: Duration) {
    let end = Instant::now() + patience;
    while bridges.expects(&guest, ticket) {
        // A guest that is arriving is paused: if it then fails to, its ports go with it.
        if let Ok(Some((DomainState::Running | DomainState::Blocked, _))) = hypervisor.state(&guest).await {
            tracing::info!(guest, "Guest has arrived from another host");
            return bridges.arrived(&guest);
        }
        if Instant::now() >= end {
            tracing::warn!(guest, "Guest did not arrive from another host, its bridges are given up");
            if let Err(error) = bridges.not_coming(&guest).await {
                tracing::warn!(guest, "Left behind: {}", chain(&error));
            }
            return;
        }
        sleep(LOOK.min(end - Instant::now())).await;
    }
}
