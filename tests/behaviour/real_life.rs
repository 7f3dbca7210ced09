//! The whole life of a guest through the agent, on a real libvirtd with QEMU: from the template on a
//! web server to the last file.

use crate::real::cage::Kvm;
use crate::real::edge::{self, BRIDGE, Edge};
use crate::real::in_own_cage;
use crate::real::traces::Traces;
use cloudstack_agent::sim::edge::{GuestParts, Volume};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// What the host has of guests.
async fn traces(edge: &Edge<'_>) -> Traces {
    let directories = ["pool", "cache", "temporary", "state/journal"].map(|name| edge.host.node.path(name));
    Traces::of(edge.cage, &directories).await
}

/// Members of the first volume of an answer.
fn made(answer: &Value) -> &Value {
    let data = ["newData", "data"].iter().find_map(|member| answer.get(member)).unwrap();
    data.as_object().unwrap().values().next().unwrap()
}

async fn targets(edge: &Edge<'_>, guest: &str) -> BTreeMap<String, String> {
    let listed = edge.cage.virsh(&["domblklist", guest]).await;
    let pairs = listed.lines().filter_map(|line| line.split_once(char::is_whitespace));
    pairs.map(|(target, source)| (target.to_owned(), source.trim().to_owned())).collect()
}

#[test]
fn a_guest_is_deployed_used_and_destroyed_and_nothing_is_left() {
    in_own_cage(Kvm::Absent, async |cage| {
        cage.start_libvirtd();
        cage.answers().await;
        let edge = Edge::up(cage).await;
        let zone = edge.zone();
        let (guest, uuid) = (format!("i-2-7{}-VM", std::process::id()), edge::id());
        let before = traces(&edge).await;

        let template = edge.download_template().await;
        let mut root = Volume::root(64 * MIB);
        let answer = edge.asked(zone.clone_template(&template, &root, &guest)).await;
        assert_eq!(made(&answer)["path"], root.uuid.as_str(), "{answer}");
        let answer = edge.asked(zone.make_config_drive(&guest, &"Zmlyc3QgYm9v".repeat(8192))).await;
        assert_eq!(answer["location"], "HOST");
        let written = std::fs::read(edge.config_drive(&guest)).unwrap();
        assert_eq!((written.len(), &written[..9]), (9 * 8192, b"first boo".as_slice()));
        let vm = zone.guest(GuestParts {
            name: &guest,
            uuid: &uuid,
            volumes: std::slice::from_ref(&root),
            config_drive: true,
            nics: 1,
            memory_mib: 128,
        });
        edge.asked(zone.start(&vm)).await;
        let disks = targets(&edge, &guest).await;
        assert!(disks.values().any(|source| source.ends_with(&root.uuid)), "{disks:?}");
        assert!(disks.values().any(|source| source.ends_with(&format!("{guest}.iso"))), "{disks:?}");
        assert!(!edge.taps().await.is_empty(), "no interface of the guest is on {BRIDGE}");
        let answer = edge.asked(zone.statistics(std::slice::from_ref(&guest))).await;
        assert_eq!(answer["vmStatsMap"][&guest]["numCPUs"], 1, "{answer}");

        // A disk more, larger while it is used.
        let mut data = Volume::data(1, 16 * MIB);
        edge.asked(zone.create_volume(&data, &guest)).await;
        edge.asked(zone.attach(&data, &guest)).await;
        assert!(targets(&edge, &guest).await.values().any(|source| source.ends_with(&data.uuid)));
        let answer = edge.asked(zone.resize(&data, 32 * MIB, &guest)).await;
        assert_eq!(answer["newSize"], 32 * MIB);
        data.size = 32 * MIB;

        // Both kinds of snapshot, while it runs.
        let answer = edge.asked(zone.take_snapshot(&root, &guest, "first")).await;
        let path = made(&answer)["path"].as_str().unwrap().to_owned();
        assert!(Path::new(&path).exists(), "{answer}");
        let sources = targets(&edge, &guest).await;
        assert!(sources.values().any(|source| source.ends_with(&root.uuid)), "not pivoted back: {sources:?}");
        edge.asked(zone.delete_snapshot(&root, &guest, "first", &path)).await;
        assert!(!Path::new(&path).exists());
        let both = [root.clone(), data.clone()];
        let name = format!("{guest}_VS_1");
        for command in ["CreateVMSnapshotCommand", "RevertToVMSnapshotCommand", "DeleteVMSnapshotCommand"] {
            edge.asked(zone.guest_snapshot(command, &both, &guest, &uuid, &name)).await;
        }
        assert!(edge.runs(&guest).await);

        // Its boot sector is empty, so that it neither gives a disk up nor hears the power button.
        edge.asked(zone.stop(&guest, true)).await;
        assert!(!edge.runs(&guest).await);
        let answer = edge.asked(zone.resize(&root, 96 * MIB, "")).await;
        assert_eq!(answer["newSize"], 96 * MIB);
        root.size = 96 * MIB;
        let vm = zone.guest(GuestParts {
            name: &guest,
            uuid: &uuid,
            volumes: &[root.clone(), data.clone()],
            config_drive: true,
            nics: 1,
            memory_mib: 128,
        });
        edge.asked(zone.start(&vm)).await;
        edge.asked(zone.start(&vm)).await;
        edge.asked(zone.reboot(&guest)).await;
        edge.asked(zone.stop(&guest, true)).await;
        edge.asked(zone.stop(&guest, true)).await;

        for volume in [&data, &root] {
            edge.asked(zone.delete_volume(volume, &guest)).await;
        }
        edge.asked(zone.drop_config_drive(&guest)).await;
        edge.asked(zone.evict(&template)).await;
        assert_eq!(traces(&edge).await, before);
        edge.host.undisturbed();
    });
}
