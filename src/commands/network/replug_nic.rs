//! `com.cloud.agent.api.ReplugNicCommand`: puts a network card of a running guest into another network.
//!
//! The reference agent takes the card out and plugs a new one in, which takes a guest that reacts; here the
//! card's port moves to the other bridge, and the guest keeps its card.

use crate::commands::to::NicTo;
use crate::commands::vm::launch::cards;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::hypervisor::Existence;
use crate::journal::{Action, Work};
use crate::network::vnet_id;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplugNicCommand {
    #[serde(default)]
    nic: Option<NicTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    instance_name: String,
}

impl ReplugNicCommand {
    async fn replug(&self, ctx: &Ctx, work: &mut Work, to: &NicTo) -> Result<(), Fault> {
        let (services, name) = (&ctx.services, &self.instance_name);
        let guest = services.hypervisor.running(name).await?;
        let missing = || Fault::new(format!("Guest {name} has no network card {:?} on a bridge", to.mac));
        let nic = guest.interfaces.iter().find(|nic| nic.mac.eq_ignore_ascii_case(&to.mac));
        let nic = nic.filter(|nic| nic.kind == "bridge").ok_or_else(missing)?;
        let before = nic.source.clone().unwrap_or_default();
        let plugged = cards::plug(ctx, to, work).await?;
        if plugged.bridge == before {
            return Ok(());
        }
        let (guest, mac) = (name.clone(), nic.mac.clone());
        work.before(Action::MoveInterface { guest, mac, bridge: before.clone() }).await?;
        if vnet_id(&before).is_some() {
            work.after_commit(Action::Unplug { bridge: before.clone(), delete: true }).await?;
        }
        match services.hypervisor.move_interface(name, &nic.mac, &plugged.bridge).await? {
            Existence::Done => {
                tracing::info!(
                    guest = name,
                    mac = nic.mac,
                    from = before,
                    to = plugged.bridge,
                    "Network card is replugged"
                );
                Ok(())
            }
            Existence::Absent => Err(missing()),
        }
    }
}

impl Command for ReplugNicCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.ReplugNicAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.instance_name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let to = self.nic.as_ref().ok_or_else(|| Fault::new("The command has no network card"))?;
        let mut work =
            ctx.services.journal.begin("replug a network card", &self.instance_name, &ctx.logid).await;
        let result = self.replug(&ctx, &mut work, to).await;
        work.settle(result).await?;
        Ok(Reply::done().details("success"))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use crate::commands::vm::node::XML;
    use serde_json::{Value, json};

    async fn replug(bench: &mut Bench, guest: &str, mac: &str, label: &str) -> Value {
        let nic = json!({"mac": mac, "type": "Guest", "broadcastType": "Native", "name": label});
        let fields = json!({"nic": nic, "instanceName": guest, "vmType": "DomainRouter"});
        let (class, fields) = bench.answer("com.cloud.agent.api.ReplugNicCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.ReplugNicAnswer");
        fields
    }

    #[tokio::test]
    async fn a_card_stays_where_it_belongs_and_goes_nowhere_else() {
        let mut bench = Bench::with_node(XML).await;
        for bridge in ["br0", "br1"] {
            std::fs::create_dir_all(bench.dir().join(format!("sys/class/net/{bridge}/bridge"))).unwrap();
        }
        let mac = "02:00:4c:9b:00:01";
        assert_eq!(replug(&mut bench, "i-2-3-VM", mac, "br0").await["result"], true);
        for (guest, mac, label, words) in [
            ("i-2-9-VM", mac, "br0", "No guest named i-2-9-VM"),
            ("i-2-3-VM", "02:00:4c:9b:00:09", "br0", "has no network card"),
            ("i-2-3-VM", mac, "br7", "Bridge br7 for guest traffic does not exist"),
            // libvirt's test driver cannot change anything.
            ("i-2-3-VM", mac, "br1", "cannot do changing the device"),
        ] {
            let answer = replug(&mut bench, guest, mac, label).await;
            assert!(answer["details"].as_str().unwrap().contains(words), "{words}: {answer}");
        }
    }
}
