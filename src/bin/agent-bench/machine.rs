//! What the kernel knows of a process and of the machine, from /proc.

use std::collections::BTreeMap;
use std::time::Duration;

/// Memory of a process, in KiB (proc(5), `smaps_rollup`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub rss: u64,
    /// Private_Clean and Private_Dirty: what would be free without this process. File pages that
    /// nobody else happens to map count.
    pub private: u64,
    /// What the process wrote itself. (Private_Dirty also counts a program file that was just built
    /// and is not yet on disk.)
    pub anonymous: u64,
}

impl Memory {
    pub fn of(pid: u32) -> std::io::Result<Memory> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| field(&text, name).unwrap_or_default();
        let private = field("Private_Dirty:") + field("Private_Clean:");
        Ok(Memory { rss: field("Rss:"), private, anonymous: field("Anonymous:") })
    }
}

/// Number of threads.
pub fn threads(pid: u32) -> std::io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field(&text, "Threads:").unwrap_or_default())
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time of each thread so far, by thread id.
pub type ThreadTimes = BTreeMap<String, Duration>;

/// Exact to the nanosecond, while `/proc/PID/stat` counts ticks of 10 ms.
pub fn thread_times(pid: u32) -> std::io::Result<ThreadTimes> {
    let mut times = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        // A thread that ended in between is left out.
        let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
        let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default();
        times.insert(task.file_name().to_string_lossy().into_owned(), Duration::from_nanos(nanos));
    }
    Ok(times)
}

/// Processor time between two looks.
pub fn spent(before: &ThreadTimes, after: &ThreadTimes) -> Duration {
    after.iter().map(|(id, time)| time.saturating_sub(before.get(id).copied().unwrap_or_default())).sum()
}

/// Lets this process and its children hold as many connections as the kernel allows.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Too small a limit shows as a failed part.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Where and under which load the figures came about.
pub fn conditions(took: Duration) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor");
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "{cpus} CPUs ({model}), Linux {}, load {} at the end, {:.0} s. Median (least-greatest). A MB of memory has 2^20 bytes, one of a file 10^6.",
        kernel.trim(),
        load.split_whitespace().next().unwrap_or("?"),
        took.as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_threads() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.rss >= memory.private && memory.private >= memory.anonymous && memory.anonymous > 0);
        assert!(threads(std::process::id()).unwrap() >= 1);
    }

    #[test]
    fn only_the_difference_counts_and_new_threads_do() {
        let time = |id: &str, n| (id.to_owned(), Duration::from_nanos(n));
        let before = ThreadTimes::from([time("1", 5), time("2", 7)]);
        let after = ThreadTimes::from([time("1", 8), time("3", 4)]);
        assert_eq!(spent(&before, &after), Duration::from_nanos(7));
    }
}
