//! `com.cloud.agent.api.RestoreVMSnapshotCommand`: libvirt forgets the snapshots of a guest when it
//! stops; after its next start the server tells what there are, and libvirt learns of them again.

use super::vm_snapshots::{self, checked};
use crate::commands::to::{Echo, VmSnapshotTo, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Reply};
use crate::hypervisor::{Flavour, SnapshotOptions, xml};
use crate::wire::lenient;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreVmSnapshotCommand {
    #[serde(default, rename = "volumeTOs", deserialize_with = "lenient::or_default")]
    volumes: Vec<Echo<VolumeObject>>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    snapshots: Vec<VmSnapshotTo>,
    /// Parents by the id of the child.
    #[serde(default, deserialize_with = "lenient::or_default")]
    snapshot_and_parents: BTreeMap<String, Option<VmSnapshotTo>>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreVmSnapshotAnswer {
    #[serde(rename = "volumeTOs")]
    volumes: Vec<Echo<VolumeObject>>,
    vm_state: &'static str,
}

impl Command for RestoreVmSnapshotCommand {
    type Answer = RestoreVmSnapshotAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.RestoreVMSnapshotAnswer";

    fn claims(&self) -> Claims {
        vm_snapshots::claims(&self.vm_name, &self.volumes)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<RestoreVmSnapshotAnswer>, Fault> {
        let (guest, hypervisor) = (&self.vm_name, &ctx.services.hypervisor);
        // With passwords, since a guest that is reverted goes on with what is in here: never log it.
        let document = hypervisor.domain_xml(guest, Flavour::Secure).await?;
        let document = document.ok_or_else(|| {
            Fault::new(format!("Restore VM snapshot Failed due to can not find vm: {guest}"))
        })?;
        let known = hypervisor.snapshots(guest).await?;
        let mut known: BTreeSet<String> = known.into_iter().map(|snapshot| snapshot.name).collect();
        for snapshot in self.parents_first() {
            let name = checked(&snapshot.snapshot_name)?;
            if known.contains(name) {
                continue;
            }
            let parent = self.parent(snapshot).filter(|parent| known.contains(*parent));
            let text = xml::known_snapshot(name, parent, snapshot.create_time / 1000, &document)
                .map_err(|error| Fault::from_error(&error))?;
            let options =
                SnapshotOptions { redefine: true, current: snapshot.current, ..SnapshotOptions::default() };
            hypervisor.create_snapshot(guest, &text, options, ctx.deadline).await?;
            tracing::info!(guest, snapshot = name, "libvirt knows the snapshot of the guest again");
            known.insert(name.to_owned());
        }
        Ok(Reply::ok(RestoreVmSnapshotAnswer { volumes: self.volumes, vm_state: "PowerOn" }).details(""))
    }
}

impl RestoreVmSnapshotCommand {
    fn parent<'a>(&'a self, child: &'a VmSnapshotTo) -> Option<&'a str> {
        let told = self.snapshot_and_parents.get(&child.id.to_string()).and_then(Option::as_ref);
        told.or(child.parent.as_deref()).map(|parent| parent.snapshot_name.as_str())
    }

    /// libvirt takes a child only if it knows its parent. Those in a circle come last.
    fn parents_first(&self) -> Vec<&VmSnapshotTo> {
        let mut left: Vec<&VmSnapshotTo> = self.snapshots.iter().collect();
        let mut ordered = Vec::with_capacity(left.len());
        loop {
            let names: BTreeSet<&str> = left.iter().map(|snapshot| snapshot.snapshot_name.as_str()).collect();
            let waits =
                |snapshot: &&VmSnapshotTo| self.parent(snapshot).is_some_and(|parent| names.contains(parent));
            let (later, now): (Vec<_>, Vec<_>) = left.into_iter().partition(waits);
            let stuck = now.is_empty();
            ordered.extend(now);
            left = later;
            if stuck || left.is_empty() {
                ordered.extend(left);
                return ordered;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vm_snapshots::testing::{GUEST, command, known, start, target};
    use crate::commands::testing::Bench;
    use serde_json::{Value, json};

    async fn ask(bench: &mut Bench, fields: Value) -> Value {
        let (class, answer) = bench.answer("com.cloud.agent.api.RestoreVMSnapshotCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.RestoreVMSnapshotAnswer");
        answer
    }

    /// "c" is based on "b", that on "a"; told in the wrong order.
    fn restore(bench: &Bench) -> Value {
        let mut fields = command(bench, "DiskAndMemory");
        let snapshot = |name: &str, id: i64, current: bool| {
            let mut target = target(name, "DiskAndMemory");
            (target["id"], target["current"]) = (json!(id), json!(current));
            target
        };
        let [a, b, c] = [snapshot("a", 1, false), snapshot("b", 2, false), snapshot("c", 3, true)];
        fields["snapshots"] = json!([c, b, a]);
        fields["snapshotAndParents"] = json!({"2": a, "3": b, "1": null});
        fields
    }

    #[tokio::test]
    async fn libvirt_learns_of_all_snapshots_again() {
        let mut bench = Bench::with_pool().await;
        let fields = restore(&bench);
        let missing = ask(&mut bench, fields.clone()).await;
        assert!(missing["details"].as_str().unwrap().contains("can not find vm"), "{missing}");
        start(&bench).await;
        let expected = json!({"volumeTOs": fields["volumeTOs"], "vmState": "PowerOn", "result": true, "details": "",
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false});
        for _ in 0..2 {
            assert_eq!(ask(&mut bench, fields.clone()).await, expected);
            assert_eq!(known(&bench).await, ["a", "b", "c"]);
        }
        let all = bench.ctx.services.hypervisor.snapshots(GUEST).await.unwrap();
        let facts: Vec<_> = all.iter().map(|s| (s.parent.as_deref(), s.current, s.creation_time)).collect();
        let time = Some(1_795_370_733);
        assert_eq!(facts, [(None, false, time), (Some("a"), false, time), (Some("b"), true, time)]);
    }

    #[tokio::test]
    async fn circles_end_and_odd_names_are_refused() {
        let mut bench = Bench::with_pool().await;
        start(&bench).await;
        let mut fields = restore(&bench);
        fields["snapshotAndParents"]["1"] = fields["snapshots"][0].clone();
        assert_eq!(ask(&mut bench, fields.clone()).await["result"], true);
        fields["snapshots"] = json!([target("../x", "Disk")]);
        let answer = ask(&mut bench, fields).await;
        assert!(answer["details"].as_str().unwrap().contains("cannot name a snapshot"), "{answer}");
    }
}
