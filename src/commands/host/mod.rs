//! Commands about this host: health, statistics, network labels, keys.

pub mod check_convert_instance;
pub mod check_health;
pub mod check_network;
pub mod check_on_host;
pub mod check_vm_activity_on_storage_pool;
pub mod cleanup_network_rules;
pub mod get_host_stats;
pub mod maintenance_unit;
pub mod modify_ssh_keys;
pub mod ping_test;
pub mod rolling_maintenance;
pub mod update_host_password;

mod maintenance_stage;

use super::fault::{Fault, fault_from};
use crate::files::AtomicError;
use crate::host::exec::ExecError;

fault_from!(AtomicError, ExecError);
