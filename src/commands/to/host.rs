//! `com.cloud.agent.api.to.HostTO`: another host.

use serde::Deserialize;
use std::net::IpAddr;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostTo {
    #[serde(default)]
    private_network: Option<NetworkTo>,
}

/// `com.cloud.agent.api.to.NetworkTO`.
#[derive(Debug, Clone, Default, Deserialize)]
struct NetworkTo {
    #[serde(default)]
    ip: Option<String>,
}

impl HostTo {
    /// Its private address, after which its heartbeats are named.
    pub fn private_ip(&self) -> Option<IpAddr> {
        self.private_network.as_ref()?.ip.as_deref()?.parse().ok()
    }
}
