//! The virtual processors: the one `<cpu>` element, topology, weight and limit.

use super::spec::{Memory, Vcpus};
use crate::xml::Element;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    pub mode: CpuMode,
    pub features: Vec<CpuFeature>,
    pub topology: Option<Topology>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CpuMode {
    /// The hypervisor's default model.
    #[default]
    Default,
    Custom {
        model: String,
    },
    HostModel,
    HostPassthrough,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuFeature {
    pub name: String,
    pub required: bool,
}

impl CpuFeature {
    /// A word of `guest.cpu.features`: a minus in front switches the feature off.
    pub fn parse(word: &str) -> CpuFeature {
        match word.strip_prefix('-') {
            Some(name) => CpuFeature { name: name.to_owned(), required: false },
            None => CpuFeature { name: word.to_owned(), required: true },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
}

/// How servers expect sockets to be counted. Guests see it, and some are licensed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopologyRule {
    /// Up to 4.19: what was asked for if it divides the number of vCPUs, else six or four cores.
    SixOrFour,
    /// Since 4.20: what was asked for if it divides the number of vCPUs, else single cores.
    Exact,
}

/// Sockets, cores and threads of `vcpus`; zero or less means not asked for.
pub fn topology(rule: TopologyRule, vcpus: u32, cores: i64, threads: i64) -> Option<Topology> {
    let asked = |number: i64| u32::try_from(number).ok().filter(|number| *number > 0);
    let divides = |number: &u32| *number > 0 && vcpus.checked_rem(*number) == Some(0);
    if vcpus == 0 {
        return None;
    }
    match rule {
        TopologyRule::SixOrFour => {
            let cores = asked(cores).filter(divides).or_else(|| [6, 4].into_iter().find(divides))?;
            Some(Topology { sockets: vcpus.checked_div(cores)?, cores, threads: 1 })
        }
        TopologyRule::Exact => {
            let (cores, threads) = (asked(cores).unwrap_or(1), asked(threads).unwrap_or(1));
            let fitting = cores.checked_mul(threads).filter(divides);
            let (cores, threads) = if fitting.is_some() { (cores, threads) } else { (1, 1) };
            Some(Topology { sockets: vcpus / fitting.unwrap_or(1), cores, threads })
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTuning {
    pub shares: u64,
    pub quota: Option<Quota>,
}

/// Microseconds that each vCPU may run in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub quota: u32,
    pub period: u32,
}

/// The weight of a guest with `vcpus` at `mhz` each. Control groups of version 2 know weights up to
/// 10000 only, so that of the whole host (`host_mhz`) is spread over them; 0 means version 1.
pub fn shares(vcpus: u32, mhz: u64, host_mhz: u64) -> u64 {
    const V1: (u64, u64) = (2, 262_144);
    const V2: (u64, u64) = (2, 10_000);
    let wanted = u64::from(vcpus).saturating_mul(mhz);
    match wanted
        .saturating_mul(V2.1)
        .checked_add(host_mhz.saturating_sub(1))
        .and_then(|n| n.checked_div(host_mhz))
    {
        Some(scaled) => scaled.clamp(V2.0, V2.1),
        None if host_mhz == 0 => wanted.clamp(V1.0, V1.1),
        None => V2.1,
    }
}

/// The limit for a fraction of a core per vCPU. The kernel takes no quota below a millisecond and no
/// period above a second.
pub fn quota(fraction: f64) -> Option<Quota> {
    const PERIOD: f64 = 10_000.0;
    const LEAST: f64 = 1_000.0;
    const LONGEST: f64 = 1_000_000.0;
    if !fraction.is_finite() || fraction <= 0.0 {
        return None;
    }
    let (quota, period) = if PERIOD * fraction < LEAST {
        (LEAST, (LEAST / fraction).min(LONGEST))
    } else {
        (PERIOD * fraction, PERIOD)
    };
    // Saturates: a huge fraction is as good as no limit.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(Quota { quota: quota as u32, period: period as u32 })
}

/// `None` if there is nothing to say.
pub(super) fn element(cpu: Option<&Cpu>, memory: Memory, vcpus: Vcpus) -> Option<Element> {
    let numa = memory.max.map(|_| numa(memory, vcpus));
    let Some(cpu) = cpu else {
        return numa.map(|numa| Element::new("cpu").child(numa));
    };
    let fallback = || Element::new("model").with("fallback", "allow");
    let element = Element::new("cpu");
    let element = match &cpu.mode {
        CpuMode::Default => element,
        CpuMode::Custom { model } => {
            element.with("mode", "custom").with("match", "exact").child(fallback().content(model))
        }
        CpuMode::HostModel => element.with("mode", "host-model").child(fallback()),
        CpuMode::HostPassthrough => element.with("mode", "host-passthrough"),
    };
    let features = cpu.features.iter().map(|feature| {
        let policy = if feature.required { "require" } else { "disable" };
        Element::new("feature").with("policy", policy).with("name", &feature.name)
    });
    let topology = cpu.topology.map(|topology| {
        Element::new("topology")
            .with("sockets", topology.sockets)
            .with("cores", topology.cores)
            .with("threads", topology.threads)
    });
    Some(element.children(features).child_some(topology).child_some(numa))
}

/// Memory can be added to a running guest only if it has NUMA nodes.
fn numa(memory: Memory, vcpus: Vcpus) -> Element {
    let cell = Element::new("cell")
        .with("id", 0)
        .with("cpus", format!("0-{}", vcpus.max.saturating_sub(1)))
        .with("memory", memory.current)
        .with("unit", "KiB");
    Element::new("numa").child(cell)
}

pub(super) fn tune(tuning: &CpuTuning) -> Element {
    let element = Element::new("cputune").child(Element::new("shares").content(tuning.shares));
    match tuning.quota {
        None => element,
        Some(Quota { quota, period }) => {
            element.child(Element::new("quota").content(quota)).child(Element::new("period").content(period))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topologies_by_version_of_the_server() {
        use TopologyRule::{Exact, SixOrFour};
        for (rule, vcpus, cores, threads, expected) in [
            (SixOrFour, 1, 0, 0, None),
            (SixOrFour, 3, 0, 0, None),
            (SixOrFour, 4, 0, 0, Some((1, 4, 1))),
            (SixOrFour, 12, 0, 0, Some((2, 6, 1))),
            (SixOrFour, 8, 2, 2, Some((4, 2, 1))),
            (SixOrFour, 8, 3, 0, Some((2, 4, 1))),
            (SixOrFour, 5, -1, 0, None),
            (Exact, 1, 0, 0, Some((1, 1, 1))),
            (Exact, 8, 2, 2, Some((2, 2, 2))),
            (Exact, 8, 3, 1, Some((8, 1, 1))),
            (Exact, 2, 2, 2, Some((2, 1, 1))),
            (Exact, 4, i64::MAX, 1, Some((4, 1, 1))),
            (Exact, 4, i64::from(u32::MAX), 7, Some((4, 1, 1))),
            (Exact, 0, 0, 0, None),
        ] {
            let found = topology(rule, vcpus, cores, threads).map(|t| (t.sockets, t.cores, t.threads));
            assert_eq!(found, expected, "{rule:?} {vcpus} {cores} {threads}");
        }
    }

    #[test]
    fn weights_fit_the_control_groups_of_the_host() {
        for (vcpus, mhz, host, expected) in [
            (1, 500, 0, 500),
            (0, 500, 0, 2),
            (128, 3_000, 0, 262_144),
            (2, 1_000, 48_000, 417),
            (1, 500, 48_000, 105),
            (1, 1, 48_000_000, 2),
            (64, 3_000, 9_600, 10_000),
            (u32::MAX, u64::MAX, 9_600, 10_000),
        ] {
            assert_eq!(shares(vcpus, mhz, host), expected, "{vcpus} x {mhz} of {host}");
        }
    }

    #[test]
    fn quotas_stay_within_what_the_kernel_takes() {
        for (fraction, expected) in [
            (0.5, Some((5_000, 10_000))),
            (1.0, Some((10_000, 10_000))),
            (2.5, Some((25_000, 10_000))),
            (0.05, Some((1_000, 20_000))),
            (0.000_1, Some((1_000, 1_000_000))),
            (0.0, None),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(quota(fraction).map(|q| (q.quota, q.period)), expected, "{fraction}");
        }
    }

    #[test]
    fn there_is_one_cpu_element() {
        let cpu = Cpu {
            mode: CpuMode::Custom { model: "<Skylake>".to_owned() },
            features: ["vmx", "-hle"].map(CpuFeature::parse).to_vec(),
            topology: topology(TopologyRule::Exact, 4, 2, 1),
        };
        let memory = Memory { current: 1024, max: Some(4096) };
        let xml = element(Some(&cpu), memory, Vcpus { current: 2, max: 4 }).unwrap().to_string();
        assert_eq!(
            xml,
            "<cpu mode='custom' match='exact'><model fallback='allow'>&lt;Skylake&gt;</model>\
             <feature policy='require' name='vmx'/><feature policy='disable' name='hle'/>\
             <topology sockets='2' cores='2' threads='1'/>\
             <numa><cell id='0' cpus='0-3' memory='1024' unit='KiB'/></numa></cpu>"
        );
        assert_eq!(element(None, Memory { current: 1, max: None }, Vcpus { current: 1, max: 1 }), None);
    }
}
