//! Values that cross the boundary between handlers and the hypervisor. Plain data: no libvirt
//! types, no wire names.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::histogram::Histogram;

/// What is known about the libvirt connection; published on a watch channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LibvirtStatus {
    pub uri: String,
    pub connection: Connection,
    /// Calls handed to libvirt since the process started.
    pub calls: u64,
    /// Calls given up because libvirt did not return before their deadline.
    pub deadline_misses: u64,
}

/// Calls of one kind since the process started.
#[derive(Debug, Clone)]
pub struct CallFigures {
    /// `question`, `change`, `storage` or `migration`.
    pub kind: &'static str,
    /// Calls given up because libvirt did not return before their deadline.
    pub deadline_misses: u64,
    /// Calls given up that have not returned yet; each occupies a thread.
    pub stuck: usize,
    /// Waiting in line included, up to the answer or the deadline.
    pub latency: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Connection {
    Connecting {
        /// 1 for the first attempt since the last success.
        attempt: u32,
        last_error: Option<String>,
    },
    Connected {
        /// Of the libvirt daemon, such as "9.0.0".
        libvirt_version: String,
        /// Such as "7.2.0"; "unknown" until libvirt has told it, which takes seconds on machines
        /// where libvirt has to probe QEMU first.
        hypervisor_version: String,
        hypervisor_kind: HypervisorKind,
    },
    Lost {
        error: String,
    },
}

impl Connection {
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// The libvirt driver behind the connection (`virConnectGetType`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HypervisorKind {
    Qemu,
    Lxc,
    /// libvirt's in-memory mock driver (`test:///`).
    Test,
    Other(String),
}

impl HypervisorKind {
    pub fn from_driver_type(name: &str) -> Self {
        match name {
            "QEMU" => Self::Qemu,
            "LXC" => Self::Lxc,
            "Test" | "TEST" => Self::Test,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for HypervisorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qemu => f.write_str("QEMU"),
            Self::Lxc => f.write_str("LXC"),
            Self::Test => f.write_str("test"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// Whether the capabilities document has been read on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CapabilitiesState {
    Known,
    /// libvirt is still probing QEMU: `tsc_hz` is unknown and `supports_hvm` is assumed.
    Pending,
}

/// The node as libvirt describes it (`virNodeGetInfo`, `virConnectGetCapabilities`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeFacts {
    /// `virConnectGetHostname`: the name that power reports carry.
    pub hostname: String,
    /// Per NUMA node.
    pub cpu_sockets: u32,
    pub numa_nodes: u32,
    pub cpus: u32,
    /// 0 when libvirt does not know.
    pub mhz: u32,
    pub memory_kib: u64,
    pub tsc_hz: Option<u64>,
    pub supports_hvm: bool,
    /// Machine name of the host CPU, such as "x86_64".
    pub arch: String,
    pub libvirt_version: String,
    pub hypervisor_version: String,
    pub capabilities: CapabilitiesState,
}

/// `virDomainState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainState {
    NoState,
    Running,
    Blocked,
    Paused,
    Shutdown,
    Shutoff,
    Crashed,
    PmSuspended,
    /// A state that this program does not know.
    Unknown,
}

/// What the server wants to know of a domain state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerState {
    On,
    Off,
    Unknown,
}

impl DomainState {
    /// Mirrors the power state table of `LibvirtComputingResource`.
    pub fn power(self) -> PowerState {
        match self {
            Self::Running | Self::Blocked | Self::Paused => PowerState::On,
            Self::Shutdown | Self::Shutoff => PowerState::Off,
            Self::NoState | Self::Crashed | Self::PmSuspended | Self::Unknown => PowerState::Unknown,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DomainPower {
    pub name: String,
    pub state: DomainState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DomainSummary {
    pub state: DomainState,
    /// TCP port of the first VNC display, as libvirt has it (5900 and up).
    pub vnc_port: Option<u16>,
    pub vcpus: u32,
}

/// Counters of one guest since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DomainSample {
    pub cpu_time_ns: u64,
    pub vcpus: u32,
    pub max_memory_kib: u64,
    pub memory_kib: u64,
    /// Only with a balloon driver in the guest that reports.
    pub unused_memory_kib: Option<u64>,
    /// Disks proper: no CD-ROM, no floppy.
    pub disks: Vec<DiskSample>,
    pub nics: Vec<NicSample>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiskSample {
    /// Target device in the guest, such as "vda".
    pub device: String,
    /// File, block device or network image name.
    pub source: Option<String>,
    pub read_requests: u64,
    pub read_bytes: u64,
    pub write_requests: u64,
    pub write_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NicSample {
    /// Lower case, with colons.
    pub mac: String,
    /// Tap device on the host.
    pub target: Option<String>,
    /// From the guest's point of view, as libvirt reports them.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    Dir,
    NetFs,
    Rbd,
    Logical,
    Other(String),
}

impl PoolKind {
    pub fn from_libvirt(name: &str) -> Self {
        match name {
            "dir" => Self::Dir,
            "netfs" => Self::NetFs,
            "rbd" => Self::Rbd,
            "logical" => Self::Logical,
            other => Self::Other(other.to_owned()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    Active,
    Inactive,
}

/// A storage pool; sizes in bytes (`virStoragePoolGetInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolFacts {
    #[serde(serialize_with = "uuid_text")]
    pub uuid: Uuid,
    pub name: String,
    pub kind: PoolKind,
    /// Where volumes are on this node; absent for RBD.
    pub path: Option<String>,
    pub capacity: u64,
    pub allocation: u64,
    pub available: u64,
    pub state: PoolState,
}

/// An active pool on a network file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetPool {
    #[serde(serialize_with = "uuid_text")]
    pub uuid: Uuid,
    pub name: String,
    pub source_host: String,
    pub source_dir: String,
    /// Mount point.
    pub path: String,
}

/// Bytes (`virStorageVolGetInfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VolumeFacts {
    pub capacity: u64,
    pub allocation: u64,
}

/// Whether libvirt looks at the storage again before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    Yes,
    No,
}

/// Result of taking something away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    /// It was there, and is no more.
    Done,
    /// There was nothing to do.
    Absent,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    Reached,
    TimedOut,
}

/// Text that must not show in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

/// A lifecycle event of a guest (`VIR_DOMAIN_EVENT_ID_LIFECYCLE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainEvent {
    pub name: String,
    pub kind: DomainEventKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainEventKind {
    Started,
    Stopped { reason: StopReason },
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    Shutdown,
    Crashed,
    Failed,
    Destroyed,
    Other,
}

/// Writes a UUID in its hyphenated form.
pub(crate) fn uuid_text<S: Serializer>(uuid: &Uuid, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(uuid)
}

/// Formats libvirt's `major * 1000000 + minor * 1000 + micro`.
pub(crate) fn dotted_version(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_dotted() {
        assert_eq!(dotted_version(9_000_000), "9.0.0");
        assert_eq!(dotted_version(7_002_022), "7.2.22");
    }

    #[test]
    fn only_live_states_count_as_on() {
        let on = [DomainState::Running, DomainState::Blocked, DomainState::Paused];
        assert!(on.iter().all(|s| s.power() == PowerState::On));
        assert_eq!(DomainState::Shutoff.power(), PowerState::Off);
        assert_eq!(DomainState::Shutdown.power(), PowerState::Off);
        for s in [DomainState::NoState, DomainState::Crashed, DomainState::PmSuspended, DomainState::Unknown]
        {
            assert_eq!(s.power(), PowerState::Unknown);
        }
    }
}
