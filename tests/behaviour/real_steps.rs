//! Each step of a guest's start, of its end, and of a new volume fails once, on a real libvirtd with QEMU:
//! the host is in the old state or in the new one, and the same command then succeeds.

use crate::real::alone_with_libvirt;
use crate::real::edge::{Edge, guest_name};
use crate::real::traces::Traces;
use crate::real::whole::{doomed, encrypted, has_device, nothing_is_left, on_vxlan, secret_of, stop};
use cloudstack_agent::sim::edge::Volume;
use serde_json::json;

const API: &str = "com.cloud.agent.api";
const MIB: u64 = 1 << 20;

#[test]
fn a_start_that_fails_at_any_step_is_none() {
    alone_with_libvirt(async |cage| {
        let mut edge = Edge::up(cage).await;
        let name = guest_name();
        edge.make_config_drive(&name, "Zm9vYmFy").await;
        let (_, vm) = encrypted(&edge, &name).await;
        let vm = on_vxlan(vm, 75);
        let fields = json!({"vm": vm, "hostIp": "127.0.0.1", "executeInSequence": false});
        let before = Traces::of_host(&edge).await;
        // Steps of the journal: the passphrase, the bridge, the guest, the end.
        for step in 1..=4 {
            doomed(&mut edge, &format!("error:{step}")).await;
            let details = edge.refused(&format!("{API}.StartCommand"), fields.clone(), "StartAnswer").await;
            assert!(details.contains(&format!("Step {step}")), "{details}");
            assert_eq!(Traces::of_host(&edge).await, before, "step {step}");
            edge.start(&vm).await;
            assert!(edge.runs(&name).await);
            stop(&edge, &name).await;
            assert_eq!(Traces::of_host(&edge).await, before, "after step {step}");
        }
    });
}

#[test]
fn a_stop_that_fails_at_any_step_ends_the_guest_with_all_it_had_or_leaves_it_whole() {
    alone_with_libvirt(async |cage| {
        let mut edge = Edge::up(cage).await;
        let name = guest_name();
        let (volume, vm) = encrypted(&edge, &name).await;
        let vm = on_vxlan(vm, 76);
        let before = Traces::of_host(&edge).await;
        // Steps of the journal: the bridge, the passphrase, the end.
        for step in 1..=3 {
            edge.start(&vm).await;
            let fields = json!({"vmName": name, "forceStop": true});
            doomed(&mut edge, &format!("error:{step}")).await;
            let (_, answer) = edge.host.ask(&format!("{API}.StopCommand"), fields).await;
            let runs = edge.runs(&name).await;
            assert_eq!(answer["result"], !runs, "step {step}: {answer}");
            let rest = (secret_of(cage, &volume).await, has_device(cage, "brvx-76").await);
            assert_eq!(rest, (runs, runs), "step {step}");
            stop(&edge, &name).await;
            nothing_is_left(&edge, &name).await;
            assert_eq!(Traces::of_host(&edge).await, before, "after step {step}");
        }
    });
}

#[test]
fn a_clone_that_fails_at_any_step_is_none() {
    alone_with_libvirt(async |cage| {
        let mut edge = Edge::up(cage).await;
        let template = edge.download_template().await;
        let (zone, guest, root) = (edge.zone(), guest_name(), Volume::root(64 * MIB));
        let before = Traces::of_host(&edge).await;
        let clone = || zone.clone_template(&template, &root, &guest);
        // Steps of the journal: the file, the end.
        for step in 1..=2 {
            doomed(&mut edge, &format!("error:{step}")).await;
            let details = edge.denied(clone()).await;
            assert!(details.contains(&format!("Step {step}")), "{details}");
            assert_eq!(Traces::of_host(&edge).await, before, "step {step}");
            edge.asked(clone()).await;
            edge.asked(zone.delete_volume(&root, &guest)).await;
            assert_eq!(Traces::of_host(&edge).await, before, "after step {step}");
        }
    });
}
