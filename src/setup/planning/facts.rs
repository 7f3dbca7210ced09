//! What a plan is made from: the host as it was found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A host that has nothing is the default.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub is_root: bool,
    /// Whether systemd is what runs services here.
    pub has_systemd: bool,
    /// agent.properties, byte by byte.
    pub properties: Option<Vec<u8>>,
    /// UUIDs nobody has used, as many as there are local storage directories.
    pub fresh_ids: Vec<String>,
    pub memory_mib: u64,
    pub has_kvm: bool,
    /// Names of all network interfaces, bridges included.
    pub interfaces: BTreeSet<String>,
    /// Interface of the default route.
    pub default_nic: Option<String>,
    /// Whether br_netfilter is loaded at boot.
    pub module_configured: bool,
    pub module_loaded: bool,
    pub confinement: Option<Confinement>,
    pub libvirtd_conf: Option<String>,
    pub qemu_conf: Option<String>,
    /// /etc/default/libvirtd.
    pub libvirtd_default: Option<String>,
    /// The unit file of libvirtd as the package ships it.
    pub libvirtd_unit: Option<String>,
    pub units: BTreeMap<String, Unit>,
    /// Whether certificate, key and CA of this host are there.
    pub has_certificates: bool,
    /// What the links to the certificates are now; absent ones are not here.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// Rules of ufw as `ufw show added` tells them, without the program's name; `None` if it is not active.
    pub ufw_rules: Option<Vec<String>>,
    pub agent: AgentState,
}

/// State of a unit that exists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unit {
    pub active: bool,
    /// `enabled`, `disabled`, `masked`, and so on.
    pub file_state: String,
}

/// AppArmor, where it is active.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    pub profiles: Vec<Profile>,
}

/// A profile file that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name in /etc/apparmor.d.
    pub file: String,
    pub disabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentState {
    #[default]
    NotRegistered,
    /// As the agent's own snapshot says.
    Registered,
}

impl Facts {
    pub fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.get(name)
    }
}
