//! Commands about networks and their routers.

use super::fault::{Fault, fault_from};
use crate::network::NetworkError;

pub mod cleanup_persistent_network_resource;
pub mod network_usage;
pub mod nic;
pub mod plug_nic;
pub mod replug_nic;
pub(super) mod router;
pub mod setup_persistent_network;
pub mod un_plug_nic;

fault_from!(NetworkError);
