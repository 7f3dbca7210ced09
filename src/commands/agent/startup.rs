//! `com.cloud.agent.api.StartupRoutingCommand` and `StartupStorageCommand`: the registration.
//!
//! One request: the routing command first, then one storage command per local pool. The newest
//! superset of fields is sent to every server; older ones ignore what they do not know.

use crate::commands::NoFields;
use crate::config::Config;
use crate::host::inventory::{Inventory, LocalPool};
use crate::wire::{Element, Sent, lenient};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub const ROUTING: &str = "com.cloud.agent.api.StartupRoutingCommand";
pub const STORAGE: &str = "com.cloud.agent.api.StartupStorageCommand";
pub const ANSWER: &str = "com.cloud.agent.api.StartupAnswer";

/// Name of the resource class that servers expect; also the suffix of the guid.
pub const RESOURCE: &str = "LibvirtComputingResource";

/// Version of the agent whose behaviour this one has. Shown by servers, checked by none.
pub use crate::status::WIRE_VERSION;

/// `com.cloud.agent.api.StartupAnswer`. The early one says `hostId` 0: not assigned yet.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartupAnswer {
    #[serde(default, deserialize_with = "lenient::opt_flag")]
    pub result: Option<bool>,
    #[serde(default)]
    pub details: Option<String>,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub host_id: Option<i64>,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub ping_interval: Option<i64>,
}

/// What a registration is made of.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    pub config: &'a Config,
    pub inventory: &'a Inventory,
    /// From an earlier ReadyCommand; left out when unknown, never 0.
    pub host_id: Option<i64>,
    /// The connection was moved here on purpose (4.21): servers skip some work.
    pub transferred: bool,
}

