//! `com.cloud.agent.api.RebootCommand`: presses a guest's power button for a reboot. What the guest makes
//! of it is its own affair; servers stop and start a guest to be sure.

use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply};
use crate::hypervisor::{HypervisorError, Object};
use crate::wire::lenient;

/// Number of the first VNC display's port.
const VNC_BASE: u16 = 5_900;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebootCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebootAnswer {
    /// Display number.
    #[serde(skip_serializing_if = "Option::is_none")]
    vnc_port: Option<u16>,
}

impl Command for RebootCommand {
    type Answer = RebootAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.RebootAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.vm_name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<RebootAnswer>, Fault> {
        let (hypervisor, name) = (&ctx.services.hypervisor, self.vm_name.as_str());
        match hypervisor.reboot(name).await {
            Ok(()) => tracing::info!(guest = name, "Guest is told to reboot"),
            Err(error) if error.is_not_found(Object::Guest) => {
                return Err(Fault::new(format!(
                    "Guest {name} does not exist on this host: start it instead"
                )));
            }
            Err(HypervisorError::Invalid { .. }) => {
                return Err(Fault::new(format!("Guest {name} does not run: start it instead")));
            }
            Err(error) => return Err(error.into()),
        }
        let guest = hypervisor.domain(name).await?;
        let port = guest.and_then(|guest| guest.vnc_port).and_then(|port| port.checked_sub(VNC_BASE));
        Ok(Reply::ok(RebootAnswer { vnc_port: port }))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.RebootCommand";
    const ANSWER: &str = "com.cloud.agent.api.RebootAnswer";

    #[tokio::test]
    async fn a_running_guest_reboots_and_tells_its_display() {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        let (class, fields) = bench.answer(CLASS, json!({"vmName": "i-2-3-VM"})).await;
        assert_eq!(
            (class.as_str(), &fields["result"], &fields["vncPort"]),
            (ANSWER, &json!(true), &json!(7))
        );
    }

    #[tokio::test]
    async fn what_does_not_run_does_not_reboot() {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        for (name, words) in
            [("i-2-4-VM", "does not run"), ("gone", "does not exist"), ("a/b", "name of a guest")]
        {
            let (class, fields) = bench.answer(CLASS, json!({"vmName": name})).await;
            assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(false)));
            assert!(fields["details"].as_str().unwrap().contains(words), "{fields}");
        }
    }
}
