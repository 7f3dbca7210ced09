//! `com.cloud.agent.api.DeleteVMSnapshotCommand`: deletes a snapshot of a guest, from its images if the
//! guest does not run. One that is gone already is a success.

use super::vm_snapshots;
use crate::commands::to::{Echo, VmSnapshotTo, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Reply, place};
use crate::hypervisor::{Deletion, DomainState, Existence};
use crate::journal::Action;
use crate::storage::qemu_img::ImageFormat;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteVmSnapshotCommand {
    #[serde(default, rename = "volumeTOs", deserialize_with = "lenient::or_default")]
    volumes: Vec<Echo<VolumeObject>>,
    #[serde(default)]
    target: Option<VmSnapshotTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
}

#[derive(Debug, serde::Serialize)]
pub struct DeleteVmSnapshotAnswer {
    #[serde(rename = "volumeTOs")]
    volumes: Vec<Echo<VolumeObject>>,
}

impl Command for DeleteVmSnapshotCommand {
    type Answer = DeleteVmSnapshotAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.DeleteVMSnapshotAnswer";

    fn claims(&self) -> Claims {
        vm_snapshots::claims(&self.vm_name, &self.volumes)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<DeleteVmSnapshotAnswer>, Fault> {
        let name = vm_snapshots::name(self.target.as_ref())?;
        let guest = &self.vm_name;
        let state = ctx.services.hypervisor.state(guest).await?;
        let stopped = matches!(state, None | Some((DomainState::Shutoff, _)));
        let known = match state {
            None => Existence::Absent,
            Some((DomainState::Running, _)) => delete_paused(&ctx, guest, name).await?,
            Some(_) => delete(&ctx, guest, name).await?,
        };
        match known {
            Existence::Done => {}
            // libvirt forgets with the guest; the images do not.
            Existence::Absent if stopped => delete_in_images(&ctx, &self.volumes, name).await?,
            Existence::Absent => {
                tracing::warn!(
                    guest,
                    snapshot = name,
                    "libvirt does not know this snapshot of a guest that runs: if the images have it, it stays there"
                );
            }
        }
        tracing::info!(guest, snapshot = name, "Snapshot of the guest is deleted");
        Ok(Reply::ok(DeleteVmSnapshotAnswer { volumes: self.volumes }).details(""))
    }
}

async fn delete(ctx: &Ctx, guest: &str, name: &str) -> Result<Existence, Fault> {
    let hypervisor = &ctx.services.hypervisor;
    Ok(hypervisor.delete_snapshot(guest, name, Deletion::Everything, ctx.deadline).await?)
}

/// The guest must not write while its images are changed.
async fn delete_paused(ctx: &Ctx, guest: &str, name: &str) -> Result<Existence, Fault> {
    let mut work = ctx.services.journal.begin("delete a snapshot of a guest", guest, &ctx.logid).await;
    let result = async {
        work.before(Action::ResumeGuest { guest: guest.to_owned() }).await?;
        ctx.services.hypervisor.suspend(guest).await?;
        let deleted = delete(ctx, guest, name).await?;
        ctx.services.hypervisor.resume(guest).await?;
        Ok::<Existence, Fault>(deleted)
    };
    let result = result.await;
    work.settle(result).await
}

/// A snapshot of a guest is in all of its images, not in that of the root disk alone.
async fn delete_in_images(ctx: &Ctx, volumes: &[Echo<VolumeObject>], name: &str) -> Result<(), Fault> {
    let storage = &ctx.services.storage;
    for Echo { value: volume, .. } in volumes {
        let path = place::volume_file(ctx, volume).await?;
        if !storage.disks.exists(&path).await? {
            continue;
        }
        let format = volume.format.as_deref().and_then(ImageFormat::named);
        let facts = storage.volumes.inspect(&path, format).await?;
        if facts.format == ImageFormat::Qcow2 && facts.has_snapshots {
            storage.images.delete_snapshot(&path, name, ctx.deadline).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::vm_snapshots::testing::{GUEST, SNAPSHOT, command, known, start, take};
    use crate::commands::testing::Bench;
    use crate::hypervisor::DomainState;
    use crate::journal::faults::{Fault, Faults};
    use crate::storage::testing::{qemu_img, run};
    use serde_json::{Value, json};

    async fn ask(bench: &mut Bench, fields: Value) -> Value {
        let (class, answer) = bench.answer("com.cloud.agent.api.DeleteVMSnapshotCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.DeleteVMSnapshotAnswer");
        answer
    }

    async fn runs(bench: &Bench) -> bool {
        let state = bench.ctx.services.hypervisor.state(GUEST).await.unwrap();
        state.is_some_and(|(state, _)| state == DomainState::Running)
    }

    #[tokio::test]
    async fn a_snapshot_of_a_guest_that_runs_goes_and_the_guest_goes_on() {
        let mut bench = Bench::with_pool().await;
        start(&bench).await;
        take(&bench).await;
        let fields = command(&bench, "DiskAndMemory");
        for _ in 0..2 {
            let expected = json!({"volumeTOs": fields["volumeTOs"], "result": true, "details": "", "contextMap": {},
                "wait": 0, "bypassHostMaintenance": false});
            assert_eq!(ask(&mut bench, fields.clone()).await, expected);
            assert!(known(&bench).await.is_empty() && runs(&bench).await);
        }
    }

    #[tokio::test]
    async fn an_interruption_leaves_no_guest_paused() {
        for at in 1..=2 {
            for fault in [Fault::Error { at }, Fault::Crash { at }] {
                let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
                start(&bench).await;
                take(&bench).await;
                let fields = command(&bench, "DiskAndMemory");
                assert_eq!(ask(&mut bench, fields.clone()).await["result"], false);
                bench.ctx.services.journal.recover().await;
                assert!(runs(&bench).await, "{fault:?}");
                assert_eq!(ask(&mut bench, fields).await["result"], true);
                assert!(known(&bench).await.is_empty() && runs(&bench).await);
            }
        }
    }

    #[tokio::test]
    async fn a_guest_that_is_paused_stays_so() {
        let mut bench = Bench::with_pool().await;
        start(&bench).await;
        take(&bench).await;
        bench.ctx.services.hypervisor.suspend(GUEST).await.unwrap();
        let fields = command(&bench, "DiskAndMemory");
        assert_eq!(ask(&mut bench, fields).await["result"], true);
        assert!(known(&bench).await.is_empty() && !runs(&bench).await);
    }

    #[tokio::test]
    async fn without_the_guest_it_goes_from_all_images() {
        let Some(images) = qemu_img() else { return };
        let mut bench = Bench::with_pool().await;
        let mut fields = command(&bench, "DiskAndMemory");
        for (name, device) in [("w", "DATADISK"), ("gone", "DATADISK")] {
            let mut volume = fields["volumeTOs"][0].clone();
            volume["uuid"] = json!(name);
            volume["path"] = json!(name);
            volume["volumeType"] = json!(device);
            fields["volumeTOs"].as_array_mut().unwrap().push(volume);
        }
        let paths = ["v", "w"].map(|name| bench.pool_dir().join(name));
        for path in &paths {
            let path = path.to_str().unwrap();
            run(&["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"]).await.unwrap();
            for name in [SNAPSHOT, "another"] {
                run(&["qemu-img", "snapshot", "-q", "-c", name, path]).await.unwrap();
            }
        }
        for _ in 0..2 {
            assert_eq!(ask(&mut bench, fields.clone()).await["result"], true);
            for path in &paths {
                let left = images.snapshots(path).await.unwrap();
                assert_eq!(left.iter().map(|snapshot| &snapshot.name).collect::<Vec<_>>(), ["another"]);
            }
        }
    }
}
