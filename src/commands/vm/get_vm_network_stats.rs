//! `com.cloud.agent.api.GetVmNetworkStatsCommand`: counters of the interfaces of guests, from the
//! guests' point of view.

use super::GuestNames;
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::hypervisor::{DomainSample, NicSample};
use std::collections::BTreeMap;

#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub struct GetVmNetworkStatsCommand(GuestNames);

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVmNetworkStatsAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<String>,
    vm_network_stats_map: BTreeMap<String, Vec<VmNetworkStatsEntry>>,
}

/// `com.cloud.agent.api.VmNetworkStatsEntry`: bytes since the start of the guest.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct VmNetworkStatsEntry {
    vm_name: String,
    mac_address: String,
    bytes_sent: u64,
    bytes_received: u64,
}

fn entry(vm_name: &str, nic: &NicSample) -> VmNetworkStatsEntry {
    VmNetworkStatsEntry {
        vm_name: vm_name.to_owned(),
        mac_address: nic.mac.clone(),
        bytes_sent: nic.tx_bytes,
        bytes_received: nic.rx_bytes,
    }
}

fn entries(name: &str, sample: &DomainSample) -> Vec<VmNetworkStatsEntry> {
    sample.nics.iter().map(|nic| entry(name, nic)).collect()
}

impl Command for GetVmNetworkStatsCommand {
    type Answer = GetVmNetworkStatsAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetVmNetworkStatsAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetVmNetworkStatsAnswer>, Fault> {
        let samples = ctx.services.hypervisor.domain_samples(&self.0.vm_names).await?;
        let vm_network_stats_map =
            samples.iter().map(|(name, now)| (name.clone(), entries(name, now))).collect();
        Ok(Reply::ok(GetVmNetworkStatsAnswer { host_name: self.0.host_name, vm_network_stats_map })
            .details(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn interfaces_are_known_by_their_mac() {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        let names = json!({"vmNames": ["i-2-3-VM", "i-2-4-VM"], "hostGuid": "g", "hostName": "vm"});
        let (class, fields) = bench.answer("com.cloud.agent.api.GetVmNetworkStatsCommand", names).await;
        assert_eq!(class, "com.cloud.agent.api.GetVmNetworkStatsAnswer");
        assert_eq!((&fields["hostName"], &fields["details"]), (&json!("vm"), &json!("")));
        let map = fields["vmNetworkStatsMap"].as_object().unwrap();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["i-2-3-VM"]);
        assert_eq!(map["i-2-3-VM"][0]["macAddress"], "02:00:4c:9b:00:01");
    }

    #[test]
    fn what_the_guest_transmits_is_sent() {
        let nic = NicSample { mac: "02".into(), target: None, rx_bytes: 1, tx_bytes: 2 };
        let entry = entry("i", &nic);
        assert_eq!((entry.bytes_received, entry.bytes_sent), (1, 2));
    }
}
