//! `com.cloud.agent.api.PlugNicCommand`: gives a running guest another network card. One that it has
//! already is a success. What a router does with its card is told to the router by other commands.

use crate::commands::to::NicTo;
use crate::commands::vm::guest_spec::{self, NicRules, ResolvedBridge};
use crate::commands::vm::launch::{cards, facts};
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::guest::{NicModel, nics};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::xml::{DiskDevice, DomainDescription};
use crate::journal::{Action, Work};
use crate::wire::lenient;
use std::collections::BTreeMap;

/// Which cards the operating system knows is not told here; all do this one.
const PLATFORM: &str = "Other PV";

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlugNicCommand {
    #[serde(default)]
    nic: Option<NicTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    instance_name: String,
    /// `User`, `DomainRouter` ...
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_type: String,
    /// Of the VM.
    #[serde(default, deserialize_with = "lenient::or_default")]
    details: BTreeMap<String, Option<String>>,
}

impl PlugNicCommand {
    fn is_user(&self) -> bool {
        self.vm_type.eq_ignore_ascii_case("User")
    }

    fn detail(&self, key: &str) -> Option<&str> {
        self.details.get(key)?.as_deref().map(str::trim).filter(|value| !value.is_empty())
    }

    async fn rules(&self, ctx: &Ctx, guest: &DomainDescription) -> Result<NicRules, Fault> {
        let packed = self.detail("nic.packed.virtqueues.enabled");
        let packed = packed.is_some_and(|text| text.eq_ignore_ascii_case("true"));
        Ok(NicRules {
            model: NicModel::choose(self.detail("nicAdapter"), Some(PLATFORM), false),
            queues: self
                .detail("nic.multiqueue.number")
                .and_then(|number| guest_spec::queues(number, guest.vcpus)),
            packed: packed && facts::gather(ctx, &*ctx.config()?).await.knows_packed_queues(),
            pxe: self.is_user(),
        })
    }

    /// Whether the guest had to be given the card.
    async fn plug(&self, ctx: &Ctx, work: &mut Work, to: &NicTo) -> Result<bool, Fault> {
        let (services, name) = (&ctx.services, &self.instance_name);
        let guest = services.hypervisor.running(name).await?;
        if guest.interfaces.iter().any(|nic| nic.mac.eq_ignore_ascii_case(&to.mac)) {
            return Ok(false);
        }
        if self.is_user() {
            cards::filtered(name, to)?;
        }
        // Kept until the guest's port is on the bridge.
        let plugged = cards::plug(ctx, to, work).await?;
        let found = ResolvedBridge { bridge: plugged.bridge.clone(), ovs: None };
        let mut nic = guest_spec::nic(to, &found, &self.rules(ctx, &guest).await?)
            .map_err(|error| Fault::from_error(&error))?;
        cards::limit(ctx, name, std::slice::from_mut(&mut nic)).await;
        work.before(Action::DetachInterface { guest: name.clone(), mac: nic.mac.clone() }).await?;
        services.hypervisor.attach_device(name, &nics::interface(&nic).to_string()).await?;
        tracing::info!(guest = name, mac = nic.mac, bridge = plugged.bridge, "Network card is plugged in");
        Ok(true)
    }

    /// The server has written the config drive anew, which the guest sees when the disc is changed.
    async fn show_config_drive(&self, ctx: &Ctx) -> Result<(), HypervisorError> {
        let (hypervisor, name) = (&ctx.services.hypervisor, &self.instance_name);
        let file = format!("/configdrive/{name}.iso");
        let guest = hypervisor.running(name).await?;
        for drive in guest.disks.iter().filter(|disk| disk.device == DiskDevice::Cdrom) {
            if let Some(path) = drive.source.as_deref().filter(|path| path.ends_with(&file)) {
                hypervisor.change_medium(name, &drive.target, None, true).await?;
                hypervisor.change_medium(name, &drive.target, Some(path), false).await?;
            }
        }
        Ok(())
    }
}

impl Command for PlugNicCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.PlugNicAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.instance_name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let to = self.nic.as_ref().ok_or_else(|| Fault::new("The command has no network card"))?;
        let mut work =
            ctx.services.journal.begin("plug a network card", &self.instance_name, &ctx.logid).await;
        let result = self.plug(&ctx, &mut work, to).await;
        let plugged = work.settle(result).await;
        let plugged = plugged.map_err(|fault| Fault::new(format!("Plug Nic failed due to {fault}")))?;
        if plugged
            && self.is_user()
            && let Err(error) = self.show_config_drive(&ctx).await
        {
            tracing::warn!("The config drive is as before: {}", crate::errors::chain(&error));
        }
        Ok(Reply::done().details("success"))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use crate::commands::vm::node::XML;
    use serde_json::{Value, json};

    async fn plug(bench: &mut Bench, guest: &str, nic: Value) -> Value {
        let fields = json!({"nic": nic, "instanceName": guest, "vmType": "DomainRouter", "details": {}});
        let (class, fields) = bench.answer("com.cloud.agent.api.PlugNicCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.PlugNicAnswer");
        fields
    }

    fn nic(mac: &str, uri: &str, label: &str) -> Value {
        json!({"mac": mac, "type": "Guest", "broadcastType": "Vlan", "broadcastUri": uri, "name": label, "deviceId": 2})
    }

    #[tokio::test]
    async fn a_card_that_is_there_is_a_success() {
        let mut bench = Bench::with_node(XML).await;
        let answer =
            plug(&mut bench, "i-2-3-VM", nic("02:00:4C:9b:00:01", "vlan://untagged", "no-such")).await;
        assert_eq!((&answer["result"], &answer["details"]), (&json!(true), &json!("success")));
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_in_words() {
        let mut bench = Bench::with_node(XML).await;
        std::fs::create_dir_all(bench.dir().join("sys/class/net/cloudbr1/bridge")).unwrap();
        let mac = "02:00:4c:9b:00:02";
        for (guest, nic, words) in [
            ("i-2-9-VM", nic(mac, "vlan://untagged", "cloudbr1"), "No guest named i-2-9-VM"),
            ("i-2-4-VM", nic(mac, "vlan://untagged", "cloudbr1"), "Guest i-2-4-VM does not run"),
            (
                "i-2-3-VM",
                nic(mac, "vlan://untagged", "cloudbr7"),
                "Bridge cloudbr7 for guest traffic does not exist",
            ),
            (
                "i-2-3-VM",
                nic(mac, "vlan://100", "cloudbr7"),
                "no bridge or interface cloudbr7 to put VLAN 100 on",
            ),
            ("i-2-3-VM", nic(mac, "gre://1", "cloudbr1"), "Broadcast URI"),
            ("i-2-3-VM", nic("x'/>", "vlan://untagged", "cloudbr1"), "no hardware address"),
            // libvirt's test driver cannot attach anything.
            ("i-2-3-VM", nic(mac, "vlan://untagged", "cloudbr1"), "cannot do attaching the device"),
        ] {
            let answer = plug(&mut bench, guest, nic).await;
            let details = answer["details"].as_str().unwrap();
            assert!(
                details.starts_with("Plug Nic failed due to ") && details.contains(words),
                "{words}: {details}"
            );
        }
        assert!(
            plug(&mut bench, "i-2-3-VM", Value::Null).await["details"]
                .as_str()
                .unwrap()
                .contains("no network card")
        );
    }
}
