//! Commands of the connection itself: registration, pings, server list, shutdown.

pub mod agent_control;
pub mod maintain;
pub mod migrate_connection;
pub mod ping;
pub mod propagate_resource_event;
pub mod ready;
pub mod set_host_params;
pub mod setup_ms_list;
pub mod shutdown;
pub mod startup;
