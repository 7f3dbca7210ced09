//! Gathers what a registration is made of, afresh for each session, and shows it in `--status`.

use crate::commands::Identity;
use crate::config::{Change, Config, ConfigStore, LocalStorage};
use crate::errors::chain;
use crate::host::inventory::{self, ConstantFacts, Inventory, LocalPoolSetting, Settings};
use crate::hypervisor::Hypervisor;
use crate::status::board::Board;
use crate::status::checks::Check;
use crate::status::snapshot::{MachineSection, PoolSection};
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

const MIB: u64 = 1024 * 1024;

/// Settings of the inventory as the configuration has them; pools without an id are left out.
pub fn settings(config: &Config) -> Settings {
    let pool = |storage: &LocalStorage| {
        Some(LocalPoolSetting { uuid: storage.uuid?, path: storage.path.to_string_lossy().into_owned() })
    };
    Settings {
        private_device: config.private_network_device.clone(),
        public_device: config.public_network_device.clone(),
        reserved_cpus: config.host_reserved_cpu_count,
        reserved_memory: config.host_reserved_mem_mb.saturating_mul(MIB),
        overcommit_memory: config.host_overcommit_mem_mb.saturating_mul(MIB),
        manual_speed_mhz: config.host_cpu_manual_speed_mhz,
        local_pools: config.local_storage.iter().filter_map(pool).collect(),
        certificate: config.dir().join(crate::tls::material::CERTIFICATE_FILE),
        uefi_properties: config.dir().join("uefi.properties"),
        health_script: config.health_check_script.clone(),
        ..Settings::default()
    }
}

/// The source of inventories.
#[derive(Debug)]
pub struct Facts {
    pub config: ConfigStore,
    pub hypervisor: Hypervisor,
    pub constants: ConstantFacts,
    pub board: Board,
    pub identity: watch::Sender<Option<Identity>>,
}

impl Facts {
    /// One inventory; an error is one line in words.
    pub async fn gather(self: Arc<Self>, config: Arc<Config>) -> Result<Inventory, String> {
        let mut checks = Vec::new();
        let config = match self.with_pool_ids(&config).await {
            Ok(config) => config,
            Err(error) => {
                let remedy = "make agent.properties writable; local storage is not announced until then";
                checks.push(Check::warn("storage:ids", error, remedy));
                config
            }
        };
        let inventory = inventory::gather(&settings(&config), &self.hypervisor, &self.constants)
            .await
            .map_err(|error| chain(&error))?;
        let problem = |p: &inventory::Problem| {
            Check::warn(
                format!("inventory:{}", p.subject),
                format!("{}: {}", p.subject, p.message),
                p.remedy.clone(),
            )
        };
        checks.extend(inventory.problems.iter().map(problem));
        for check in &checks {
            tracing::warn!(remedy = check.remedy.as_deref(), "Inventory: {}", check.summary);
        }
        self.publish(&inventory, checks);
        Ok(inventory)
    }

    /// A pool without a stable id would be a new pool at each start and strand its volumes: a
    /// missing id is made once and saved before it is used.
    async fn with_pool_ids(&self, config: &Arc<Config>) -> Result<Arc<Config>, String> {
        if config.local_storage.iter().all(|storage| storage.uuid.is_some()) {
            return Ok(config.clone());
        }
        let mut complete = Config::clone(config);
        for storage in &mut complete.local_storage {
            storage.uuid.get_or_insert_with(Uuid::new_v4);
        }
        let ids: Vec<String> =
            complete.local_storage.iter().filter_map(|s| s.uuid).map(|id| id.to_string()).collect();
        let change = Change { key: "local.storage.uuid", value: Some(ids.join(",")) };
        self.config.persist(vec![change]).await.map_err(|error| chain(&error))?;
        tracing::info!(ids = ids.join(","), "Made ids for local storage and saved them");
        Ok(Arc::new(complete))
    }

    fn publish(&self, inventory: &Inventory, checks: Vec<Check>) {
        self.identity.send_replace(Some(Identity {
            hostname: inventory.hostname.clone(),
            private_ip: Some(inventory.private.ipv4.to_string()),
            arch: inventory.arch.clone(),
            cpu_capacity_mhz: inventory.cpu_capacity_mhz,
        }));
        self.board.machine(MachineSection {
            cpus: Some(u64::from(inventory.cpus)),
            cpu_mhz: Some(inventory.speed_mhz),
            memory_bytes: Some(inventory.memory),
            reserved_bytes: Some(inventory.reserved_memory),
        });
        let pools = inventory.pools.iter().map(|pool| PoolSection {
            uuid: pool.uuid.to_string(),
            kind: "local".into(),
            path: pool.path.clone(),
            total_bytes: Some(pool.capacity),
            used_bytes: Some(pool.capacity.saturating_sub(pool.available)),
            heartbeat_at: None,
        });
        self.board.storage(pools.collect());
        self.board.checks("inventory", checks);
    }
}
