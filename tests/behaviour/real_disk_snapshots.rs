//! Snapshots of disks without memory on a real libvirt, with guests that run: their disks go on in new
//! files, which are merged again.

use crate::real::scene::Scene;
use crate::real::with_libvirt;
use serde_json::{Value, json};

#[test]
fn disks_go_on_over_their_snapshots_and_are_merged_again() {
    with_libvirt(async |cage| {
        let scene = Scene::new(cage, &[]).await;
        let (create, merge) = (class("Create"), class("Merge"));
        scene.writes(7).await;
        let mut freeze = scene.whole("Disk");
        freeze["vmState"] = json!("Running");
        let first = scene.edge.good(&create, freeze.clone()).await;
        let map = &first["mapVolumeToSnapshotSizeAndNewVolumePath"];
        let [root1, data1] =
            [&scene.root.uuid, "data"].map(|uuid| map[uuid]["u"].as_str().unwrap().to_owned());
        assert_eq!(map["data"]["t"], std::fs::metadata(scene.file("data")).unwrap().len());
        assert_eq!(scene.source().await, data1);
        scene.writes(9).await;
        scene.holds("data", 7).await;
        let listed = cage.virsh(&["snapshot-list", &scene.guest.name, "--name"]).await;
        assert_eq!(listed, "");
        // The server knows the disks by their new files now; asked for the old ones nothing is done.
        let details = scene.edge.refused(&create, freeze.clone(), "CreateDiskOnlyVmSnapshotAnswer").await;
        assert!(details.contains("has no disk on"), "{details}");
        freeze["volumeTOs"][0]["path"] = json!(root1);
        freeze["volumeTOs"][1]["path"] = json!(data1);
        let second = scene.edge.good(&create, freeze).await;
        let map = &second["mapVolumeToSnapshotSizeAndNewVolumePath"];
        let [root2, data2] =
            [&scene.root.uuid, "data"].map(|uuid| map[uuid]["u"].as_str().unwrap().to_owned());
        scene.writes(5).await;

        // The layer in the middle, then the one that is written to; each twice, as if the answer was lost.
        for _ in 0..2 {
            let trees = [
                scene.tree(&scene.root.uuid, scene.layer(&root1), &[]),
                scene.tree("data", scene.layer(&data1), &[&data2]),
            ];
            scene.edge.good(&merge, scene.merge(&trees)).await;
            assert_eq!(scene.source().await, data2);
            scene.sees(5).await;
            assert!(!scene.file(&root1).exists() && !scene.file(&data1).exists());
        }
        let trees = [
            scene.tree(&scene.root.uuid, scene.volume(&root2), &[]),
            scene.tree("data", scene.volume(&data2), &[]),
        ];
        for _ in 0..2 {
            scene.edge.good(&merge, scene.merge(&trees)).await;
            scene.is_as_before().await;
            scene.sees(5).await;
        }
        scene.edge.host.undisturbed();
    });
}

#[test]
fn no_step_of_a_snapshot_of_disks_may_fail_the_guest() {
    with_libvirt(async |cage| {
        // Steps of the journal: one overlay, the other, commit.
        for at in 1..=3 {
            let fault = format!("AGENT_FAULT=error:{at}");
            let scene = Scene::new(cage, &["env", &fault]).await;
            scene.writes(7).await;
            let mut freeze = scene.whole("Disk");
            freeze["vmState"] = json!("Running");
            scene.edge.refused(&class("Create"), freeze.clone(), "CreateDiskOnlyVmSnapshotAnswer").await;
            scene.is_as_before().await;
            scene.sees(7).await;
            freeze["target"]["quiescevm"] = json!(true);
            let details =
                scene.edge.refused(&class("Create"), freeze, "CreateDiskOnlyVmSnapshotAnswer").await;
            assert!(details.contains("QEMU guest agent is not connected"), "{details}");
            scene.is_as_before().await;
        }
    });
}

#[test]
fn an_agent_that_is_killed_while_it_merges_disks_can_do_it_again() {
    with_libvirt(async |cage| {
        // Steps of the journal: three of the snapshot; then before the merge, after it, commit.
        for at in 4..=6 {
            let fault = format!("AGENT_FAULT=kill:{at}");
            let mut scene = Scene::new(cage, &["env", &fault]).await;
            scene.writes(7).await;
            let mut freeze = scene.whole("Disk");
            freeze["vmState"] = json!("Running");
            let answer = scene.edge.good(&class("Create"), freeze).await;
            let new =
                answer["mapVolumeToSnapshotSizeAndNewVolumePath"]["data"]["u"].as_str().unwrap().to_owned();
            scene.writes(9).await;
            let fields = scene.merge(&[scene.tree("data", scene.volume(&new), &[])]);
            assert!(scene.edge.host.send(&class("Merge"), fields.clone()).await.is_err(), "{fault}");
            scene.edge.host.node.kill().await;
            scene.sees(9).await;
            scene.edge.host.node.launched_by(cage.launcher());
            scene.edge.host.node.start();
            scene.edge.host.node.is_registered().await;
            scene.edge.good(&class("Merge"), fields).await;
            assert_eq!(scene.source().await, "data");
            assert!(!scene.file(&new).exists(), "{fault}");
            scene.sees(9).await;
        }
    });
}

fn class(verb: &str) -> String {
    format!("com.cloud.agent.api.storage.{verb}DiskOnlyVmSnapshotCommand")
}

#[test]
fn a_bitmap_of_a_guest_that_runs_goes_once() {
    with_libvirt(async |cage| {
        let scene = Scene::new(cage, &[]).await;
        let monitor = async |command: Value| {
            cage.virsh(&["qemu-monitor-command", &scene.guest.name, &command.to_string()]).await
        };
        let blocks: Value = serde_json::from_str(&monitor(json!({"execute": "query-block"})).await).unwrap();
        let inserted = blocks["return"].as_array().unwrap().iter().map(|block| &block["inserted"]);
        let data = scene.file("data");
        let ours = inserted.clone().find(|image| image["file"] == data.to_str().unwrap()).unwrap();
        let bitmap = json!({"node": ours["node-name"], "name": "s"});
        monitor(json!({"execute": "block-dirty-bitmap-add", "arguments": bitmap})).await;
        let has = async || monitor(json!({"execute": "query-block"})).await.contains("\"name\":\"s\"");
        assert!(has().await);
        let fields =
            json!({"snapshotObjectTO": scene.snapshot(Some("snapshots/1/2/s")), "isVmRunning": true});
        for _ in 0..2 {
            scene.edge.good("com.cloud.agent.api.RemoveBitmapCommand", fields.clone()).await;
            assert!(!has().await);
        }
    });
}
