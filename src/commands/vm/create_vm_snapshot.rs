//! `com.cloud.agent.api.CreateVMSnapshotCommand`: a snapshot of a running guest with its memory, inside
//! its disk images. A failure leaves no part of one.

use super::vm_snapshots;
use crate::commands::to::{Echo, VmSnapshotTo, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Reply};
use crate::hypervisor::{DomainState, SnapshotOptions, xml};
use crate::journal::Action;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateVmSnapshotCommand {
    #[serde(default, rename = "volumeTOs", deserialize_with = "lenient::or_default")]
    volumes: Vec<Echo<VolumeObject>>,
    #[serde(default)]
    target: Option<Echo<VmSnapshotTo>>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateVmSnapshotAnswer {
    #[serde(rename = "volumeTOs")]
    volumes: Vec<Echo<VolumeObject>>,
    vm_snapshot_to: Option<Echo<VmSnapshotTo>>,
}

impl Command for CreateVmSnapshotCommand {
    type Answer = CreateVmSnapshotAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.CreateVMSnapshotAnswer";

    fn claims(&self) -> Claims {
        vm_snapshots::claims(&self.vm_name, &self.volumes)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<CreateVmSnapshotAnswer>, Fault> {
        let name = vm_snapshots::name(self.target.as_ref().map(|target| &target.value))?.to_owned();
        let guest = &self.vm_name;
        let failed = |why: &str| Fault::new(format!("Create VM Snapshot Failed due to {why}: {guest}"));
        match ctx.services.hypervisor.state(guest).await? {
            Some((DomainState::Running, _)) => {}
            Some(_) => return Err(failed("vm is not running")),
            None => return Err(failed("can not find vm")),
        }
        // The server repeats itself after a reconnect.
        if !vm_snapshots::is_known(&ctx, guest, &name).await? {
            take(&ctx, guest, &name).await?;
            tracing::info!(guest, snapshot = name, "Snapshot of the guest is taken");
        }
        let fields = CreateVmSnapshotAnswer { volumes: self.volumes, vm_snapshot_to: self.target };
        Ok(Reply::ok(fields).details(""))
    }
}

async fn take(ctx: &Ctx, guest: &str, name: &str) -> Result<(), Fault> {
    let document = xml::memory_snapshot(name);
    let mut work = ctx.services.journal.begin("take a snapshot of a guest", guest, &ctx.logid).await;
    let result = async {
        let (of, snapshot) = (guest.to_owned(), name.to_owned());
        work.before(Action::DeleteGuestSnapshot { guest: of, snapshot }).await?;
        let (hypervisor, options) = (&ctx.services.hypervisor, SnapshotOptions::default());
        Ok::<(), Fault>(hypervisor.create_snapshot(guest, &document, options, ctx.deadline).await?)
    };
    let result = result.await;
    work.settle(result).await
}

#[cfg(test)]
mod tests {
    use super::super::vm_snapshots::testing::{GUEST, SNAPSHOT, command, known, start};
    use crate::commands::testing::Bench;
    use crate::journal::faults::{Fault, Faults};
    use serde_json::{Value, json};

    async fn ask(bench: &mut Bench, fields: Value) -> Value {
        let (class, answer) = bench.answer("com.cloud.agent.api.CreateVMSnapshotCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.CreateVMSnapshotAnswer");
        answer
    }

    #[tokio::test]
    async fn a_snapshot_is_taken_once() {
        let mut bench = Bench::with_pool().await;
        start(&bench).await;
        let fields = command(&bench, "DiskAndMemory");
        for _ in 0..2 {
            let expected = json!({"volumeTOs": fields["volumeTOs"], "vmSnapshotTo": fields["target"], "result": true,
                "details": "", "contextMap": {}, "wait": 0, "bypassHostMaintenance": false});
            assert_eq!(ask(&mut bench, fields.clone()).await, expected);
            assert_eq!(known(&bench).await, [SNAPSHOT]);
        }
    }

    #[tokio::test]
    async fn an_interrupted_snapshot_is_none() {
        for at in 1..=2 {
            for fault in [Fault::Error { at }, Fault::Crash { at }] {
                let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
                start(&bench).await;
                let fields = command(&bench, "DiskAndMemory");
                assert_eq!(ask(&mut bench, fields.clone()).await["result"], false);
                bench.ctx.services.journal.recover().await;
                assert!(known(&bench).await.is_empty(), "{fault:?}");
                assert_eq!(ask(&mut bench, fields).await["result"], true);
            }
        }
    }

    #[tokio::test]
    async fn guests_that_do_not_run_and_odd_names_are_refused() {
        let mut bench = Bench::with_pool().await;
        let mut fields = command(&bench, "DiskAndMemory");
        let answer = ask(&mut bench, fields.clone()).await;
        assert_eq!(answer["details"], format!("Create VM Snapshot Failed due to can not find vm: {GUEST}"));
        start(&bench).await;
        bench.ctx.services.hypervisor.suspend(GUEST).await.unwrap();
        let answer = ask(&mut bench, fields.clone()).await;
        assert_eq!(answer["details"], format!("Create VM Snapshot Failed due to vm is not running: {GUEST}"));
        for name in ["", "../x", "a b", "<x/>"] {
            fields["target"]["snapshotName"] = json!(name);
            let answer = ask(&mut bench, fields.clone()).await;
            assert!(answer["details"].as_str().unwrap().contains("cannot name a snapshot"), "{answer}");
        }
        fields["target"] = Value::Null;
        assert_eq!(ask(&mut bench, fields).await["result"], false);
    }
}
