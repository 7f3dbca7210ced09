//! The agent against a real libvirtd and QEMU: what it tells of the machine, of pools, of guests.

use crate::harness::{self, LIMIT};
use crate::real::cage::Kvm;
use crate::real::guest::Guest;
use crate::real::host::Host;
use crate::real::{in_own_cage, with_libvirt};
use cloudstack_agent::sim::SimEvent;
use cloudstack_agent::status::checks::CheckResult;
use serde_json::{Value, json};
use std::path::Path;
use uuid::Uuid;

/// Fields of the storage commands of the first startup request.
fn storages(host: &Host) -> Vec<Value> {
    let startups = harness::all(&host.server, |event| matches!(event, SimEvent::Startup { .. }));
    match &startups[0].event {
        SimEvent::Startup { storages, .. } => storages.clone(),
        _ => unreachable!(),
    }
}

/// Bytes in a line like `MemTotal: 123 kB` of /proc/meminfo.
fn meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn file_system_size(path: &Path) -> u64 {
    let facts = rustix::fs::statvfs(path).unwrap();
    facts.f_blocks * facts.f_frsize
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_host_registers_with_the_facts_of_the_machine() {
    with_libvirt(async |cage| {
        let mut host = Host::new(cage).await;
        host.node.set("host.reserved.cpu.count", "1");
        host.node.set("host.reserved.mem.mb", "512");
        host.node.set("host.overcommit.mem.mb", "64");
        host.register().await;

        let routing = &harness::startups(&host.server)[0];
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t").count();
        assert_eq!(routing["cpus"], cpus - 1);
        assert_eq!(routing["dom0MinMemory"], 512_u64 << 20);
        assert_eq!(routing["memory"], meminfo("MemTotal") - (512 << 20) + (64 << 20));
        let sockets = cage.virsh(&["nodeinfo"]).await;
        let sockets = sockets.lines().find_map(|line| line.strip_prefix("CPU socket(s):")).unwrap();
        assert_eq!(routing["cpuSockets"], sockets.trim().parse::<u64>().unwrap());
        assert_eq!(routing["hypervisorType"], "KVM");
        assert!(routing["speed"].as_u64().unwrap() > 0);

        let status = host
            .node
            .wait_for("libvirt's versions", |s| s.libvirt.as_ref().is_some_and(|l| l.qemu_version.is_some()))
            .await;
        let of_libvirt = status.checks.iter().find(|check| check.id == "libvirt").unwrap();
        assert_eq!(of_libvirt.result, CheckResult::Ok);
        assert!(!status.checks.iter().any(|check| check.id.starts_with("inventory")), "{:#?}", status.checks);
        let version = cage.virsh(&["version"]).await;
        let libvirt = status.libvirt.unwrap();
        assert!(
            version.contains(&format!("Using library: libvirt {}", libvirt.libvirt_version.unwrap())),
            "{version}"
        );
        assert!(
            version.contains(&format!("Running hypervisor: QEMU {}", libvirt.qemu_version.unwrap())),
            "{version}"
        );
        harness::flawless(&host.server);
    });
}

#[test]
fn local_storage_becomes_a_transient_pool() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let (id, path) = (host.pool.to_string(), host.node.path("pool"));
        let pool = &storages(&host)[0]["poolInfo"];
        assert_eq!((&pool["uuid"], &pool["localPath"]), (&json!(id), &json!(path)));
        assert_eq!(pool["capacityBytes"], file_system_size(&path));

        let info = cage.virsh(&["pool-info", "--bytes", &id]).await;
        let line = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!((line("State:"), line("Persistent:")), (Some("running"), Some("no")));
        assert_eq!(line("Capacity:"), Some(file_system_size(&path).to_string().as_str()));
        assert_eq!(cage.virsh(&["pool-dumpxml", &id, "--xpath", "//target/path/text()"]).await, text(&path));
        harness::flawless(&host.server);
    });
}

