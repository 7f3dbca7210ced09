//! `com.cloud.agent.api.GetHostStatsCommand`: load, memory and traffic of this host, asked every
//! minute or so.

use crate::commands::{Command, Ctx, Fault, Reply};
use crate::host::samples::SampleKind;
use crate::host::stats::{self, CpuTimes, HostFigures};
use crate::wire::lenient;
use std::path::Path;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetHostStatsCommand {
    #[serde(default, deserialize_with = "lenient::int")]
    pub host_id: i64,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetHostStatsAnswer {
    host_stats: HostStatsEntry,
}

/// `com.cloud.agent.api.HostStatsEntry`.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct HostStatsEntry {
    host_id: i64,
    entity_type: &'static str,
    /// Percent since the previous question, 0 at the first.
    cpu_utilization: f64,
    /// Over one minute.
    average_load: f64,
    /// KiB through the public bridge since it exists; the name says rate, servers expect the total.
    #[serde(rename = "networkReadKBs")]
    network_read_kbs: f64,
    #[serde(rename = "networkWriteKBs")]
    network_write_kbs: f64,
    /// KiB. Nothing is taken off for the host: the reference agent means to, but looks before the
    /// setting is read, and servers have grown used to it.
    #[serde(rename = "totalMemoryKBs")]
    total_memory_kbs: f64,
    #[serde(rename = "freeMemoryKBs")]
    free_memory_kbs: f64,
}

fn entry(host_id: i64, figures: &HostFigures, cpu_utilization: f64) -> HostStatsEntry {
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let memory = &figures.memory;
    HostStatsEntry {
        host_id,
        entity_type: "host",
        cpu_utilization,
        average_load: figures.load,
        network_read_kbs: kib(figures.rx_bytes),
        network_write_kbs: kib(figures.tx_bytes),
        total_memory_kbs: kib(memory.total),
        free_memory_kbs: kib(memory.free.saturating_add(memory.cached).saturating_add(memory.buffers)),
    }
}

/// Processors that the idle time of /proc/uptime is summed over: the `cpuN` lines of /proc/stat.
fn online_cpus(stat: &str) -> u32 {
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    u32::try_from(stat.lines().filter(is_cpu).count()).unwrap_or(u32::MAX)
}

/// Percent of all processors in use since the previous call.
async fn cpu_utilization(ctx: &Ctx, now: CpuTimes, cpus: u32) -> f64 {
    match ctx.services.samples.exchange("host cpu", SampleKind::HostCpu(now)).await {
        Some((SampleKind::HostCpu(before), _)) => stats::cpu_utilization(before, now, cpus),
        _ => 0.0,
    }
}

impl Command for GetHostStatsCommand {
    type Answer = GetHostStatsAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetHostStatsAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetHostStatsAnswer>, Fault> {
        let config = ctx.config()?;
        let figures = HostFigures::read(Path::new("/"), &config.public_network_device);
        let cpus = online_cpus(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
        let utilization = match figures.cpu {
            Some(now) => cpu_utilization(&ctx, now, cpus).await,
            None => 0.0,
        };
        Ok(Reply::ok(GetHostStatsAnswer { host_stats: entry(self.host_id, &figures, utilization) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use crate::host::memory::MemoryFacts;
    use serde_json::json;

    #[tokio::test]
    async fn this_host_has_figures() {
        let mut bench = Bench::with_properties("public.network.device=lo\nhost.reserved.mem.mb=1024\n").await;
        let command = json!({"hostGuid": "g-LibvirtComputingResource", "hostName": "vm", "hostId": 7});
        let (class, fields) = bench.answer("com.cloud.agent.api.GetHostStatsCommand", command).await;
        assert_eq!(class, "com.cloud.agent.api.GetHostStatsAnswer");
        let stats = &fields["hostStats"];
        assert_eq!((&stats["hostId"], &stats["entityType"]), (&json!(7), &json!("host")));
        let total = MemoryFacts::read(Path::new("/")).unwrap().total;
        assert_eq!(stats["totalMemoryKBs"].as_f64().unwrap(), total as f64 / 1024.0, "nothing is reserved");
        assert!(stats["freeMemoryKBs"].as_f64().unwrap() > 0.0);
        assert_eq!(stats["cpuUtilization"], 0.0, "nothing to compare with at the first question");
    }

    #[tokio::test]
    async fn utilization_is_that_since_the_previous_question() {
        let bench = Bench::new().await;
        let times = |uptime, idle| CpuTimes { uptime, idle };
        assert_eq!(cpu_utilization(&bench.ctx, times(100.0, 300.0), 4).await, 0.0);
        assert_eq!(cpu_utilization(&bench.ctx, times(110.0, 330.0), 4).await, 25.0);
    }

    #[test]
    fn sizes_are_kib() {
        let memory = MemoryFacts { total: 8 * 1024, free: 1024, buffers: 2048, cached: 512 };
        let figures = HostFigures { cpu: None, load: 0.5, memory, rx_bytes: 1024, tx_bytes: 512 };
        let entry = entry(1, &figures, 12.5);
        assert_eq!((entry.total_memory_kbs, entry.free_memory_kbs), (8.0, 3.5));
        assert_eq!((entry.network_read_kbs, entry.network_write_kbs), (1.0, 0.5));
        assert_eq!((entry.cpu_utilization, entry.average_load), (12.5, 0.5));
    }

    #[test]
    fn processors_are_counted_by_their_lines() {
        assert_eq!(online_cpus("cpu  1 2\ncpu0 1 2\ncpu11 1 2\nctxt 5\ncpufreq 1\n"), 2);
        assert_eq!(online_cpus(""), 0);
    }
}
