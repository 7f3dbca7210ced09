//! CPU facts: speed, and the capacity that CPU weights are scaled to.
//!
//! Mirrors `KVMHostInfo.getCpuSpeed`, with files in the place of `lscpu`.

use std::path::Path;

/// Where the speed may come from besides files, in MHz and Hz; 0 where unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpeedHints {
    /// `host.cpu.manual.speed.mhz`: overrides everything.
    pub manual_mhz: u64,
    /// The tsc counter of libvirt's capabilities.
    pub tsc_hz: u64,
    /// `virNodeInfo.mhz`.
    pub node_mhz: u64,
}

/// MHz per core by the first source that has one: set by hand, in the model name, highest of
/// cpufreq, base frequency, highest scaling frequency, tsc, libvirt, /proc/cpuinfo. 0 if none has.
pub fn speed_mhz(root: &Path, cpuinfo: &str, hints: SpeedHints) -> u64 {
    let khz = |file: &str| {
        let path = root.join("sys/devices/system/cpu/cpu0/cpufreq").join(file);
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok().map(|khz| khz / 1000)
    };
    let sources: [&dyn Fn() -> Option<u64>; 8] = [
        &|| Some(hints.manual_mhz),
        &|| model_name(cpuinfo).and_then(speed_in_model_name),
        &|| khz("cpuinfo_max_freq"),
        &|| khz("base_frequency"),
        &|| khz("scaling_max_freq"),
        &|| Some(hints.tsc_hz / 1_000_000),
        &|| Some(hints.node_mhz),
        &|| current_mhz(cpuinfo),
    ];
    sources.iter().find_map(|source| source().filter(|mhz| *mhz > 0)).unwrap_or(0)
}

/// The first `model name` of /proc/cpuinfo.
pub fn model_name(cpuinfo: &str) -> Option<&str> {
    value_of(cpuinfo, "model name")
}

/// What the first core runs at this moment.
fn current_mhz(cpuinfo: &str) -> Option<u64> {
    value_of(cpuinfo, "cpu MHz")?.parse::<f64>().ok().map(|mhz| mhz as u64)
}

fn value_of<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// MHz of a name such as "Intel(R) Xeon(R) CPU E5-2670 v3 @ 2.30GHz".
fn speed_in_model_name(model: &str) -> Option<u64> {
    let before = model.get(..model.find("GHz")?)?;
    let number = before.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let (whole, fraction) = number.split_once('.')?;
    let milli = format!("{fraction:0<3}");
    let milli: u64 = milli.get(..3)?.parse().ok()?;
    Some(whole.parse::<u64>().ok()? * 1000 + milli)
}

/// Whether the unified control group hierarchy is mounted: only then are CPU weights scaled.
pub fn has_cgroup2(root: &Path) -> bool {
    root.join("sys/fs/cgroup/cgroup.controllers").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: &str =
        "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU E5-2670 v3 @ 2.30GHz\ncpu MHz\t\t: 1200.5\n";
    const UNNAMED: &str = "processor\t: 0\nmodel name\t: AMD EPYC 7502\ncpu MHz\t\t: 2495.312\n";

    fn write(root: &Path, file: &str, khz: &str) {
        let directory = root.join("sys/devices/system/cpu/cpu0/cpufreq");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(file), khz).unwrap();
    }

    #[test]
    fn model_names_may_have_a_speed() {
        assert_eq!(speed_in_model_name("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz"), Some(1800));
        assert_eq!(speed_in_model_name("X @ 2.6GHz"), Some(2600));
        assert_eq!(speed_in_model_name("X @ 2.59612GHz"), Some(2596));
        assert_eq!(speed_in_model_name("AMD EPYC 7502"), None);
        assert_eq!(speed_in_model_name("odd GHz"), None);
        assert_eq!(speed_in_model_name("@ 99999999999999999999.1GHz"), None);
    }

    #[test]
    fn sources_are_asked_in_order() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let hints = |manual_mhz, tsc_hz, node_mhz| SpeedHints { manual_mhz, tsc_hz, node_mhz };
        assert_eq!(speed_mhz(root, "", hints(0, 0, 0)), 0);
        assert_eq!(speed_mhz(root, UNNAMED, hints(0, 0, 0)), 2495);
        assert_eq!(speed_mhz(root, UNNAMED, hints(0, 0, 2100)), 2100);
        assert_eq!(speed_mhz(root, UNNAMED, hints(0, 2_593_904_000, 2100)), 2593);
        write(root, "scaling_max_freq", "3000000\n");
        assert_eq!(speed_mhz(root, UNNAMED, hints(0, 1, 1)), 3000);
        write(root, "base_frequency", "2400000\n");
        assert_eq!(speed_mhz(root, UNNAMED, hints(0, 1, 1)), 2400);
        write(root, "cpuinfo_max_freq", "3900000\n");
        assert_eq!(speed_mhz(root, UNNAMED, hints(0, 1, 1)), 3900);
        assert_eq!(speed_mhz(root, NAMED, hints(0, 1, 1)), 2300);
        assert_eq!(speed_mhz(root, NAMED, hints(1234, 1, 1)), 1234);
    }

    #[test]
    fn the_unified_hierarchy_shows_by_its_root_file() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_cgroup2(root.path()));
        std::fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
        std::fs::write(root.path().join("sys/fs/cgroup/cgroup.controllers"), "cpu\n").unwrap();
        assert!(has_cgroup2(root.path()));
    }
}