#[test]
fn a_pool_on_the_same_path_gives_way() {
    in_own_cage(Kvm::Absent, async |cage| {
        cage.start_libvirtd();
        cage.answers().await;
        let mut host = Host::new(cage).await;
        let path = host.node.path("pool");
        std::fs::write(path.join("volume"), "kept").unwrap();
        // What an installer of libvirt leaves: persistent, started with it, named "default".
        cage.virsh(&["pool-define-as", "default", "dir", "--target", text(&path)]).await;
        cage.virsh(&["pool-start", "default"]).await;
        cage.virsh(&["pool-autostart", "default"]).await;

        host.register().await;
        assert_eq!(cage.virsh(&["pool-list", "--all", "--uuid"]).await, host.pool.to_string());
        assert_eq!(storages(&host)[0]["poolInfo"]["uuid"], host.pool.to_string());
        assert_eq!(std::fs::read_to_string(path.join("volume")).unwrap(), "kept");
        assert_eq!(
            cage.virsh(&["vol-list", &host.pool.to_string()]).await.split_whitespace().next(),
            Some("volume")
        );
        harness::flawless(&host.server);
    });
}

#[test]
fn an_inactive_pool_of_the_same_id_is_made_anew() {
    with_libvirt(async |cage| {
        let mut host = Host::new(cage).await;
        let (id, path) = (host.pool.to_string(), host.node.path("pool"));
        let xml = format!(
            "<pool type='dir'><name>{id}</name><uuid>{id}</uuid><target><path>{}</path></target></pool>",
            text(&path)
        );
        std::fs::write(cage.file(&format!("/run/{id}.xml")), xml).unwrap();
        cage.virsh(&["pool-define", &format!("/run/{id}.xml")]).await;

        host.register().await;
        let info = cage.virsh(&["pool-info", &id]).await;
        let states: Vec<&str> =
            info.lines().filter_map(|line| line.split_once(':').map(|(_, value)| value.trim())).collect();
        assert!(states.contains(&"running") && info.contains("Persistent:     no"), "{info}");
        assert_eq!(storages(&host).len(), 1);
        harness::flawless(&host.server);
    });
}

#[test]
fn a_missing_directory_costs_one_pool_and_not_the_registration() {
    with_libvirt(async |cage| {
        let mut host = Host::new(cage).await;
        let (there, gone) = (host.node.path("pool"), host.node.path("gone"));
        host.node.set("local.storage.path", &format!("{},{}", text(&gone), text(&there)));
        host.node.set("local.storage.uuid", &format!("{},{}", Uuid::new_v4(), host.pool));
        host.register().await;

        let pools = storages(&host);
        assert_eq!(pools.len(), 1);
        assert_eq!(pools[0]["poolInfo"]["uuid"], host.pool.to_string());
        let told = host.node.ask(&[]).await;
        assert_eq!(told.code, 1, "{}", told.stdout);
        let sentence = format!("Storage directory {} does not exist", text(&gone));
        assert!(told.stdout.contains(&sentence) && told.stdout.contains("create it"), "{}", told.stdout);
        harness::flawless(&host.server);
    });
}

#[test]
fn slow_capabilities_do_not_delay_the_registration() {
    in_own_cage(Kvm::Broken, async |cage| {
        cage.start_libvirtd();
        cage.answers().await;
        let slow = cage.file("/run/slow");
        std::fs::write(&slow, "").unwrap();
        let version = ["timeout", "1", "virsh", "-c", "qemu:///system", "version"];
        cage.run(&version).await.expect_err("libvirt was to be slow");
        let mut host = Host::new(cage).await;
        host.register().await;
        host.ping(host.mark(), "with a report while capabilities are unknown", |ping| ping.report.is_some())
            .await;
        assert_eq!(host.node.status().await.libvirt.unwrap().qemu_version, None);
        std::fs::remove_file(slow).unwrap();
        host.node
            .wait_for("QEMU's version", |s| s.libvirt.as_ref().is_some_and(|l| l.qemu_version.is_some()))
            .await;
        host.undisturbed();
    });
}

