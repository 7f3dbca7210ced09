//! On libvirt's test driver, whose guests shut down at once.

use crate::commands::testing::{Bench, script};
use crate::commands::vm::testing::{NAME, disc, exists, prepare, records, started, stop, vm};
use crate::journal::faults::{Fault, Faults};
use crate::storage::testing::Nfs;
use serde_json::json;
use std::path::PathBuf;

async fn running() -> Bench {
    let mut bench = Bench::with_pool().await;
    prepare(&bench).await;
    let wanted = vm(&bench);
    started(&mut bench, &wanted).await;
    bench
}

#[tokio::test]
async fn a_guest_is_stopped_and_one_that_is_gone_is_a_success() {
    let plain = json!({"result": true, "contextMap": {}, "wait": 0, "bypassHostMaintenance": false});
    for force in [true, false] {
        let mut bench = running().await;
        for _ in 0..2 {
            assert_eq!(stop(&mut bench, json!({"forceStop": force})).await, plain);
            assert!(!exists(&bench).await);
            assert_eq!(records(&bench), 0);
        }
    }
}

#[tokio::test]
async fn a_definition_does_not_outlast_its_guest() {
    for runs in [true, false] {
        let mut bench = running().await;
        let hypervisor = &bench.ctx.services.hypervisor;
        let xml = crate::commands::vm::testing::document(&bench).await.to_string();
        hypervisor.define_domain(&xml).await.unwrap();
        if !runs {
            hypervisor.destroy(NAME).await.unwrap();
        }
        assert!(hypervisor.state(NAME).await.unwrap().unwrap().1, "it is persistent");
        assert_eq!(stop(&mut bench, json!({})).await["result"], true);
        assert!(!exists(&bench).await);
    }
}

#[tokio::test]
async fn a_running_guest_is_left_alone_if_only_its_rest_is_to_go() {
    let mut bench = running().await;
    let answer = stop(&mut bench, json!({"checkBeforeCleanup": true})).await;
    assert_eq!(
        (&answer["result"], &answer["details"]),
        (&json!(false), &json!("vm is still running on host"))
    );
    assert!(exists(&bench).await);
    bench.ctx.services.hypervisor.destroy(NAME).await.unwrap();
    assert_eq!(stop(&mut bench, json!({"checkBeforeCleanup": true})).await["result"], true);
}

#[tokio::test]
async fn a_paused_guest_is_not_waited_for() {
    let mut bench = running().await;
    bench.ctx.services.hypervisor.suspend(NAME).await.unwrap();
    assert_eq!(stop(&mut bench, json!({"forceStop": false})).await["result"], true);
    assert!(!exists(&bench).await);
}

#[tokio::test]
async fn without_libvirt_nothing_is_said_to_have_stopped() {
    let mut bench = Bench::disconnected().await;
    let answer = stop(&mut bench, json!({})).await;
    assert_eq!(answer["result"], false);
    assert!(answer["details"].as_str().unwrap().contains("No connection to libvirt"), "{answer}");
    let answer = stop(&mut bench, json!({"vmName": "a/b"})).await;
    assert!(answer["details"].as_str().unwrap().contains("name of a guest"), "{answer}");
}

#[tokio::test]
async fn the_hook_hears_of_the_stop() {
    let mut bench = running().await;
    let hooks = bench.dir().join("hooks");
    std::fs::create_dir(&hooks).unwrap();
    let line = format!("agent.hooks.basedir={}\n", hooks.display());
    std::fs::write(bench.dir().join("agent.properties"), bench.properties() + &line).unwrap();
    bench.ctx.services.config.reload().await;
    let log = hooks.join("log");
    script(&hooks, "libvirt-vm-state-change.sh", &format!("echo \"$@\" >> {}", log.display())).await;
    for _ in 0..2 {
        assert_eq!(stop(&mut bench, json!({})).await["result"], true);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("onStop {NAME}\n"));
    }
}

/// A guest with an ISO image from NFS, and how many directories are mounted.
async fn with_iso() -> Option<(Nfs, Bench)> {
    let mount = "/bin/mount -t tmpfs -o size=1m \"$5\" \"$6\" && echo iso > \"$6/x.iso\"";
    let nfs = Nfs::with(mount, "exec /bin/umount \"$@\"").await?;
    let mut bench = Bench::with_pool_and_nfs(&nfs).await;
    prepare(&bench).await;
    let store = json!({"com.cloud.agent.api.to.NfsTO": {"_url": "nfs://10.0.0.9/export"}});
    let mut wanted = vm(&bench);
    wanted["disks"][1] = disc(3, &json!({"path": "template/9/x.iso", "imageDataStore": store}));
    started(&mut bench, &wanted).await;
    assert_eq!(mounted(&nfs).len(), 1, "the guest has its disc");
    Some((nfs, bench))
}

fn mounted(nfs: &Nfs) -> Vec<PathBuf> {
    std::fs::read_dir(nfs.root()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn what_a_disc_was_on_is_unmounted() {
    let Some((nfs, mut bench)) = with_iso().await else { return };
    assert_eq!(stop(&mut bench, json!({})).await["result"], true);
    assert!(mounted(&nfs).is_empty(), "{:?}", nfs.log());
}

#[tokio::test]
async fn a_disc_that_another_guest_has_open_stays() {
    let Some((nfs, mut bench)) = with_iso().await else { return };
    let open = std::fs::File::open(mounted(&nfs)[0].join("x.iso")).unwrap();
    assert_eq!(stop(&mut bench, json!({})).await["result"], true);
    assert_eq!(mounted(&nfs).len(), 1);
    drop(open);
}

#[tokio::test]
async fn an_interrupted_stop_leaves_the_guest_or_its_end() {
    for fault in [Fault::Error { at: 3 }, Fault::Crash { at: 3 }] {
        // Two steps of the start, and the end of the stop.
        let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
        prepare(&bench).await;
        let wanted = vm(&bench);
        started(&mut bench, &wanted).await;
        assert_eq!(stop(&mut bench, json!({})).await["result"], false);
        bench.ctx.services.journal.recover().await;
        assert!(!exists(&bench).await, "{fault:?}");
        assert_eq!(stop(&mut bench, json!({})).await["result"], true);
        assert_eq!(records(&bench), 0);
    }
}
