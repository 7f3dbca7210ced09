//! Raw figures for host statistics and the arithmetic on two of them. No state: `samples` keeps
//! the previous figures.

use std::path::Path;

use super::memory::MemoryFacts;
use super::nic;

/// /proc/uptime, both in seconds; `idle` is the sum over all CPUs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuTimes {
    pub uptime: f64,
    pub idle: f64,
}

impl CpuTimes {
    pub fn read(root: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(root.join("proc/uptime")).ok()?;
        let mut fields = text.split_whitespace().map(str::parse);
        Some(Self { uptime: fields.next()?.ok()?, idle: fields.next()?.ok()? })
    }
}

/// Percent of all CPUs in use between two readings, 0 to 100.
pub fn cpu_utilization(before: CpuTimes, now: CpuTimes, cores: u32) -> f64 {
    let uptime = now.uptime - before.uptime;
    if uptime <= 0.0 || cores == 0 {
        return 0.0;
    }
    let idle = (now.idle - before.idle) / f64::from(cores);
    ((1.0 - idle / uptime) * 100.0).clamp(0.0, 100.0)
}

/// Load average over one minute.
pub fn load_average(root: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(root.join("proc/loadavg")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Percent of its virtual CPUs that a guest used; 0 on the first reading or after a restart.
pub fn guest_cpu_utilization(before_ns: u64, now_ns: u64, elapsed: std::time::Duration, vcpus: u32) -> f64 {
    let used = now_ns.saturating_sub(before_ns) as f64;
    let available = elapsed.as_nanos() as f64 * f64::from(vcpus);
    if available > 0.0 { used / available * 100.0 } else { 0.0 }
}

/// Growth of a counter; 0 if it went back, which means that it started anew.
pub fn growth(before: u64, now: u64) -> u64 {
    now.saturating_sub(before)
}

/// Everything that one host statistics answer is made of. Counters are cumulative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostFigures {
    pub cpu: Option<CpuTimes>,
    pub load: f64,
    pub memory: MemoryFacts,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

impl HostFigures {
    /// What cannot be read is 0; the traffic is that of the interface `public`.
    pub fn read(root: &Path, public: &str) -> Self {
        let (rx_bytes, tx_bytes) = nic::traffic(root, public).unwrap_or_default();
        Self {
            cpu: CpuTimes::read(root),
            load: load_average(root).unwrap_or(0.0),
            memory: MemoryFacts::read(root).unwrap_or_default(),
            rx_bytes,
            tx_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn times(uptime: f64, idle: f64) -> CpuTimes {
        CpuTimes { uptime, idle }
    }

    #[test]
    fn utilization_is_the_share_that_was_not_idle() {
        // 10 s on 4 cores, 30 of 40 CPU seconds idle.
        assert_eq!(cpu_utilization(times(100.0, 300.0), times(110.0, 330.0), 4), 25.0);
        assert_eq!(
            cpu_utilization(times(100.0, 0.0), times(110.0, 41.0), 4),
            0.0,
            "idle runs a little ahead"
        );
        assert_eq!(cpu_utilization(times(100.0, 0.0), times(100.0, 0.0), 4), 0.0);
        assert_eq!(cpu_utilization(times(100.0, 0.0), times(110.0, 1.0), 0), 0.0);
    }

    #[test]
    fn a_guest_can_use_each_of_its_cpus() {
        let second = Duration::from_secs(1);
        assert_eq!(guest_cpu_utilization(0, 1_000_000_000, second, 2), 50.0);
        assert_eq!(guest_cpu_utilization(5, 1, second, 2), 0.0);
        assert_eq!(guest_cpu_utilization(0, 1, Duration::ZERO, 2), 0.0);
        assert_eq!(guest_cpu_utilization(0, 1, second, 0), 0.0);
    }

    #[test]
    fn figures_come_from_the_root_given() {
        let root = tempfile::tempdir().unwrap();
        let statistics = root.path().join("sys/class/net/cloudbr0/statistics");
        std::fs::create_dir_all(&statistics).unwrap();
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        std::fs::write(statistics.join("rx_bytes"), "4096\n").unwrap();
        std::fs::write(statistics.join("tx_bytes"), "1024\n").unwrap();
        std::fs::write(root.path().join("proc/uptime"), "350735.47 234388.90\n").unwrap();
        std::fs::write(root.path().join("proc/loadavg"), "0.75 0.20 0.22 1/345 9\n").unwrap();
        std::fs::write(root.path().join("proc/meminfo"), "MemTotal: 10 kB\nMemFree: 4 kB\n").unwrap();
        let figures = HostFigures::read(root.path(), "cloudbr0");
        assert_eq!(figures.cpu, Some(times(350_735.47, 234_388.9)));
        assert_eq!((figures.load, figures.rx_bytes, figures.tx_bytes), (0.75, 4096, 1024));
        assert_eq!(figures.memory.total, 10_240);
    }
}