#[test]
fn guests_are_in_the_pings_while_they_run() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        let mark = host.mark();
        guest.start().await;
        let ping = host.ping(mark, "with the guest", |ping| ping.state(&guest.name).is_some()).await;
        assert_eq!((ping.state(&guest.name), ping.out_of_band), (Some("PowerOn"), false));

        guest.virsh("suspend").await;
        let mark = host.mark();
        host.ping(mark, "of the paused guest", |ping| ping.state(&guest.name) == Some("PowerOn")).await;
        assert!(
            host.pings()
                .iter()
                .filter(|ping| ping.report.is_some())
                .all(|ping| ping.state(&guest.name).is_none_or(|s| s == "PowerOn"))
        );

        let mark = host.mark();
        guest.virsh("destroy").await;
        host.ping(mark, "without the guest", |ping| ping.lacks(&guest.name)).await;
        host.undisturbed();
    });
}

#[test]
fn a_guest_that_stops_by_itself_is_reported_at_once() {
    with_libvirt(async |cage| {
        // Longer than anything here may take, so no ping but the first is one of the interval.
        let mut host = Host::with_ping_interval(cage, 2 * LIMIT).await;
        host.node.set("libvirt.events.enabled", "true");
        host.register().await;
        for crash in [false, true] {
            let guest = Guest::new(cage, &host.node.path("pool")).await;
            guest.start().await;
            guest.boots().await;
            let mark = host.mark();
            if crash {
                guest.crash().await
            } else {
                guest.shuts_itself_down().await
            };
            let ping = host
                .ping(mark, "after the guest's end", |ping| ping.out_of_band && ping.lacks(&guest.name))
                .await;
            assert!(ping.report.is_some());
        }
        host.undisturbed();
    });
}

#[test]
fn a_guest_that_is_destroyed_is_no_news() {
    with_libvirt(async |cage| {
        let mut host = Host::new(cage).await;
        host.node.set("libvirt.events.enabled", "true");
        host.register().await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        guest.start().await;
        host.ping(0, "with the guest", |ping| ping.state(&guest.name).is_some()).await;
        guest.virsh("destroy").await;
        host.ping(0, "without the guest", |ping| ping.lacks(&guest.name) && !ping.out_of_band).await;
        host.undisturbed();
    });
}

/// What virsh says of a figure must not have changed while the agent was asked.
async fn same<T>(figures: impl AsyncFn() -> Vec<u64>, ask: impl AsyncFn() -> T) -> (Vec<u64>, T) {
    for _ in 0..20 {
        let before = figures().await;
        let answer = ask().await;
        if figures().await == before {
            return (before, answer);
        }
    }
    panic!("the guest does not come to rest");
}

#[test]
fn statistics_of_a_guest_are_those_of_libvirt() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        guest.start().await;
        let name = guest.name.as_str();
        let question = json!({"vmNames": [name, "i-9-9-VM"], "hostGuid": "h", "hostName": "kvm1"});
        let first = host.good("GetVmStatsCommand", question.clone()).await["vmStatsMap"][name].clone();
        assert_eq!((&first["numCPUs"], &first["memoryKBs"]), (&json!(1), &json!(16384.0)), "{first}");
        assert_eq!((&first["targetMemoryKBs"], &first["cpuUtilization"]), (&json!(16384.0), &json!(0.0)));
        guest.boots().await;
        guest.gets_a_packet(600).await;

        let disk = async || {
            let mut figures = Vec::new();
            for figure in ["rd_req", "rd_bytes", "wr_req", "wr_bytes"] {
                figures.push(guest.counter(&["domblkstat", name, "vda"], figure).await);
            }
            figures
        };
        let (expected, answer) =
            same(disk, async || host.good("GetVmDiskStatsCommand", question.clone()).await).await;
        assert_eq!(answer["vmDiskStatsMap"].as_object().unwrap().keys().collect::<Vec<_>>(), [name]);
        let entry = &answer["vmDiskStatsMap"][name][0];
        let figures =
            ["ioRead", "bytesRead", "ioWrite", "bytesWrite"].map(|figure| entry[figure].as_u64().unwrap());
        assert_eq!(figures.as_slice(), expected);
        assert_eq!(entry["path"], json!(guest.disk.file_name().unwrap().to_str()));
        assert!(expected[0] > 0 && expected[1] >= 512, "the boot sector was read");

        let nic = async || {
            let mut figures = Vec::new();
            for figure in ["rx_bytes", "tx_bytes"] {
                figures.push(guest.counter(&["domifstat", name, &guest.tap], figure).await);
            }
            figures
        };
        let (expected, answer) =
            same(nic, async || host.good("GetVmNetworkStatsCommand", question.clone()).await).await;
        let entry = &answer["vmNetworkStatsMap"][name][0];
        let figures = ["bytesReceived", "bytesSent"].map(|figure| entry[figure].as_u64().unwrap());
        assert_eq!((figures.as_slice(), &entry["macAddress"]), (expected.as_slice(), &json!(guest.mac)));
        assert!(figures[0] >= 600 && figures[1] == 0, "received and sent are not mixed up: {figures:?}");

        let second = host.good("GetVmStatsCommand", question).await["vmStatsMap"][name].clone();
        let figure = |name: &str| second[name].as_f64().unwrap();
        assert!(figure("cpuUtilization") > 0.0 && figure("diskReadIOs") > 0.0, "{second}");
        assert!(figure("networkReadKBs") > 0.5 && figure("networkWriteKBs") == 0.0, "{second}");
        harness::flawless(&host.server);
    });
}