/// Fields of `com.cloud.agent.api.StartupCommand`, common to both.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct StartupCommand<'a> {
    #[serde(rename = "type")]
    host_type: &'static str,
    data_center: &'a str,
    pod: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    guid: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    version: &'static str,
    resource_name: &'static str,
    ms_host_list: &'a str,
    arch: &'a str,
    connection_transferred: bool,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Addresses<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    iqn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_ip_address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_netmask: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_mac_address: Option<&'a str>,
    private_ip_address: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_mac_address: Option<&'a str>,
    private_netmask: Ipv4Addr,
    storage_ip_address: Ipv4Addr,
    storage_netmask: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_mac_address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway_ip_address: Option<Ipv4Addr>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct StartupRoutingCommand<'a> {
    cpu_sockets: u32,
    cpus: u32,
    /// MHz.
    speed: u64,
    cpu_arch: &'a str,
    /// Bytes, after reservation and overcommit.
    memory: u64,
    /// Bytes.
    dom0_min_memory: u64,
    pool_sync: bool,
    supports_cloned_volumes: bool,
    caps: &'static str,
    pool: &'a str,
    hypervisor_type: &'static str,
    host_details: BTreeMap<&'static str, String>,
    host_tags: &'a [String],
    group_details: NoFields,
    gpu_devices: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    host_health_check_result: Option<bool>,
    #[serde(flatten)]
    common: StartupCommand<'a>,
    #[serde(flatten)]
    addresses: Addresses<'a>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct StartupStorageCommand<'a> {
    total_size: u64,
    pool_info: StoragePoolInfo<'a>,
    resource_type: &'static str,
    host_details: NoFields,
    #[serde(flatten)]
    common: StartupCommand<'a>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct StoragePoolInfo<'a> {
    uuid: String,
    /// Private address of this host; part of the pool's identity on the server.
    host: Ipv4Addr,
    local_path: &'a str,
    host_path: &'a str,
    pool_type: &'static str,
    capacity_bytes: u64,
    available_bytes: u64,
}

impl<'a> Registration<'a> {
    /// The commands of the startup request, in order.
    pub fn elements(&self) -> Result<Vec<Element>, serde_json::Error> {
        let mut elements = vec![Element::new(ROUTING, &Sent::new(&self.routing()))?];
        for pool in &self.inventory.pools {
            elements.push(Element::new(STORAGE, &Sent::new(&self.storage(pool)))?);
        }
        Ok(elements)
    }

    fn common(&self, host_type: &'static str) -> StartupCommand<'a> {
        let guid = self.config.guid.as_deref().unwrap_or_default();
        StartupCommand {
            host_type,
            data_center: &self.config.zone,
            pod: &self.config.pod,
            cluster: (host_type == "Routing").then_some(self.config.cluster.as_str()),
            guid: format!("{guid}-{RESOURCE}"),
            name: &self.inventory.hostname,
            id: self.host_id.filter(|id| *id > 0),
            version: WIRE_VERSION,
            resource_name: RESOURCE,
            ms_host_list: &self.config.host,
            arch: &self.inventory.arch,
            connection_transferred: self.transferred,
        }
    }

    fn routing(&self) -> StartupRoutingCommand<'a> {
        let inventory = self.inventory;
        StartupRoutingCommand {
            cpu_sockets: inventory.cpu_sockets,
            cpus: inventory.cpus,
            speed: inventory.speed_mhz,
            cpu_arch: &inventory.arch,
            memory: inventory.memory,
            dom0_min_memory: inventory.reserved_memory,
            pool_sync: false,
            supports_cloned_volumes: false,
            caps: "hvm,snapshot",
            pool: self.config.pool.as_deref().unwrap_or("/root"),
            hypervisor_type: "KVM",
            host_details: host_details(inventory),
            host_tags: &self.config.host_tags,
            group_details: NoFields {},
            gpu_devices: [],
            host_health_check_result: inventory.health,
            common: self.common("Routing"),
            addresses: self.addresses(),
        }
    }

    fn addresses(&self) -> Addresses<'a> {
        let (public, private, storage) =
            (self.inventory.public.as_ref(), &self.inventory.private, &self.inventory.storage);
        Addresses {
            iqn: self.inventory.iqn.as_deref(),
            public_ip_address: public.map(|nic| nic.ipv4),
            public_netmask: public.map(|nic| nic.netmask),
            public_mac_address: public.and_then(|nic| nic.mac.as_deref()),
            private_ip_address: private.ipv4,
            private_mac_address: private.mac.as_deref(),
            private_netmask: private.netmask,
            storage_ip_address: storage.ipv4,
            storage_netmask: storage.netmask,
            storage_mac_address: storage.mac.as_deref(),
            gateway_ip_address: self.inventory.gateway,
        }
    }

    fn storage(&self, pool: &'a LocalPool) -> StartupStorageCommand<'a> {
        StartupStorageCommand {
            total_size: 0,
            pool_info: StoragePoolInfo {
                uuid: pool.uuid.to_string(),
                host: self.inventory.private.ipv4,
                local_path: &pool.path,
                host_path: &pool.path,
                pool_type: "Filesystem",
                capacity_bytes: pool.capacity,
                available_bytes: pool.available,
            },
            resource_type: "STORAGE_POOL",
            host_details: NoFields {},
            common: self.common("Storage"),
        }
    }
}

/// Facts that servers store as details of the host.
fn host_details(inventory: &Inventory) -> BTreeMap<&'static str, String> {
    let mut details = BTreeMap::from([
        ("com.cloud.network.Networks.RouterPrivateIpStrategy", "HostLocal".to_owned()),
        ("Host.OS", inventory.os.name.clone()),
        ("Host.OS.Version", inventory.os.version.clone()),
        ("Host.OS.Kernel.Version", inventory.os.kernel.clone()),
        ("secured", inventory.secured.to_string()),
        ("host.volume.encryption", inventory.capabilities.volume_encryption.to_string()),
        ("host.instance.conversion", inventory.capabilities.instance_conversion.to_string()),
    ]);
    if inventory.capabilities.instance_conversion {
        details.extend(super::ready::converter_versions(&inventory.capabilities));
    }
    details
}
