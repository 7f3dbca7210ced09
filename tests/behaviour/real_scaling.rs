//! A running guest grows, on a real libvirtd and QEMU.

use crate::real::edge::Edge;
use crate::real::guest::Guest;
use crate::real::with_libvirt;
use serde_json::{Value, json};

const SCALE: &str = "com.cloud.agent.api.ScaleVmCommand";

fn command(guest: &Guest<'_>, cpus: u32, mib: u64) -> Value {
    json!({"vm": {"name": guest.name, "type": "User", "cpus": cpus, "minSpeed": 1000, "maxSpeed": 1000, "minRam": mib << 20,
        "maxRam": mib << 20, "params": {}, "disks": [], "nics": []}, "vmName": guest.name, "cpus": cpus})
}

#[test]
fn a_guest_gets_memory_and_processors() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = Guest::new(cage, &edge.pool_dir()).await;
        let growing = "<maxMemory slots='16' unit='KiB'>131072</maxMemory><memory unit='MiB'>16</memory>\
                       <cpu><numa><cell id='0' cpus='0-2' memory='16' unit='MiB'/></numa></cpu>";
        let xml = guest
            .xml()
            .replace("<memory unit='MiB'>16</memory>", growing)
            .replace("<vcpu>1<", "<vcpu current='1'>3<");
        guest.start_as(&xml).await;
        // KiB and vCPUs.
        let size = async || {
            let info = cage.virsh(&["dominfo", &guest.name]).await;
            let of = |name: &str| -> u64 {
                let line = info.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace().nth(2).unwrap().parse().unwrap()
            };
            (of("Max memory"), cage.virsh(&["vcpucount", &guest.name, "--live"]).await)
        };
        for (cpus, mib, vcpus) in [(2, 64, "2"), (2, 64, "2"), (3, 128, "3"), (1, 16, "3")] {
            let answer = edge.good(SCALE, command(&guest, cpus, mib)).await;
            assert_eq!(answer["details"], format!("Successfully scaled VM {}", guest.name));
            assert_eq!(size().await, (mib.max(if vcpus == "3" { 128 } else { 64 }) << 10, vcpus.to_owned()));
        }
        let details = edge.refused(SCALE, command(&guest, 3, 256), "ScaleVmAnswer").await;
        assert!(details.contains("can grow to 131072 KiB of memory, not to 262144 KiB"), "{details}");
        let fixed = Guest::new(cage, &edge.pool_dir()).await;
        fixed.start().await;
        let details = edge.refused(SCALE, command(&fixed, 1, 64), "ScaleVmAnswer").await;
        assert!(details.contains("not prepared for dynamic scaling"), "{details}");
        let details = edge.refused(SCALE, command(&fixed, 2, 16), "ScaleVmAnswer").await;
        assert!(details.contains("can have 1 vCPUs at most, not 2"), "{details}");
        edge.host.undisturbed();
    });
}
