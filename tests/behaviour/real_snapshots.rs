//! Snapshots of volumes and of whole guests on a real libvirt, with guests that run: nothing that a guest
//! writes is lost, and no guest is left on an overlay, whatever happens in between.

use crate::harness::script;
use crate::real::scene::{SNAPSHOT, Scene};
use crate::real::with_libvirt;
use serde_json::{Value, json};
use std::path::PathBuf;

const STORAGE: &str = "org.apache.cloudstack.storage.command";
const API: &str = "com.cloud.agent.api";

/// Stops each copy of an image half way, as long as a file exists.
struct Gate {
    directory: tempfile::TempDir,
    mount: String,
}

impl Gate {
    async fn new() -> Gate {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let at = path.display();
        std::fs::write(path.join("real"), "").unwrap();
        std::fs::write(path.join("hold"), "").unwrap();
        let body = format!(
            "if [ \"$1\" = convert ]; then : >{at}/begun; while [ -e {at}/hold ]; do sleep 0.05; done; [ ! -e {at}/fail ] || exit 1; fi\n\
             exec {at}/real \"$@\""
        );
        script(&path.join("qemu-img"), &body).await;
        let mount = format!(
            "q=$(readlink -f /usr/bin/qemu-img); mount --bind $q {at}/real; mount --bind {at}/qemu-img $q; exec \"$@\""
        );
        Gate { directory, mount }
    }

