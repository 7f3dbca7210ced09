//! Commands about networks and their routers.

pub mod network_usage;
pub(super) mod router;
