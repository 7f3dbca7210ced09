//! `com.cloud.agent.api.ScaleVmCommand`: gives a running guest more memory, processors and weight.
//!
//! What the guest has already stays, so that a repeated command goes on where the first one failed; only
//! the guest could give memory back, so nothing is undone. What cannot succeed is found out before
//! anything is changed.

use crate::commands::to::VirtualMachineTo;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::guest::{cpu, devices};
use crate::hypervisor::xml::DomainDescription;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleVmCommand {
    #[serde(default)]
    vm: Option<VirtualMachineTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
}

/// How a guest is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    memory_kib: u64,
    vcpus: u32,
    shares: u64,
}

impl Size {
    fn of(vm: &VirtualMachineTo, ctx: &Ctx) -> Result<Size, Fault> {
        let memory_kib = u64::try_from(vm.max_ram).ok().map(|bytes| bytes / 1024).filter(|kib| *kib > 0);
        let vcpus = u32::try_from(vm.cpus).ok().filter(|vcpus| *vcpus > 0);
        let (Some(memory_kib), Some(vcpus)) = (memory_kib, vcpus) else {
            let text = format!("{} vCPUs and {} bytes of memory are no size of a guest", vm.cpus, vm.max_ram);
            return Err(Fault::new(text));
        };
        let mhz = vm.min_speed.or(vm.speed).and_then(|mhz| u64::try_from(mhz).ok()).unwrap_or(0);
        let capacity = ctx.services.identity.borrow().as_ref().map_or(0, |known| known.cpu_capacity_mhz);
        Ok(Size { memory_kib, vcpus, shares: cpu::shares(vcpus, mhz, capacity) })
    }

    /// Fails if the guest was not started so that it can grow that far.
    fn fits(self, guest: &DomainDescription) -> Result<(), Fault> {
        let restart = "stop it and start it with its new service offering";
        if self.memory_kib > guest.max_memory_kib {
            let Some(limit) = guest.memory_limit_kib.filter(|_| guest.memory_slots.is_some_and(|n| n > 0))
            else {
                return Err(Fault::new(format!(
                    "the VM is not prepared for dynamic scaling, its memory cannot grow while it runs: {restart}"
                )));
            };
            if self.memory_kib > limit {
                let wanted = self.memory_kib;
                return Err(Fault::new(format!(
                    "it can grow to {limit} KiB of memory, not to {wanted} KiB, while it runs: {restart}"
                )));
            }
        }
        if self.vcpus > guest.max_vcpus {
            let (most, wanted) = (guest.max_vcpus, self.vcpus);
            return Err(Fault::new(format!(
                "it can have {most} vCPUs at most, not {wanted}, while it runs: {restart}"
            )));
        }
        Ok(())
    }
}

async fn scale(ctx: &Ctx, name: &str, size: Size) -> Result<(), Fault> {
    let hypervisor = &ctx.services.hypervisor;
    let guest = hypervisor.running(name).await?;
    size.fits(&guest)?;
    let missing = size.memory_kib.saturating_sub(guest.max_memory_kib);
    if missing > 0 {
        hypervisor.attach_device(name, &devices::memory_module(missing).to_string()).await?;
        tracing::info!(guest = name, kib = missing, "Memory is plugged in");
    }
    if size.vcpus > hypervisor.vcpus(name).await? {
        hypervisor.set_vcpus(name, size.vcpus).await?;
        tracing::info!(guest = name, vcpus = size.vcpus, "Processors are plugged in");
    }
    if hypervisor.cpu_shares(name).await?.is_some_and(|shares| size.shares > shares) {
        hypervisor.set_cpu_shares(name, size.shares).await?;
        tracing::info!(guest = name, shares = size.shares, "CPU shares are raised");
    }
    Ok(())
}

impl Command for ScaleVmCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.ScaleVmAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.name().to_owned()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let vm = self
            .vm
            .as_ref()
            .ok_or_else(|| Fault::new("The command does not say how large the VM is to be"))?;
        let name = self.name();
        let scaled = match Size::of(vm, &ctx) {
            Ok(size) => scale(&ctx, name, size).await,
            Err(fault) => Err(fault),
        };
        match scaled {
            Ok(()) => Ok(Reply::done().details(format!("Successfully scaled VM {name}"))),
            Err(fault) => Err(Fault::new(format!("Unable to scale VM {name} due to [{fault}]"))),
        }
    }
}

impl ScaleVmCommand {
    fn name(&self) -> &str {
        self.vm.as_ref().map(|vm| vm.name.as_str()).filter(|name| !name.is_empty()).unwrap_or(&self.vm_name)
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::{Value, json};

    const NODE: &str = r#"<node>
      <domain type='test'><name>i-2-3-VM</name><memory>524288</memory><maxMemory slots='16' unit='KiB'>1048576</maxMemory>
        <vcpu current='1'>2</vcpu><os><type>hvm</type></os><cpu><numa><cell id='0' cpus='0-1' memory='524288'/></numa></cpu></domain>
      <domain type='test'><name>i-2-4-VM</name><memory>524288</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>
    </node>"#;

    async fn scale(bench: &mut Bench, name: &str, cpus: i64, mib: i64) -> Value {
        let vm = json!({"name": name, "type": "User", "cpus": cpus, "minSpeed": 500, "maxSpeed": 500, "minRam": mib << 20,
            "maxRam": mib << 20, "params": {}, "disks": [], "nics": []});
        let fields =
            json!({"vm": vm, "vmName": name, "cpus": cpus, "minRam": mib << 20, "maxRam": mib << 20});
        let (class, fields) = bench.answer("com.cloud.agent.api.ScaleVmCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.ScaleVmAnswer");
        fields
    }

    #[tokio::test]
    async fn processors_are_plugged_in_once() {
        let mut bench = Bench::with_node(NODE).await;
        for cpus in [2, 2, 1] {
            let answer = scale(&mut bench, "i-2-3-VM", cpus, 512).await;
            assert_eq!(
                (&answer["result"], &answer["details"]),
                (&json!(true), &json!("Successfully scaled VM i-2-3-VM"))
            );
            assert_eq!(bench.ctx.services.hypervisor.vcpus("i-2-3-VM").await.unwrap(), 2);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_before_anything_is_changed() {
        let mut bench = Bench::with_node(NODE).await;
        for (name, cpus, mib, words) in [
            ("i-2-9-VM", 1, 512, "No guest named i-2-9-VM"),
            ("i-2-4-VM", 1, 1024, "not prepared for dynamic scaling"),
            ("i-2-4-VM", 2, 512, "can have 1 vCPUs at most, not 2"),
            ("i-2-3-VM", 2, 2048, "can grow to 1048576 KiB of memory, not to 2097152 KiB"),
            ("i-2-3-VM", 3, 1024, "can have 2 vCPUs at most, not 3"),
            ("i-2-3-VM", 0, 1024, "are no size of a guest"),
            ("i-2-3-VM", 1, -1, "are no size of a guest"),
            // libvirt's test driver cannot plug anything but processors.
            ("i-2-3-VM", 2, 1024, "cannot do attaching the device"),
        ] {
            let answer = scale(&mut bench, name, cpus, mib).await;
            assert_eq!(answer["result"], false, "{words}");
            let details = answer["details"].as_str().unwrap();
            assert!(
                details.starts_with(&format!("Unable to scale VM {name} due to ["))
                    && details.contains(words),
                "{details}"
            );
        }
        assert_eq!(bench.ctx.services.hypervisor.vcpus("i-2-3-VM").await.unwrap(), 1);
    }
}
