//! What a system VM needs after its start: its boot arguments, through the guest agent, and over ssh the
//! programs of this host's version. Mirrors `patch.sh` and the end of `LibvirtStartCommandWrapper`.
//!
//! ```text
//!   guest agent answers ─▶ boot arguments ─▶ sshd answers ─▶ programs copied ─▶ patched (proxies, storage)
//! ```

use crate::commands::network::router::Router;
use crate::commands::to::VirtualMachineTo;
use crate::commands::{Ctx, Fault};
use crate::hypervisor::{HypervisorError, Object};
use crate::wire::base64;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Where the package cloudstack-common has what is copied.
pub(in crate::commands) const PROGRAMS: &str = "/usr/share/cloudstack-common/vms";
const FILES: [&str; 3] = ["agent.zip", "cloud-scripts.tgz", "patch-sysvms.sh"];
const DIRECTORY: &str = "/var/cache/cloud/";
/// Where a system VM waits for its boot arguments.
const BOOT_ARGUMENTS: &str = "/var/cache/cloud/cmdline";
/// There as soon as the programs are unpacked.
const PATCHED: [&str; 3] = ["ls", "/opt/cloud/bin/keystore-setup", "/opt/cloud/bin/keystore-cert-import"];
/// Of sshd in system VMs.
const PORT: u16 = 3922;

/// For all of it: another command for this guest waits so long.
const TOTAL: Duration = Duration::from_secs(1500);
const AGENT: Duration = Duration::from_secs(300);
const SSH: Duration = Duration::from_secs(600);
const COPY: Duration = Duration::from_secs(300);
const COPIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// One answer of the guest agent or of sshd.
const ANSWER: Duration = Duration::from_secs(10);

/// Whether the guest is told boot arguments: system VMs, and nodes of Kubernetes clusters and of shared
/// file systems, which are users' guests by their type.
pub(in crate::commands) fn is_told(vm: &VirtualMachineTo) -> bool {
    let arguments = vm.boot_args.expose();
    !vm.is_user() || arguments.contains("cksnode") || arguments.contains("sharedfsvm")
}

/// Gives the guest its boot arguments, and a system VM its programs from the directory `programs`. Users'
/// guests are not waited for any longer.
pub(in crate::commands) async fn set_up(
    ctx: &Ctx,
    vm: &VirtualMachineTo,
    programs: &Path,
) -> Result<(), Fault> {
    let end = Instant::now() + TOTAL.min(ctx.deadline.saturating_sub(PAUSE));
    let told = tell(ctx, vm, end.min(Instant::now() + AGENT));
    if vm.is_user() {
        // Not a failure of the start: it may have no agent at all.
        arrived(vm, told.await);
        return Ok(());
    }
    let failed = |reason: String| {
        Fault::new(format!(
            "Failed to scp files to system VM. Patching of systemVM failed due to: {reason} (guest {})",
            vm.name
        ))
    };
    let control = vm.nics.iter().find(|nic| nic.traffic.eq_ignore_ascii_case("Control"));
    let Some(address) = control.and_then(|nic| nic.ip.as_deref()) else {
        return Err(failed("it has no address on the control network".to_owned()));
    };
    let router = Router::at(ctx, address).map_err(|fault| failed(fault.to_string()))?;
    let files = files(programs).map_err(failed)?;
    arrived(vm, told.await);
    answers(ctx, vm, address, end.min(Instant::now() + SSH)).await.map_err(failed)?;
    copy(&router, &files).await.map_err(|fault| failed(fault.to_string()))?;
    if vm.name.starts_with("s-") || vm.name.starts_with("v-") {
        patched(ctx, vm, &router, end.min(Instant::now() + SSH)).await?;
    }
    tracing::info!(guest = vm.name, "System VM is set up");
    Ok(())
}

fn arrived(vm: &VirtualMachineTo, told: Result<(), Fault>) {
    if let Err(fault) = told {
        tracing::warn!(guest = vm.name, "Boot arguments did not arrive: {fault}");
    }
}

/// Writes the boot arguments into the guest as soon as its agent answers.
async fn tell(ctx: &Ctx, vm: &VirtualMachineTo, end: Instant) -> Result<(), Fault> {
    let hypervisor = &ctx.services.hypervisor;
    let ask = async |command: Value| hypervisor.agent_command(&vm.name, &command, ANSWER).await;
    loop {
        match ask(json!({"execute": "guest-ping"})).await {
            Ok(_) => break,
            Err(error) if error.is_not_found(Object::Guest) || Instant::now() >= end => {
                return Err(error.into());
            }
            // Nobody answers a libvirt that is away; a driver without agents never will.
            Err(error @ HypervisorError::Unsupported { .. }) => return Err(error.into()),
            Err(_) => sleep(PAUSE).await,
        }
    }
    let open = json!({"execute": "guest-file-open", "arguments": {"path": BOOT_ARGUMENTS, "mode": "w+"}});
    let handle = ask(open).await?;
    let data = base64::encode(vm.boot_args.expose().as_bytes());
    let write = json!({"execute": "guest-file-write", "arguments": {"handle": handle, "buf-b64": data}});
    let written = ask(write).await;
    // Closed whatever came of it; the file counts when it is closed.
    let closed = ask(json!({"execute": "guest-file-close", "arguments": {"handle": handle}})).await;
    let count = written?.get("count").and_then(Value::as_u64).unwrap_or_default();
    closed?;
    let length = vm.boot_args.expose().len();
    if u64::try_from(length).is_ok_and(|length| length == count) {
        return Ok(());
    }
    Err(Fault::new(format!("{count} of {length} bytes were written")))
}

