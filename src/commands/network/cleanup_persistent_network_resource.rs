//! `com.cloud.agent.api.CleanupPersistentNetworkResourceCommand`: a network ends that was on every
//! host; its bridge goes, unless guests are on it. Always a success: what stays does no harm.

use super::nic::Nic;
use crate::commands::{Command, Ctx, Fault, NoFields, Reply};
use crate::network::Unplugged;

#[derive(Debug, serde::Deserialize)]
pub struct CleanupPersistentNetworkResourceCommand {
    #[serde(rename = "nicTO")]
    pub nic: Nic,
}

impl CleanupPersistentNetworkResourceCommand {
    /// What was done, for the answer.
    async fn clean_up(&self, ctx: &Ctx) -> Result<String, Fault> {
        let bridges = &ctx.services.bridges;
        let Some(bridge) = bridges.vnet_bridge(&self.nic.plan()?)? else {
            return Ok("The network has no bridge of its own".to_owned());
        };
        Ok(match bridges.unplug(&bridge, true).await? {
            Unplugged::Removed => format!("Bridge {bridge} is removed"),
            Unplugged::Absent => format!("Bridge {bridge} does not exist"),
            Unplugged::InUse { .. } => format!("Bridge {bridge} stays, it is in use"),
            Unplugged::NotOurs | Unplugged::Persistent => {
                format!("Bridge {bridge} stays, it is not this agent's")
            }
        })
    }
}

impl Command for CleanupPersistentNetworkResourceCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.CleanupPersistentNetworkResourceAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let details = self.clean_up(&ctx).await.unwrap_or_else(|fault| {
            tracing::warn!("Persistent network is not cleaned up: {fault}");
            fault.text().to_owned()
        });
        Ok(Reply::done().details(details))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.CleanupPersistentNetworkResourceCommand";

    #[tokio::test]
    async fn the_answer_is_always_good_and_says_what_stays() {
        let mut bench = Bench::new().await;
        for dir in ["cloudbr1/bridge", "cloudbr1/brif/eth0", "breth0-100/bridge", "breth0-100/brif/vnet3"] {
            std::fs::create_dir_all(bench.dir().join("sys/class/net").join(dir)).unwrap();
        }
        for (uri, label, expected) in [
            ("vlan://100", "cloudbr1", "Bridge breth0-100 stays, it is in use"),
            ("vlan://101", "cloudbr1", "Bridge breth0-101 does not exist"),
            ("vlan://untagged", "cloudbr1", "The network has no bridge of its own"),
            ("vlan://100", "../etc", "\"../etc\" cannot be the name"),
            ("vlan://a", "cloudbr1", "Broadcast URI"),
        ] {
            let nic = json!({"type": "Guest", "broadcastType": "Vlan", "broadcastUri": uri, "name": label});
            let (class, fields) = bench.answer(CLASS, json!({"nicTO": nic})).await;
            assert_eq!(class, "com.cloud.agent.api.CleanupPersistentNetworkResourceAnswer");
            assert_eq!(fields["result"], true);
            assert!(fields["details"].as_str().unwrap().starts_with(expected), "{fields}");
        }
    }
}
