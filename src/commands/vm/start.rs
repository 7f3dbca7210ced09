//! `com.cloud.agent.api.StartCommand`: starts a guest.
//!
//! ```text
//!   runs already ──▶ a fresh answer
//!        │ no
//!        ▼
//!   disks and discs ─▶ passphrases ─▶ bridges ─▶ XML, hook ─▶ start ─▶ hook ─▶ runs
//!        └────────────────┴──────────────┴────────────┴─────────┴ refused: all of it is taken back
//! ```
//!
//! A system VM then gets its boot arguments and programs. The answer carries the guest as the server sent
//! it, which servers read without a look at the result.

use super::launch::definition::Definition;
use super::launch::media::Media;
use super::launch::{hooks, system_vm};
use crate::commands::to::{Echo, VirtualMachineTo};
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply, place};
use crate::hypervisor::{HypervisorError, Passwords, PowerState};
use crate::journal::{Action, Work};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// Memory that has to be locked or huge pages may take minutes.
const DEADLINE: Duration = Duration::from_secs(600);

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartCommand {
    #[serde(default)]
    vm: Option<Echo<VirtualMachineTo>>,
    /// Private address of this host: the guest's display listens there.
    #[serde(default)]
    host_ip: Option<String>,
}

#[derive(Debug, serde::Serialize)]
pub struct StartAnswer {
    vm: Echo<VirtualMachineTo>,
}

impl Command for StartCommand {
    type Answer = StartAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.StartAnswer";

    fn claims(&self) -> Claims {
        let Some(vm) = self.vm.as_ref().map(|vm| &vm.value) else { return Claims::none() };
        let disks = vm.disks.iter().filter_map(|disk| Some((disk.is_iso(), disk.data.as_ref()?)));
        disks.fold(Key::Guest(vm.name.clone()).into(), |claims, (is_iso, data)| {
            claims.and(if is_iso { place::shared(data) } else { place::exclusive(data) })
        })
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<StartAnswer>, Fault> {
        let Some(mut vm) = self.vm else {
            return Err(Fault::new("The command does not say which guest to start"));
        };
        let listen = self.host_ip.filter(|address| !address.trim().is_empty());
        if let Some(address) = &listen {
            vm.set("vncAddr", address.as_str());
        }
        let outcome = start(&ctx, &vm.value, listen.as_deref()).await;
        Ok(match outcome {
            Ok(()) => Reply::ok(StartAnswer { vm }),
            Err(fault) => Reply::failed(StartAnswer { vm }, fault.text()),
        })
    }
}

async fn start(ctx: &Ctx, vm: &VirtualMachineTo, listen: Option<&str>) -> Result<(), Fault> {
    // First: what is left of a start that failed may be this very guest.
    let mut work = ctx.services.journal.begin("start a guest", &vm.name, &ctx.logid).await;
    if runs(ctx, vm).await? {
        work.settle(Ok::<(), Fault>(())).await?;
        tracing::info!(guest = vm.name, "Guest runs already");
        if vm.is_user() {
            return Ok(());
        }
    } else {
        let result = launch(ctx, vm, listen, &mut work).await;
        let media = work.settle(result).await?;
        media.leave_mounted();
        tracing::info!(guest = vm.name, logid = ctx.logid, "Guest is started");
        hooks::started(&*ctx.config()?, &vm.name).await;
    }
    if system_vm::is_told(vm) {
        // One that cannot be set up runs on: the server stops it. One that runs already may have been left
        // in the middle of it.
        system_vm::set_up(ctx, vm, Path::new(system_vm::PROGRAMS)).await?;
    }
    Ok(())
}

/// Whether the guest runs; another one of its name is an error.
async fn runs(ctx: &Ctx, vm: &VirtualMachineTo) -> Result<bool, Fault> {
    let Some(guest) = ctx.services.hypervisor.describe(&vm.name, Passwords::LeftOut).await? else {
        return Ok(false);
    };
    if guest.state.power() != PowerState::On {
        return Ok(false);
    }
    match (Uuid::try_parse(&vm.uuid), guest.description.uuid) {
        (Ok(wanted), Some(found)) if wanted != found => Err(Fault::new(format!(
            "Another guest with the name {} and the id {found} runs on this host: end it with `virsh destroy {}` if it \
             is not wanted",
            vm.name, vm.name
        ))),
        _ => Ok(true),
    }
}

/// Every step up to the running guest. What has to be kept until then goes with the return.
async fn launch(
    ctx: &Ctx,
    vm: &VirtualMachineTo,
    listen: Option<&str>,
    work: &mut Work,
) -> Result<Media, Fault> {
    let Definition { media, cards: _kept, xml } = Definition::make(ctx, vm, listen, work).await?;
    let undo = Action::DestroyGuest { guest: vm.name.clone() };
    work.before(undo.clone()).await?;
    match ctx.services.hypervisor.start_domain(&vm.name, &xml.0, DEADLINE.min(ctx.deadline)).await {
        Ok(()) => Ok(media),
        Err(error) => {
            if matches!(error, HypervisorError::AlreadyRunning { .. }) {
                // Somebody else has started it: it is not ours to end.
                work.forget(&undo).await?;
            }
            Err(refusal(vm, &error))
        }
    }
}

/// What libvirt says in words for whoever has to do something about it.
fn refusal(vm: &VirtualMachineTo, error: &HypervisorError) -> Fault {
    let said = error.fault().map(|fault| fault.message.to_lowercase()).unwrap_or_default();
    let reason = Fault::from_error(error);
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if any(&["cannot allocate memory", "cannot set up guest memory", "out of memory"]) {
        let mib = vm.max_ram / (1 << 20);
        return Fault::new(format!(
            "This host has not enough memory for guest {} with {mib} MiB: stop other guests, or start it on another \
             host ({reason})",
            vm.name
        ));
    }
    if any(&["already exists with uuid", "already defined with uuid", "is already active as"]) {
        return Fault::new(format!(
            "Another guest on this host has the name or the id of {}: look at `virsh list --all --uuid --name` \
             ({reason})",
            vm.name
        ));
    }
    if any(&["failed to get \"write\" lock", "failed to get shared \"write\" lock"]) {
        return Fault::new(format!(
            "A disk of guest {} is in use by another process, on this host or on another that shares the storage: stop \
             that first ({reason})",
            vm.name
        ));
    }
    reason
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