/// What is copied, all of it there.
fn files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let files: Vec<PathBuf> = FILES.iter().map(|name| directory.join(name)).collect();
    match files.iter().find(|file| !file.is_file()) {
        Some(missing) => {
            Err(format!("{} is missing on this host: install cloudstack-common", missing.display()))
        }
        None => Ok(files),
    }
}

/// Returns when sshd in the system VM takes connections.
async fn answers(ctx: &Ctx, vm: &VirtualMachineTo, address: &str, end: Instant) -> Result<(), String> {
    loop {
        if let Ok(Ok(_)) = timeout(ANSWER, TcpStream::connect((address, PORT))).await {
            return Ok(());
        }
        still_there(ctx, vm).await.map_err(|fault| fault.to_string())?;
        if Instant::now() >= end {
            return Err(format!("nobody answers at {address} port {PORT}: look at its console"));
        }
        sleep(PAUSE).await;
    }
}

async fn still_there(ctx: &Ctx, vm: &VirtualMachineTo) -> Result<(), Fault> {
    match ctx.services.hypervisor.state(&vm.name).await {
        Ok(None) => Err(Fault::new(format!("Guest {} has ended meanwhile", vm.name))),
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}

async fn copy(router: &Router, files: &[PathBuf]) -> Result<(), Fault> {
    let mut tries = 1;
    while let Err(fault) = router.copy(files, DIRECTORY, COPY).await {
        if tries == COPIES {
            return Err(fault);
        }
        tries += 1;
        sleep(PAUSE).await;
    }
    let there: Vec<String> = FILES.iter().map(|name| format!("{DIRECTORY}{name}")).collect();
    let words: Vec<&str> = ["chmod", "0755"].into_iter().chain(there.iter().map(String::as_str)).collect();
    router.run(&words, ANSWER).await.map(drop)
}

/// Returns when the programs are unpacked.
async fn patched(ctx: &Ctx, vm: &VirtualMachineTo, router: &Router, end: Instant) -> Result<(), Fault> {
    loop {
        if router.run(&PATCHED, ANSWER).await.is_ok_and(|output| output.success()) {
            return Ok(());
        }
        still_there(ctx, vm).await?;
        if Instant::now() >= end {
            return Err(Fault::new(format!(
                "Failed to patch systemVM {}: /opt/cloud/bin/keystore-setup does not appear in it",
                vm.name
            )));
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;

    fn vm(kind: &str, name: &str, address: &str) -> VirtualMachineTo {
        let json = json!({"name": name, "type": kind, "bootArgs": " template=domP canary", "nics": [
            {"deviceId": 0, "type": "Public", "ip": "10.0.0.1"}, {"deviceId": 1, "type": "Control", "ip": address}]});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn who_is_told_boot_arguments() {
        for (kind, arguments, expected) in [
            ("User", "", false),
            ("User", "x", false),
            ("User", "type=cksnode", true),
            ("User", "sharedfsvm", true),
            ("DomainRouter", "", true),
        ] {
            let vm = serde_json::from_value(json!({"type": kind, "bootArgs": arguments})).unwrap();
            assert_eq!(is_told(&vm), expected, "{kind} {arguments}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let bench = Bench::new().await;
        let programs = tempfile::tempdir().unwrap();
        let refused = async |vm: VirtualMachineTo| {
            set_up(&bench.ctx, &vm, programs.path()).await.unwrap_err().text().to_owned()
        };
        let details = refused(vm("ConsoleProxy", "test", "127.0.0.1")).await;
        assert!(
            details.starts_with("Failed to scp files to system VM") && details.contains("agent.zip"),
            "{details}"
        );
        for name in FILES {
            std::fs::write(programs.path().join(name), "").unwrap();
        }
        let details = refused(vm("ConsoleProxy", "test", "-oProxyCommand=x")).await;
        assert!(details.contains("is not an IP address"), "{details}");
        let details = refused(vm("ConsoleProxy", "v-1-VM", "127.0.0.1")).await;
        assert!(details.contains("Guest v-1-VM has ended meanwhile"), "{details}");
        assert!(!details.contains("canary"));
        let mut none = vm("DomainRouter", "test", "");
        none.nics.pop();
        assert!(refused(none).await.contains("no address on the control network"));
        set_up(&bench.ctx, &vm("User", "test", ""), programs.path()).await.unwrap();
    }
}
