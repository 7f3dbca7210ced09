//! `com.cloud.agent.api.UnPlugNicCommand`: takes a network card from a running guest, and the bridge of
//! its network with the last one. A card that is gone is a success.

use super::nic::Nic;
use crate::commands::to::NicTo;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::hypervisor::Detached;
use crate::journal::{Action, Work};
use crate::network::vnet_id;
use crate::wire::lenient;
use std::collections::BTreeMap;
use std::time::Duration;

/// For the guest to give the card up.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnPlugNicCommand {
    #[serde(default)]
    nic: Option<NicTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    instance_name: String,
    /// By network id: whether the bridge goes with its last card.
    #[serde(default, deserialize_with = "lenient::or_default")]
    vlan_to_persistence_map: BTreeMap<String, bool>,
}

impl UnPlugNicCommand {
    async fn unplug(&self, ctx: &Ctx, work: &mut Work, to: &NicTo) -> Result<(), Fault> {
        let (services, name) = (&ctx.services, &self.instance_name);
        let guest = services.hypervisor.running(name).await?;
        let nic = guest.interfaces.iter().find(|nic| nic.mac.eq_ignore_ascii_case(&to.mac));
        // An earlier attempt may have left the bridge.
        let planned = || services.bridges.vnet_bridge(&Nic::from(to).plan().ok()?).ok().flatten();
        let bridge = nic.map_or_else(planned, |nic| nic.source.clone());
        if let Some((id, bridge)) = bridge.and_then(|bridge| Some((vnet_id(&bridge)?, bridge))) {
            let delete = self.vlan_to_persistence_map.get(&id.to_string()).copied().unwrap_or(true);
            work.after_commit(Action::Unplug { bridge, delete }).await?;
        }
        let Some(nic) = nic else {
            tracing::info!(guest = name, mac = to.mac, "There is no such network card, nothing to unplug");
            return Ok(());
        };
        let patience = ctx.patience(PATIENCE);
        match services.hypervisor.detach_interface(name, &nic.mac, patience).await? {
            Detached::Absent | Detached::Gone(_) => {
                tracing::info!(guest = name, mac = nic.mac, "Network card is unplugged");
                Ok(())
            }
            Detached::Kept(nic) => Err(Fault::new(format!(
                "Guest {name} has not given network card {} up within {} s: its operating system does not react. Try \
                 again, or stop the guest and remove the card then",
                nic.mac,
                patience.as_secs()
            ))),
        }
    }
}

impl Command for UnPlugNicCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.UnPlugNicAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.instance_name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let to = self.nic.as_ref().ok_or_else(|| Fault::new("The command has no network card"))?;
        let mut work =
            ctx.services.journal.begin("unplug a network card", &self.instance_name, &ctx.logid).await;
        let result = self.unplug(&ctx, &mut work, to).await;
        work.settle(result).await?;
        Ok(Reply::done().details("success"))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use crate::commands::vm::node::XML;
    use serde_json::{Value, json};

    async fn unplug(bench: &mut Bench, guest: &str, mac: &str) -> Value {
        let nic = json!({"mac": mac, "type": "Guest", "broadcastType": "Vlan", "broadcastUri": "vlan://100", "name": "lan"});
        let fields = json!({"nic": nic, "instanceName": guest, "vlanToPersistenceMap": {"100": true}});
        let (class, fields) = bench.answer("com.cloud.agent.api.UnPlugNicCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.UnPlugNicAnswer");
        fields
    }

    #[tokio::test]
    async fn a_card_that_is_gone_is_a_success_and_a_guest_that_is_gone_is_not() {
        let mut bench = Bench::with_node(XML).await;
        let answer = unplug(&mut bench, "i-2-3-VM", "02:00:4c:9b:00:09").await;
        assert_eq!((&answer["result"], &answer["details"]), (&json!(true), &json!("success")));
        let answer = unplug(&mut bench, "i-2-9-VM", "02:00:4c:9b:00:01").await;
        assert!(answer["details"].as_str().unwrap().contains("No guest named i-2-9-VM"), "{answer}");
        // libvirt's test driver cannot detach anything.
        let answer = unplug(&mut bench, "i-2-3-VM", "02:00:4c:9b:00:01").await;
        assert!(answer["details"].as_str().unwrap().contains("cannot do detaching the device"), "{answer}");
    }
}
