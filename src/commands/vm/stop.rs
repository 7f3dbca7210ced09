//! `com.cloud.agent.api.StopCommand`: ends a guest and everything that was there for it: its definition,
//! passphrases, bridges that nobody else is on, mounts of its discs.
//!
//! A guest is asked to shut down first, and gets `stop.script.timeout` for it. One that is gone already
//! is a success; a failure is only answered if the guest still runs or nobody can tell.

use super::launch::{discs, hooks};
use super::leftovers::{self, BridgesToGo};
use crate::commands::network::router::Router;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::config::Config;
use crate::hypervisor::{DomainState, Guest, Passwords, PowerState, Waited};
use crate::journal::Work;
use crate::wire::lenient;
use std::time::Duration;

/// What is left of the command's time for the rest when a guest does not shut down.
const REST: Duration = Duration::from_secs(60);
/// For noting the settings of a system VM, which may not answer any more.
const BACKUP: Duration = Duration::from_secs(15);

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    force_stop: bool,
    /// Only clean up after a guest that has stopped: one that runs is left alone.
    #[serde(default, deserialize_with = "lenient::flag")]
    check_before_cleanup: bool,
    /// Of a system VM.
    #[serde(default)]
    control_ip: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vlan_to_persistence_map: BridgesToGo,
}

impl Command for StopCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.StopAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.vm_name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let name = self.vm_name.as_str();
        let config = ctx.config()?;
        // Perhaps it was to come from another host.
        if let Err(error) = ctx.services.bridges.not_coming(name).await {
            tracing::warn!(guest = name, "A bridge is left: {}", crate::errors::chain(&error));
        }
        let mut work = ctx.services.journal.begin("stop a guest", name, &ctx.logid).await;
        let guest = ctx.services.hypervisor.describe(name, Passwords::LeftOut).await?;
        let Some(guest) = guest else {
            work.settle(Ok::<(), Fault>(())).await?;
            self.clean_up_unknown(&ctx).await;
            return Ok(Reply::done());
        };
        if self.check_before_cleanup && guest.state == DomainState::Running {
            work.settle(Ok::<(), Fault>(())).await?;
            return Ok(Reply::failed(NoFields {}, "vm is still running on host"));
        }
        let result = self.stop(&ctx, &config, &guest, &mut work).await;
        // From here on the guest is gone; bridges and passphrases go with it.
        work.settle(result).await?;
        tracing::info!(guest = name, logid = ctx.logid, "Guest is stopped");
        hooks::stopped(&config, name).await;
        for disc in leftovers::discs(&guest) {
            discs::give_back(&ctx, disc).await;
        }
        Ok(Reply::done())
    }
}

impl StopCommand {
    async fn stop(&self, ctx: &Ctx, config: &Config, guest: &Guest, work: &mut Work) -> Result<(), Fault> {
        for action in leftovers::of(guest, &self.vlan_to_persistence_map) {
            work.after_commit(action).await?;
        }
        let (hypervisor, name) = (&ctx.services.hypervisor, self.vm_name.as_str());
        if guest.state.power() != PowerState::Off {
            self.back_up(ctx).await;
            let ended = !self.force_stop && self.shuts_down(ctx, config, guest).await;
            if !ended && let Err(error) = hypervisor.destroy(name).await {
                let reason = Fault::from_error(&error);
                return match hypervisor.state(name).await? {
                    Some((state, _)) if state.power() != PowerState::Off => {
                        Err(Fault::new(format!("Guest {name} still runs and cannot be ended: {reason}")))
                    }
                    _ => Ok(()),
                };
            }
        }
        // Guests of CloudStack have no definition that outlasts them, but those of others may.
        hypervisor.undefine(name).await?;
        Ok(())
    }

    /// Asks the guest to shut down; whether it did.
    async fn shuts_down(&self, ctx: &Ctx, config: &Config, guest: &Guest) -> bool {
        let (hypervisor, name) = (&ctx.services.hypervisor, self.vm_name.as_str());
        if guest.state == DomainState::Paused {
            // Its processors stand still: it will not hear of it.
            return false;
        }
        if let Err(error) = hypervisor.shutdown(name).await {
            let reason = crate::errors::chain(&error);
            tracing::warn!(guest = name, "Guest cannot be asked to shut down and is ended: {reason}");
            return false;
        }
        let patience = config.stop_script_timeout.min(ctx.deadline.saturating_sub(REST));
        match hypervisor.wait_until_stopped(name, patience).await {
            Ok(Waited::Reached) => true,
            Ok(Waited::TimedOut) => {
                let seconds = patience.as_secs();
                tracing::warn!(guest = name, seconds, "Guest did not shut down in time and is ended");
                false
            }
            Err(error) => {
                let reason = crate::errors::chain(&error);
                tracing::warn!(guest = name, "Guest cannot be watched and is ended: {reason}");
                false
            }
        }
    }

    /// Console proxies and secondary storage VMs find their settings again after an upgrade.
    async fn back_up(&self, ctx: &Ctx) {
        let is_one = self.vm_name.starts_with("s-") || self.vm_name.starts_with("v-");
        let Some(address) = self.control_ip.as_deref().filter(|address| is_one && !address.is_empty()) else {
            return;
        };
        let copy = ["cp", "-f", "/var/cache/cloud/cmdline", "/var/cache/cloud/cmdline.backup"];
        let outcome = async { Router::at(ctx, address)?.run(&copy, BACKUP).await };
        if let Err(fault) = outcome.await {
            tracing::debug!(guest = self.vm_name, "Its settings are not backed up: {fault}");
        }
    }

    /// Of a guest that is gone nothing is known any more; bridges that it may have been the last one on
    /// have the network ids that the server names.
    async fn clean_up_unknown(&self, ctx: &Ctx) {
        tracing::info!(guest = self.vm_name, "Guest is not here: nothing to stop");
        let ids = self.vlan_to_persistence_map.keys().filter_map(|id| id.parse().ok());
        let goes = |id| leftovers::goes(&self.vlan_to_persistence_map, id);
        let bridges = &ctx.services.bridges;
        for bridge in ids.filter(|id| goes(*id)).flat_map(|id| bridges.of_vnet(id)) {
            if let Err(error) = bridges.unplug(&bridge, true).await {
                tracing::warn!(bridge, "Bridge is left: {}", crate::errors::chain(&error));
            }
        }
    }
}

#[cfg(test)]
#[path = "stop_tests.rs"]
mod tests;
