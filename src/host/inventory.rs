//! Everything that the server is told about this host when it registers, as plain values.
//!
//! Mirrors `LibvirtComputingResource.initialize`. Gathered anew for each registration; what cannot
//! change while the process runs is read once (`ConstantFacts`). No part may hold up registration:
//! every probe has a deadline, and a storage pool that cannot be prepared is left out and reported.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

use super::capabilities::{Capabilities, CapabilityFacts};
use super::cpu::{self, SpeedHints};
use super::memory::MemoryFacts;
use super::nic::{self, NicFacts};
use super::os::{self, OsFacts};
use super::secured::SecuredProbe;
use super::{exec, health};
use crate::hypervisor::{Hypervisor, HypervisorError, NodeFacts, uuid_text};

#[derive(Debug, Error)]
pub enum InventoryError {
    #[error("libvirt does not describe this node, so it cannot register")]
    Node(#[source] HypervisorError),
    #[error(
        "Neither private.network.device {device} nor any other interface has an IPv4 address: configure the bridge"
    )]
    NoPrivateAddress { device: String },
    #[error(
        "This node cannot run fully virtualised guests: enable VT-x or AMD-V in the firmware and load the kvm module"
    )]
    NoHvm,
    #[error("/proc/meminfo cannot be read: mount /proc")]
    NoMemoryFigures,
}

/// What the configuration says about the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// "/" except in tests.
    pub root: PathBuf,
    /// `private.network.device`
    pub private_device: String,
    /// `public.network.device`
    pub public_device: String,
    /// Absent: the private one also carries storage traffic.
    pub storage_device: Option<String>,
    /// `host.reserved.cpu.count`
    pub reserved_cpus: u32,
    /// `host.reserved.mem.mb`, in bytes.
    pub reserved_memory: u64,
    /// `host.overcommit.mem.mb`, in bytes.
    pub overcommit_memory: u64,
    /// `host.cpu.manual.speed.mhz`, 0 for none.
    pub manual_speed_mhz: u64,
    /// `local.storage.uuid` and `local.storage.path`, in pairs.
    pub local_pools: Vec<LocalPoolSetting>,
    /// cloud.crt beside agent.properties.
    pub certificate: PathBuf,
    pub uefi_properties: PathBuf,
    /// `agent.health.check.script.path`
    pub health_script: Option<PathBuf>,
    pub health_deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: "/".into(),
            private_device: "cloudbr1".to_owned(),
            public_device: "cloudbr0".to_owned(),
            storage_device: None,
            reserved_cpus: 0,
            reserved_memory: 1024 * 1_048_576,
            overcommit_memory: 0,
            manual_speed_mhz: 0,
            local_pools: Vec::new(),
            certificate: "/etc/cloudstack/agent/cloud.crt".into(),
            uefi_properties: "/etc/cloudstack/agent/uefi.properties".into(),
            health_script: None,
            health_deadline: health::DEADLINE,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPoolSetting {
    pub uuid: Uuid,
    pub path: String,
}

/// What does not change while the process runs, and the probes that find out in the background
/// what takes long.
#[derive(Debug, Clone)]
pub struct ConstantFacts {
    pub os: OsFacts,
    /// As `hostname` prints it; the server knows the host by it, so it is read once.
    pub hostname: String,
    pub arch: String,
    pub iqn: Option<String>,
    pub cpu_model: Option<String>,
    pub capabilities: Capabilities,
    pub secured: SecuredProbe,
    cpuinfo: String,
}

impl ConstantFacts {
    /// Reads the files and starts the probes; must be called within a tokio runtime.
    pub fn collect(settings: &Settings) -> Self {
        let root = settings.root.as_path();
        let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        // The first CPU says all; a large node has hundreds of them.
        let cpuinfo = cpuinfo.split("\n\n").next().unwrap_or_default().to_owned();
        Self {
            os: os::os(root),
            hostname: os::hostname(),
            arch: os::arch(),
            iqn: os::iqn(root),
            cpu_model: cpu::model_name(&cpuinfo).map(str::to_owned),
            capabilities: Capabilities::spawn(settings.uefi_properties.clone()),
            secured: SecuredProbe::new(settings.certificate.clone()),
            cpuinfo,
        }
    }
}

/// The host as it registers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inventory {
    pub hostname: String,
    pub arch: String,
    pub iqn: Option<String>,
    pub os: OsFacts,
    pub cpu_model: Option<String>,
    /// Of all NUMA nodes together.
    pub cpu_sockets: u32,
    /// CPUs for guests: those reserved for the host are taken off.
    pub cpus: u32,
    /// Per core.
    pub speed_mhz: u64,
    /// `cpus` times `speed_mhz` where CPU weights are scaled (cgroup v2), else 0.
    pub cpu_capacity_mhz: u64,
    /// Bytes for guests.
    pub memory: u64,
    /// Bytes kept back for the host.
    pub reserved_memory: u64,
    pub node: NodeFacts,
    pub private: NicFacts,
    pub public: Option<NicFacts>,
    pub storage: NicFacts,
    pub gateway: Option<Ipv4Addr>,
    pub secured: bool,
    pub capabilities: CapabilityFacts,
    /// The opinion of the health check script, if there is one.
    pub health: Option<bool>,
    /// In the order of the settings.
    pub pools: Vec<LocalPool>,
    /// What is wrong but does not prevent registration.
    pub problems: Vec<Problem>,
}

