//! `com.cloud.agent.api.RevertToVMSnapshotCommand`: a guest goes back to a snapshot of it. Without memory
//! in the snapshot it is off afterwards. The server starts a stopped guest before it asks.

use super::vm_snapshots;
use crate::commands::to::{Echo, VmSnapshotTo, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Reply};
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevertToVmSnapshotCommand {
    #[serde(default, rename = "volumeTOs", deserialize_with = "lenient::or_default")]
    volumes: Vec<Echo<VolumeObject>>,
    #[serde(default)]
    target: Option<VmSnapshotTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevertToVmSnapshotAnswer {
    #[serde(rename = "volumeTOs")]
    volumes: Vec<Echo<VolumeObject>>,
    /// `PowerOn` or `PowerOff`.
    vm_state: &'static str,
}

impl Command for RevertToVmSnapshotCommand {
    type Answer = RevertToVmSnapshotAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.RevertToVMSnapshotAnswer";

    fn claims(&self) -> Claims {
        vm_snapshots::claims(&self.vm_name, &self.volumes)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<RevertToVmSnapshotAnswer>, Fault> {
        let name = vm_snapshots::name(self.target.as_ref())?;
        let (guest, hypervisor) = (&self.vm_name, &ctx.services.hypervisor);
        let Some((_, persistent)) = hypervisor.state(guest).await? else {
            let text = format!("Revert to VM snapshot Failed due to can not find vm: {guest}");
            return Err(Fault::new(text));
        };
        hypervisor.revert_to_snapshot(guest, name, ctx.deadline).await?;
        let disk_only = self.target.as_ref().is_some_and(VmSnapshotTo::is_disk_only);
        if disk_only {
            hypervisor.destroy(guest).await?;
            if persistent {
                hypervisor.undefine(guest).await?;
            }
        }
        tracing::info!(guest, snapshot = name, off = disk_only, "Guest is back at its snapshot");
        let vm_state = if disk_only { "PowerOff" } else { "PowerOn" };
        Ok(Reply::ok(RevertToVmSnapshotAnswer { volumes: self.volumes, vm_state }).details(""))
    }
}

#[cfg(test)]
mod tests {
    use super::super::vm_snapshots::testing::{GUEST, SNAPSHOT, command, start, take};
    use crate::commands::testing::Bench;
    use crate::hypervisor::DomainState;
    use serde_json::{Value, json};

    async fn ask(bench: &mut Bench, fields: Value) -> Value {
        let (class, answer) = bench.answer("com.cloud.agent.api.RevertToVMSnapshotCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.RevertToVMSnapshotAnswer");
        answer
    }

    #[tokio::test]
    async fn a_guest_goes_on_with_its_memory_or_is_off_without() {
        let mut bench = Bench::with_pool().await;
        let fields = command(&bench, "DiskAndMemory");
        let missing = ask(&mut bench, fields.clone()).await;
        assert_eq!(
            missing["details"],
            format!("Revert to VM snapshot Failed due to can not find vm: {GUEST}")
        );
        start(&bench).await;
        let unknown = ask(&mut bench, fields.clone()).await;
        assert!(unknown["details"].as_str().unwrap().contains(SNAPSHOT), "{unknown}");

        take(&bench).await;
        let hypervisor = bench.ctx.services.hypervisor.clone();
        hypervisor.suspend(GUEST).await.unwrap();
        let expected = json!({"volumeTOs": fields["volumeTOs"], "vmState": "PowerOn", "result": true, "details": "",
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false});
        assert_eq!(ask(&mut bench, fields).await, expected);
        assert_eq!(hypervisor.state(GUEST).await.unwrap(), Some((DomainState::Running, false)));

        let fields = command(&bench, "Disk");
        assert_eq!(ask(&mut bench, fields).await["vmState"], "PowerOff");
        assert_eq!(hypervisor.state(GUEST).await.unwrap(), None);
    }
}
