//! `com.cloud.agent.api.SetupPersistentNetworkCommand`: makes the bridge of a network that is to be on
//! every host, whether guests are there or not.

use super::nic::Nic;
use crate::commands::{Command, Ctx, Fault, NoFields, Reply};

#[derive(Debug, serde::Deserialize)]
pub struct SetupPersistentNetworkCommand {
    pub nic: Nic,
}

impl Command for SetupPersistentNetworkCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.SetupPersistentNetworkAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        // The bridge stays when this is dropped: nobody removes it before a guest was on it.
        drop(ctx.services.bridges.plug(&self.nic.plan()?).await?);
        Ok(Reply::done().details("Successfully setup persistent network"))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.SetupPersistentNetworkCommand";

    #[tokio::test]
    async fn an_existing_bridge_is_a_success() {
        let mut bench = Bench::new().await;
        std::fs::create_dir_all(bench.dir().join("sys/class/net/cloudbr1/bridge")).unwrap();
        let nic = json!({"type": "Guest", "broadcastType": "Vlan", "broadcastUri": "vlan://untagged", "name": "cloudbr1"});
        let (class, fields) = bench.answer(CLASS, json!({"nic": nic})).await;
        assert_eq!(class, "com.cloud.agent.api.SetupPersistentNetworkAnswer");
        assert_eq!(
            (&fields["result"], &fields["details"]),
            (&json!(true), &json!("Successfully setup persistent network"))
        );
    }

    #[tokio::test]
    async fn a_missing_interface_is_named() {
        let nic = json!({"type": "Guest", "broadcastType": "Vlan", "broadcastUri": "vlan://100", "name": "cloudbr9"});
        let (class, fields) = Bench::new().await.answer(CLASS, json!({"nic": nic})).await;
        assert_eq!(class, "com.cloud.agent.api.SetupPersistentNetworkAnswer");
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().contains("cloudbr9 to put VLAN 100 on"), "{fields}");
    }
}