/// A local storage pool that is ready; bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalPool {
    #[serde(serialize_with = "uuid_text")]
    pub uuid: Uuid,
    /// Absolute, without a trailing slash.
    pub path: String,
    pub capacity: u64,
    pub available: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub subject: String,
    pub message: String,
    pub remedy: String,
}

/// Gathers the inventory. Needs a libvirt connection.
pub async fn gather(
    settings: &Settings,
    hypervisor: &Hypervisor,
    constants: &ConstantFacts,
) -> Result<Inventory, InventoryError> {
    let mut problems = Vec::new();
    let network = network(settings, &mut problems)?;
    let (node, (pools, pool_problems), secured, health) = tokio::join!(
        hypervisor.node_facts(),
        local_pools(&settings.local_pools, hypervisor),
        constants.secured.is_secured(network.private.ipv4),
        health(settings),
    );
    problems.extend(pool_problems);
    let node = node.map_err(InventoryError::Node)?;
    if !node.supports_hvm {
        return Err(InventoryError::NoHvm);
    }
    let memory = MemoryFacts::read(&settings.root).ok_or(InventoryError::NoMemoryFigures)?;
    let hints = SpeedHints {
        manual_mhz: settings.manual_speed_mhz,
        tsc_hz: node.tsc_hz.unwrap_or(0),
        node_mhz: u64::from(node.mhz),
    };
    let speed_mhz = cpu::speed_mhz(&settings.root, &constants.cpuinfo, hints);
    let cpus = node.cpus.saturating_sub(settings.reserved_cpus);
    let scaled = cpu::has_cgroup2(&settings.root);
    Ok(Inventory {
        hostname: constants.hostname.clone(),
        arch: constants.arch.clone(),
        iqn: constants.iqn.clone(),
        os: constants.os.clone(),
        cpu_model: constants.cpu_model.clone(),
        cpu_sockets: node.cpu_sockets.saturating_mul(node.numa_nodes.max(1)),
        cpus,
        speed_mhz,
        cpu_capacity_mhz: if scaled { u64::from(cpus).saturating_mul(speed_mhz) } else { 0 },
        memory: memory.for_guests(settings.reserved_memory, settings.overcommit_memory),
        reserved_memory: settings.reserved_memory,
        node,
        private: network.private,
        public: network.public,
        storage: network.storage,
        gateway: nic::default_gateway(&settings.root),
        secured,
        capabilities: constants.capabilities.current(),
        health,
        pools,
        problems,
    })
}

struct Network {
    private: NicFacts,
    public: Option<NicFacts>,
    storage: NicFacts,
}

fn network(settings: &Settings, problems: &mut Vec<Problem>) -> Result<Network, InventoryError> {
    let root: &Path = &settings.root;
    let private = match nic::nic(root, &settings.private_device) {
        Some(private) => private,
        None => {
            let other = nic::first_suitable(root).ok_or_else(|| InventoryError::NoPrivateAddress {
                device: settings.private_device.clone(),
            })?;
            problems.push(Problem {
                subject: settings.private_device.clone(),
                message: format!("No IPv4 address on the private device; {} is used", other.name),
                remedy: "configure the bridge, or correct private.network.device in agent.properties"
                    .to_owned(),
            });
            other
        }
    };
    let public = nic::nic(root, &settings.public_device);
    // A public bridge without an address is normal; one that does not exist is not.
    if public.is_none() && !root.join("sys/class/net").join(&settings.public_device).exists() {
        problems.push(Problem {
            subject: settings.public_device.clone(),
            message: "The public device does not exist".to_owned(),
            remedy: "create the bridge, or correct public.network.device in agent.properties".to_owned(),
        });
    }
    let storage = settings.storage_device.as_deref().and_then(|name| nic::nic(root, name));
    Ok(Network { storage: storage.unwrap_or_else(|| private.clone()), private, public })
}

async fn local_pools(
    settings: &[LocalPoolSetting],
    hypervisor: &Hypervisor,
) -> (Vec<LocalPool>, Vec<Problem>) {
    let (mut pools, mut problems) = (Vec::new(), Vec::new());
    for setting in settings {
        match hypervisor.ensure_dir_pool(setting.uuid, &setting.path).await {
            Ok(facts) => pools.push(LocalPool {
                uuid: facts.uuid,
                path: facts.path.unwrap_or_else(|| setting.path.clone()),
                capacity: facts.capacity,
                available: facts.available,
            }),
            Err(error) => problems.push(pool_problem(setting, &error)),
        }
    }
    (pools, problems)
}

/// The messages of `HypervisorError` end in what to do about it, after a colon.
fn pool_problem(setting: &LocalPoolSetting, error: &HypervisorError) -> Problem {
    let text = error.to_string();
    let (message, remedy) = text.rsplit_once(": ").unwrap_or((text.as_str(), "see the log"));
    let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
    Problem {
        subject: format!("local storage {} at {}", setting.uuid, setting.path),
        message: format!("{message}{cause}"),
        remedy: remedy.to_owned(),
    }
}

async fn health(settings: &Settings) -> Option<bool> {
    let script = settings.health_script.as_deref().filter(|script| exec::is_executable(script))?;
    health::check(script, settings.health_deadline).await
}

#[cfg(test)]
mod tests;
