//! libvirtd dies in the middle of a command, on a real one with QEMU: the server has an answer at once, the
//! session goes on, and with the next libvirtd nothing is left and the same command succeeds.

use crate::harness::{LIMIT, script};
use crate::real::cage::{Cage, Kvm};
use crate::real::edge::{self, Edge};
use crate::real::traces::Traces;
use crate::real::whole::{encrypted, nothing_is_left, on_vxlan, stop};
use crate::real::{alone_with_libvirt, in_own_cage};
use cloudstack_agent::sim::Answers;
use cloudstack_agent::sim::edge::{GuestParts, Volume};
use serde_json::{Value, json};
use tokio::time::timeout;

const API: &str = "com.cloud.agent.api";
const MIB: u64 = 1 << 20;

async fn answering(cage: &Cage) {
    cage.start_libvirtd();
    timeout(LIMIT, cage.answers()).await.expect("libvirtd does not start");
}

/// Waits until something of a command is on record.
async fn begun(edge: &Edge<'_>) {
    let journal = edge.host.node.path("state/journal");
    edge.until("a step", async || std::fs::read_dir(&journal).unwrap().count() > 0).await;
}

/// Asserts that a command was refused in one line that names libvirt.
fn refused(answers: &Answers) {
    let answer: Value = answers.elements[0].read().unwrap();
    let details = answer["details"].as_str().unwrap_or_default();
    assert!(answer["result"] == false && details.contains("libvirt") && !details.contains('\n'), "{answer}");
}

/// The same, and the agent has noticed.
async fn back(edge: &Edge<'_>) {
    let mark = edge.host.mark();
    answering(edge.cage).await;
    edge.host.ping(mark, "with a report again", |ping| ping.report.is_some()).await;
}

/// Lets libvirt start guests, and nothing else, with a QEMU that waits for as long as a file exists, and
/// then gives up. Gives the path that this QEMU is mounted on.
async fn slow_guests(cage: &Cage) -> String {
    let qemu = cage.run(&["sh", "-c", "readlink -f $(command -v qemu-system-x86_64)"]).await.unwrap();
    let slow = cage.file("/run/slow-qemu");
    let body = "case \"$*\" in *guest=*) : >/run/guest-begun; while [ -e /run/slow ]; do sleep 0.1; done; exit 1;; esac\n\
                exec /run/qemu \"$@\"";
    script(&slow, body).await;
    std::fs::write(cage.file("/run/qemu"), "").unwrap();
    cage.run(&["mount", "--bind", &qemu, "/run/qemu"]).await.unwrap();
    cage.run(&["mount", "--bind", "/run/slow-qemu", &qemu]).await.unwrap();
    qemu
}

#[test]
fn a_start_in_the_middle_of_which_libvirt_dies_is_none() {
    in_own_cage(Kvm::Absent, async |cage| {
        let qemu = slow_guests(cage).await;
        answering(cage).await;
        let edge = Edge::up(cage).await;
        let name = edge::guest_name();
        let (_, vm) = encrypted(&edge, &name).await;
        let vm = on_vxlan(vm, 77);
        let before = Traces::of_host(&edge).await;
        let slow = cage.file("/run/slow");
        std::fs::write(&slow, "").unwrap();
        let fields = json!({"vm": vm, "hostIp": "127.0.0.1", "executeInSequence": false});
        let answers = edge.host.send(&format!("{API}.StartCommand"), fields);
        let begins = cage.file("/run/guest-begun");
        let (answers, ()) = tokio::join!(timeout(LIMIT, answers), async {
            edge.until("QEMU", async || begins.exists()).await;
            cage.kill_libvirtd();
        });
        refused(&answers.expect("no answer").unwrap());
        std::fs::remove_file(slow).unwrap();
        answering(cage).await;
        let all = async || Traces::of_host(&edge).await == before;
        edge.until("all of it is taken back", all).await;
        cage.run(&["umount", &qemu]).await.unwrap();
        let before = Traces::of_host(&edge).await;
        edge.start(&vm).await;
        assert!(edge.runs(&name).await);
        stop(&edge, &name).await;
        assert_eq!(Traces::of_host(&edge).await, before);
        edge.host.undisturbed();
    });
}

#[test]
fn a_stop_in_the_middle_of_which_libvirt_dies_is_done_by_the_next_one() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::with(cage, &[("stop.script.timeout", "5")]).await;
        let name = edge::guest_name();
        let (_, vm) = encrypted(&edge, &name).await;
        let vm = on_vxlan(vm, 78);
        let before = Traces::of_host(&edge).await;
        edge.start(&vm).await;
        // Nothing in it listens to the power button, so that it is waited for.
        let fields = json!({"vmName": name, "forceStop": false});
        let answers = edge.host.send(&format!("{API}.StopCommand"), fields);
        let (answers, ()) = tokio::join!(timeout(LIMIT, answers), async {
            begun(&edge).await;
            cage.kill_libvirtd();
        });
        refused(&answers.expect("no answer").unwrap());
        let mark = edge.host.mark();
        answering(cage).await;
        edge.host.ping(mark, "with the guest, unharmed", |ping| ping.state(&name) == Some("PowerOn")).await;
        stop(&edge, &name).await;
        nothing_is_left(&edge, &name).await;
        assert_eq!(Traces::of_host(&edge).await, before);
        edge.host.undisturbed();
    });
}

#[test]
fn a_disk_that_is_plugged_in_while_libvirt_dies_is_plugged_in_once() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let (zone, name) = (edge.zone(), edge::guest_name());
        let (root, data) = (Volume::root(8 * MIB), Volume::data(1, 8 * MIB));
        edge.asked(zone.create_volume(&root, &name)).await;
        edge.asked(zone.create_volume(&data, &name)).await;
        let before = Traces::of_host(&edge).await;
        let (uuid, volumes) = (edge::id(), std::slice::from_ref(&root));
        let parts =
            GuestParts { name: &name, uuid: &uuid, volumes, config_drive: false, nics: 0, memory_mib: 32 };
        edge.asked(zone.start(&zone.guest(parts))).await;
        // A QEMU that stands still answers nothing, so that libvirt is in the middle of it.
        let pid = cage.file(&format!("/run/libvirt/qemu/{name}.pid"));
        let pid = std::fs::read_to_string(pid).unwrap();
        let signal = async |name: &str| cage.run(&["kill", name, pid.trim()]).await.unwrap();
        signal("-STOP").await;
        let attach = zone.attach(&data, &name);
        let answers = edge.host.send(&attach.class, attach.fields.clone());
        let (answers, ()) = tokio::join!(timeout(LIMIT, answers), async {
            begun(&edge).await;
            cage.kill_libvirtd();
        });
        refused(&answers.expect("no answer").unwrap());
        signal("-CONT").await;
        back(&edge).await;
        edge.asked(attach).await;
        let disks = cage.virsh(&["domblklist", &name]).await;
        assert_eq!(disks.matches(&data.uuid).count(), 1, "{disks}");
        edge.asked(zone.stop(&name, true)).await;
        assert_eq!(Traces::of_host(&edge).await, before);
        edge.host.undisturbed();
    });
}