    /// What shows the agent, and nobody else, this `qemu-img`.
    fn launcher(&self) -> [&str; 6] {
        ["unshare", "--mount", "sh", "-c", &self.mount, "sh"]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn is_reached(&self, scene: &Scene<'_>) {
        scene.edge.until("a copy", async || self.path("begun").exists()).await;
    }

    fn open(&self) {
        std::fs::remove_file(self.path("hold")).unwrap();
    }

    /// The copies that wait fail.
    fn fail(&self) {
        std::fs::write(self.path("fail"), "").unwrap();
        self.open();
    }
}

#[test]
fn a_guest_that_runs_is_snapshot_and_goes_on_in_its_own_file() {
    with_libvirt(async |cage| {
        let scene = Scene::new(cage, &[]).await;
        scene.writes(7).await;
        let answer = scene.edge.good(&format!("{STORAGE}.CreateObjectCommand"), scene.take()).await;
        let path = answer["data"][SNAPSHOT]["path"].as_str().unwrap().to_owned();
        scene.is_as_before().await;
        scene.writes(9).await;
        let taken = scene.snapshots();
        assert_eq!(taken.len(), 1);
        scene.holds(&format!("snapshots/{}", taken[0]), 7).await;
        let listed = cage.virsh(&["snapshot-list", &scene.guest.name, "--name"]).await;
        assert_eq!(listed, "", "libvirt remembers it, which keeps the guest from migrating");

        let revert = format!("{STORAGE}.RevertSnapshotCommand");
        let fields = json!({"data": scene.snapshot(Some(&path)), "_executeInSequence": true});
        let details = scene.edge.refused(&revert, fields.clone(), "Answer").await;
        assert!(details.contains("which runs"), "{details}");
        scene.guest.virsh("destroy").await;
        scene.holds("data", 9).await;
        scene.edge.good(&revert, fields).await;
        scene.holds("data", 7).await;
        let delete = json!({"data": {SNAPSHOT: scene.snapshot(Some(&path))}});
        scene.edge.good(&format!("{STORAGE}.DeleteCommand"), delete).await;
        assert_eq!(scene.snapshots(), [""; 0]);
        scene.has_only_its_files();
        scene.edge.host.undisturbed();
    });
}

#[test]
fn what_is_written_while_the_snapshot_is_copied_stays() {
    with_libvirt(async |cage| {
        let gate = Gate::new().await;
        let scene = Scene::new(cage, &gate.launcher()).await;
        scene.writes(7).await;
        let answers = scene.edge.host.send(&format!("{STORAGE}.CreateObjectCommand"), scene.take());
        let (answers, ()) = tokio::join!(answers, async {
            gate.is_reached(&scene).await;
            assert_ne!(scene.source().await, "data");
            scene.writes(9).await;
            gate.open();
        });
        let answer: Value = answers.unwrap().elements[0].read().unwrap();
        assert_eq!(answer["result"], true, "{answer}");
        scene.is_as_before().await;
        scene.sees(9).await;
        scene.holds(&format!("snapshots/{}", scene.snapshots()[0]), 7).await;
        scene.guest.virsh("destroy").await;
        scene.holds("data", 9).await;
    });
}

#[test]
fn a_copy_that_fails_brings_the_guest_back() {
    with_libvirt(async |cage| {
        let gate = Gate::new().await;
        let scene = Scene::new(cage, &gate.launcher()).await;
        scene.writes(7).await;
        let answers = scene.edge.host.send(&format!("{STORAGE}.CreateObjectCommand"), scene.take());
        let (answers, ()) = tokio::join!(answers, async {
            gate.is_reached(&scene).await;
            scene.writes(9).await;
            gate.fail();
        });
        let answer: Value = answers.unwrap().elements[0].read().unwrap();
        assert_eq!(answer["result"], false, "{answer}");
        assert!(!answer["details"].as_str().unwrap().contains("blockcommit"), "{answer}");
        scene.is_as_before().await;
        scene.sees(9).await;
        assert_eq!(scene.snapshots(), [""; 0]);
    });
}

#[test]
fn a_guest_that_dies_during_its_snapshot_keeps_what_it_wrote() {
    with_libvirt(async |cage| {
        let gate = Gate::new().await;
        let scene = Scene::new(cage, &gate.launcher()).await;
        scene.writes(7).await;
        let answers = scene.edge.host.send(&format!("{STORAGE}.CreateObjectCommand"), scene.take());
        let (answers, ()) = tokio::join!(answers, async {
            gate.is_reached(&scene).await;
            scene.writes(9).await;
            scene.guest.crash().await;
            scene.edge.until("the guest is gone", async || !scene.edge.runs(&scene.guest.name).await).await;
            gate.open();
        });
        let answer: Value = answers.unwrap().elements[0].read().unwrap();
        assert_eq!(answer["result"], false, "{answer}");
        scene.has_only_its_files();
        scene.holds("data", 9).await;
        assert_eq!(scene.snapshots(), [""; 0]);
        scene.start().await;
        scene.sees(9).await;
        let answer = scene.edge.good(&format!("{STORAGE}.CreateObjectCommand"), scene.take()).await;
        assert!(answer["data"][SNAPSHOT]["physicalSize"].as_u64().unwrap() > 0);
        scene.is_as_before().await;
    });
}

#[test]
fn an_agent_that_is_killed_during_a_snapshot_brings_the_guest_back_when_it_starts() {
    with_libvirt(async |cage| {
        let gate = Gate::new().await;
        let mut scene = Scene::new(cage, &gate.launcher()).await;
        scene.writes(7).await;
        let answers = scene.edge.host.send(&format!("{STORAGE}.CreateObjectCommand"), scene.take());
        tokio::select! {
            answers = answers => panic!("answered: {answers:?}"),
            () = gate.is_reached(&scene) => {}
        }
        scene.writes(9).await;
        scene.edge.host.node.kill().await;
        gate.fail();
        assert_ne!(scene.source().await, "data");
        scene.edge.host.node.launched_by(cage.launcher());
        scene.edge.host.node.start();
        scene.edge.until("the guest is back", async || scene.source().await == "data").await;
        scene.edge.until("the overlay is gone", async || scene.edge.pool_files().len() == 3).await;
        scene.is_as_before().await;
        scene.sees(9).await;
        scene.edge.host.node.is_registered().await;
        scene.edge.good(&format!("{STORAGE}.CreateObjectCommand"), scene.take()).await;
        scene.is_as_before().await;
    });
}

#[test]
fn no_step_of_a_live_snapshot_may_fail_the_guest() {
    with_libvirt(async |cage| {
        // Steps of the journal: directory, file, overlay, commit.
        for at in 1..=4 {
            let fault = format!("AGENT_FAULT=error:{at}");
            let scene = Scene::new(cage, &["env", &fault]).await;
            scene.writes(7).await;
            let class = format!("{STORAGE}.CreateObjectCommand");
            scene.edge.refused(&class, scene.take(), "CreateObjectAnswer").await;
            scene.is_as_before().await;
            scene.sees(7).await;
            assert_eq!(scene.snapshots(), [""; 0], "{fault}");
            scene.edge.good(&class, scene.take()).await;
            scene.is_as_before().await;
        }
    });
}

#[test]
fn a_guest_goes_back_to_a_snapshot_with_its_memory() {
    with_libvirt(async |cage| {
        let scene = Scene::new(cage, &[]).await;
        let edge = &scene.edge;
        scene.writes(7).await;
        let fields = scene.whole("DiskAndMemory");
        for _ in 0..2 {
            let answer = edge.good(&format!("{API}.CreateVMSnapshotCommand"), fields.clone()).await;
            assert_eq!(
                (&answer["volumeTOs"], &answer["vmSnapshotTo"]),
                (&fields["volumeTOs"], &fields["target"])
            );
        }
        assert_eq!(scene.inside().await, 2);
        scene.writes(9).await;
        let revert = format!("{API}.RevertToVMSnapshotCommand");
        let answer = edge.good(&revert, fields.clone()).await;
        assert_eq!(answer["vmState"], "PowerOn");
        scene.sees(7).await;
        assert!(edge.runs(&scene.guest.name).await);

        // libvirt forgets it with the guest, until the server tells it again.
        scene.guest.virsh("destroy").await;
        scene.start().await;
        scene.writes(9).await;
        edge.refused(&revert, fields.clone(), "RevertToVMSnapshotAnswer").await;
        let mut restore = scene.whole("DiskAndMemory");
        restore["snapshots"] = json!([fields["target"]]);
        restore["snapshotAndParents"] = json!({});
        for _ in 0..2 {
            let answer = edge.good(&format!("{API}.RestoreVMSnapshotCommand"), restore.clone()).await;
            assert_eq!(answer["vmState"], "PowerOn");
        }
        edge.good(&revert, fields.clone()).await;
        scene.sees(7).await;
        let delete = format!("{API}.DeleteVMSnapshotCommand");
        for _ in 0..2 {
            edge.good(&delete, fields.clone()).await;
            assert_eq!(scene.inside().await, 0);
            assert!(cage.virsh(&["domstate", &scene.guest.name]).await.contains("running"));
        }

        edge.good(&format!("{API}.CreateVMSnapshotCommand"), fields.clone()).await;
        scene.writes(9).await;
        let answer = edge.good(&revert, scene.whole("Disk")).await;
        assert_eq!(answer["vmState"], "PowerOff");
        assert!(!edge.runs(&scene.guest.name).await);
        scene.holds("data", 7).await;
        edge.good(&delete, fields).await;
        assert_eq!(scene.inside().await, 0);
        scene.has_only_its_files();
    });
}

#[test]
fn a_guest_without_agent_is_not_frozen() {
    with_libvirt(async |cage| {
        let scene = Scene::new(cage, &[]).await;
        let fields = json!({"vmName": scene.guest.name, "option": "frozen"});
        let class = format!("{API}.FreezeThawVMCommand");
        let details = scene.edge.refused(&class, fields, "FreezeThawVMAnswer").await;
        assert!(details.contains("QEMU guest agent is not connected"), "{details}");
    });
}