#[test]
fn state_and_display_of_a_guest_are_those_of_libvirt() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        guest.start().await;
        let display: u64 =
            cage.virsh(&["vncdisplay", &guest.name]).await.rsplit(':').next().unwrap().parse().unwrap();
        let answer = host.good("GetVncPortCommand", json!({"id": 3, "name": guest.name})).await;
        assert_eq!((&answer["address"], &answer["port"]), (&json!("127.0.0.1"), &json!(5900 + display)));
        let question = json!({"vmName": guest.name});
        let answer = host.good("CheckVirtualMachineCommand", question.clone()).await;
        assert_eq!((&answer["state"], &answer["vncPort"]), (&json!("PowerOn"), &json!(display)));
        guest.virsh("suspend").await;
        assert_eq!(host.good("CheckVirtualMachineCommand", question.clone()).await["state"], "PowerOn");
        guest.virsh("destroy").await;
        assert_eq!(host.good("CheckVirtualMachineCommand", question).await["state"], "PowerOff");
        let (_, answer) = host.ask("GetVncPortCommand", json!({"id": 3, "name": guest.name})).await;
        assert_eq!(answer["result"], false);
        assert_eq!(answer["details"], format!("Guest {} does not exist on this host", guest.name));
        harness::flawless(&host.server);
    });
}

#[test]
fn sizes_of_storage_are_those_of_libvirt() {
    with_libvirt(async |cage| {
        let host = Host::up(cage).await;
        // Appears behind the back of libvirt, which learnt the contents of the pool at registration.
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        let (volume, pool) = (guest.disk.file_name().unwrap().to_str().unwrap(), host.pool.to_string());
        let question = json!({"volumeUuids": [volume, "gone"], "poolType": "Filesystem", "poolUuid": pool});
        let answer = host.good("GetVolumeStatsCommand", question).await;
        let info = cage.virsh(&["vol-info", "--bytes", "--pool", &pool, volume]).await;
        let bytes = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap()
        };
        let stats = &answer["volumeStats"][volume];
        assert_eq!(stats["virtualSize"], bytes("Capacity:"));
        assert_eq!(stats["physicalsize"], bytes("Allocation:"));
        assert!(
            answer["volumeStats"].get("gone").is_none()
                && answer["details"].as_str().unwrap().contains("gone")
        );

        let question = json!({"id": pool, "localPath": host.node.path("pool"), "pooltype": "Filesystem"});
        let answer = host.good("GetStorageStatsCommand", question).await;
        // Not looked at again since the agent's question.
        let info = cage.virsh(&["pool-info", "--bytes", &pool]).await;
        let bytes = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse::<u64>().unwrap()
        };
        assert_eq!(
            (&answer["capacity"], &answer["used"]),
            (&json!(bytes("Capacity:")), &json!(bytes("Allocation:")))
        );
        assert_eq!(answer["capacity"], file_system_size(&host.node.path("pool")));
        harness::flawless(&host.server);
    });
}
