//! `com.cloud.agent.api.GetVmStatsCommand`: load of guests since the previous question, asked every
//! minute or so. Guests that are missing or stopped are left out; that is no error.

use super::GuestNames;
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::host::samples::SampleKind;
use crate::host::stats::{growth, guest_cpu_utilization};
use crate::hypervisor::DomainSample;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub struct GetVmStatsCommand(GuestNames);

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVmStatsAnswer {
    vm_stats_map: BTreeMap<String, VmStatsEntry>,
}

/// `com.cloud.agent.api.VmStatsEntry`. Memory in KiB; traffic in KiB and requests since the previous
/// question, 0 at the first.
#[derive(Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct VmStatsEntry {
    /// Filled in by the server.
    vm_id: i64,
    /// Percent of all virtual CPUs of the guest.
    cpu_utilization: f64,
    #[serde(rename = "networkReadKBs")]
    network_read_kbs: f64,
    #[serde(rename = "networkWriteKBs")]
    network_write_kbs: f64,
    #[serde(rename = "diskReadIOs")]
    disk_read_ios: f64,
    #[serde(rename = "diskWriteIOs")]
    disk_write_ios: f64,
    #[serde(rename = "diskReadKBs")]
    disk_read_kbs: f64,
    #[serde(rename = "diskWriteKBs")]
    disk_write_kbs: f64,
    #[serde(rename = "memoryKBs")]
    memory_kbs: f64,
    /// -1 if the guest does not report it.
    #[serde(rename = "intFreeMemoryKBs")]
    int_free_memory_kbs: f64,
    #[serde(rename = "targetMemoryKBs")]
    target_memory_kbs: f64,
    #[serde(rename = "numCPUs")]
    num_cpus: u32,
    entity_type: &'static str,
}

/// Sums over the devices of one sample.
#[derive(Default)]
struct Totals {
    rx_bytes: u64,
    tx_bytes: u64,
    read_requests: u64,
    write_requests: u64,
    read_bytes: u64,
    write_bytes: u64,
}

impl Totals {
    fn of(sample: &DomainSample) -> Totals {
        Totals {
            rx_bytes: sample.nics.iter().map(|nic| nic.rx_bytes).sum(),
            tx_bytes: sample.nics.iter().map(|nic| nic.tx_bytes).sum(),
            read_requests: sample.disks.iter().map(|disk| disk.read_requests).sum(),
            write_requests: sample.disks.iter().map(|disk| disk.write_requests).sum(),
            read_bytes: sample.disks.iter().map(|disk| disk.read_bytes).sum(),
            write_bytes: sample.disks.iter().map(|disk| disk.write_bytes).sum(),
        }
    }
}

fn entry(previous: Option<(&DomainSample, Duration)>, now: &DomainSample) -> VmStatsEntry {
    let sums = Totals::of(now);
    // The first time, now is its own predecessor: nothing has grown.
    let (before, elapsed) = previous.unwrap_or((now, Duration::ZERO));
    let old = Totals::of(before);
    let kib = |before, now| growth(before, now) as f64 / 1024.0;
    VmStatsEntry {
        vm_id: 0,
        cpu_utilization: guest_cpu_utilization(before.cpu_time_ns, now.cpu_time_ns, elapsed, now.vcpus),
        network_read_kbs: kib(old.rx_bytes, sums.rx_bytes),
        network_write_kbs: kib(old.tx_bytes, sums.tx_bytes),
        disk_read_ios: growth(old.read_requests, sums.read_requests) as f64,
        disk_write_ios: growth(old.write_requests, sums.write_requests) as f64,
        disk_read_kbs: kib(old.read_bytes, sums.read_bytes),
        disk_write_kbs: kib(old.write_bytes, sums.write_bytes),
        memory_kbs: now.max_memory_kib as f64,
        int_free_memory_kbs: now.unused_memory_kib.map_or(-1.0, |kib| kib as f64),
        target_memory_kbs: now.memory_kib as f64,
        num_cpus: now.vcpus,
        entity_type: "vm",
    }
}

impl Command for GetVmStatsCommand {
    type Answer = GetVmStatsAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetVmStatsAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetVmStatsAnswer>, Fault> {
        let samples = ctx.services.hypervisor.domain_samples(&self.0.vm_names).await?;
        let mut vm_stats_map = BTreeMap::new();
        for (name, now) in samples {
            let key = format!("guest {name}");
            let previous = ctx.services.samples.exchange(key, SampleKind::Guest(now.clone())).await;
            let previous = match &previous {
                Some((SampleKind::Guest(before), elapsed)) => Some((before, *elapsed)),
                _ => None,
            };
            vm_stats_map.insert(name, entry(previous, &now));
        }
        Ok(Reply::ok(GetVmStatsAnswer { vm_stats_map }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use crate::hypervisor::{DiskSample, NicSample};
    use serde_json::json;

    #[tokio::test]
    async fn only_running_guests_are_in_the_answer() {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        let names = json!({"vmNames": ["i-2-3-VM", "i-2-4-VM", "gone"], "hostGuid": "g", "hostName": "vm"});
        let (class, fields) = bench.answer("com.cloud.agent.api.GetVmStatsCommand", names).await;
        assert_eq!(class, "com.cloud.agent.api.GetVmStatsAnswer");
        let map = fields["vmStatsMap"].as_object().unwrap();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["i-2-3-VM"]);
        let entry = &map["i-2-3-VM"];
        assert_eq!(entry["cpuUtilization"], 0.0, "nothing to compare with at the first question");
        assert_eq!((&entry["numCPUs"], &entry["memoryKBs"]), (&json!(2), &json!(524288.0)));
        assert_eq!((&entry["entityType"], &entry["vmId"]), (&json!("vm"), &json!(0)));
    }

    fn sample(n: u64) -> DomainSample {
        DomainSample {
            cpu_time_ns: n * 1_000_000_000,
            vcpus: 2,
            max_memory_kib: 2048,
            memory_kib: 1024,
            unused_memory_kib: (n > 1).then_some(512),
            disks: vec![
                DiskSample { read_requests: n, read_bytes: 2048 * n, ..DiskSample::default() },
                DiskSample { write_requests: n, write_bytes: 1024 * n, ..DiskSample::default() },
            ],
            nics: vec![NicSample { rx_bytes: 3072 * n, tx_bytes: 512 * n, ..NicSample::default() }],
        }
    }

    #[test]
    fn figures_are_differences_between_two_samples() {
        let entry = entry(Some((&sample(1), Duration::from_secs(2))), &sample(2));
        assert_eq!(entry.cpu_utilization, 25.0);
        assert_eq!((entry.network_read_kbs, entry.network_write_kbs), (3.0, 0.5));
        assert_eq!((entry.disk_read_ios, entry.disk_write_ios), (1.0, 1.0));
        assert_eq!((entry.disk_read_kbs, entry.disk_write_kbs), (2.0, 1.0));
        assert_eq!(
            (entry.memory_kbs, entry.target_memory_kbs, entry.int_free_memory_kbs),
            (2048.0, 1024.0, 512.0)
        );
    }

    #[test]
    fn counters_that_started_anew_give_zero() {
        let restarted = entry(Some((&sample(9), Duration::from_secs(60))), &sample(1));
        assert_eq!(restarted, entry(None, &sample(1)));
        assert_eq!(restarted.int_free_memory_kbs, -1.0);
    }
}
