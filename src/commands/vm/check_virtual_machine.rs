//! `com.cloud.agent.api.CheckVirtualMachineCommand`: does a guest run here? Asked before the server
//! starts it elsewhere.
//!
//! "Off" is only said of a guest that libvirt knows not to run or does not know at all; if libvirt
//! cannot be asked the command fails, since a wrong "off" starts the guest twice.

use crate::commands::{Command, Ctx, Fault, Reply};
use crate::hypervisor::PowerState;
use crate::wire::lenient;

/// Number of the first VNC display's port.
const VNC_BASE: u16 = 5_900;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckVirtualMachineCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub vm_name: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckVirtualMachineAnswer {
    /// Display number, for guests that are on.
    #[serde(skip_serializing_if = "Option::is_none")]
    vnc_port: Option<u16>,
    state: &'static str,
}

/// Constant of `com.cloud.vm.VirtualMachine.PowerState`. Paused guests are on: they hold their disks.
fn wire_name(state: PowerState) -> &'static str {
    match state {
        PowerState::On => "PowerOn",
        PowerState::Off => "PowerOff",
        PowerState::Unknown => "PowerUnknown",
    }
}

impl Command for CheckVirtualMachineCommand {
    type Answer = CheckVirtualMachineAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.CheckVirtualMachineAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<CheckVirtualMachineAnswer>, Fault> {
        let guest = ctx.services.hypervisor.domain(&self.vm_name).await?;
        let state = guest.as_ref().map_or(PowerState::Off, |guest| guest.state.power());
        let port = guest.and_then(|guest| guest.vnc_port).filter(|_| state == PowerState::On);
        let vnc_port = port.and_then(|port| port.checked_sub(VNC_BASE));
        Ok(Reply::ok(CheckVirtualMachineAnswer { vnc_port, state: wire_name(state) }))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::{Value, json};

    const CLASS: &str = "com.cloud.agent.api.CheckVirtualMachineCommand";
    const ANSWER: &str = "com.cloud.agent.api.CheckVirtualMachineAnswer";

    #[tokio::test]
    async fn every_guest_has_a_state() {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        let expected = [
            ("i-2-3-VM", "PowerOn", json!(7)),
            ("i-2-4-VM", "PowerOff", Value::Null),
            ("i-2-5-VM", "PowerOn", Value::Null),
            ("gone", "PowerOff", Value::Null),
        ];
        for (name, state, display) in expected {
            let (class, fields) = bench.answer(CLASS, json!({"vmName": name})).await;
            assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(true)), "{name}");
            assert_eq!((&fields["state"], &fields["vncPort"]), (&json!(state), &display), "{name}");
        }
    }

    #[tokio::test]
    async fn without_libvirt_nothing_is_said_to_be_off() {
        let mut bench = Bench::disconnected().await;
        let (class, fields) = bench.answer(CLASS, json!({"vmName": "i-2-3-VM"})).await;
        assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(false)));
        assert_eq!(fields["state"], Value::Null);
    }
}
