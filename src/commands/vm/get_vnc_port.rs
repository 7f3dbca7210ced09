//! `com.cloud.agent.api.GetVncPortCommand`: where the console proxy finds the display of a guest.

use crate::commands::{Command, Ctx, Fault, Reply};
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
pub struct GetVncPortCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
}

#[derive(Debug, serde::Serialize)]
pub struct GetVncPortAnswer {
    /// Private address of this host.
    address: String,
    /// TCP port, 5900 and up.
    port: u16,
}

impl Command for GetVncPortCommand {
    type Answer = GetVncPortAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetVncPortAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetVncPortAnswer>, Fault> {
        let address = ctx.private_ip()?;
        let name = self.name;
        let Some(guest) = ctx.services.hypervisor.domain(&name).await? else {
            return Err(Fault::new(format!("Guest {name} does not exist on this host")));
        };
        match guest.vnc_port {
            Some(port) => Ok(Reply::ok(GetVncPortAnswer { address, port })),
            None => Err(Fault::new(format!(
                "Guest {name} has no VNC display: it is not running, or has no graphics"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.GetVncPortCommand";
    const ANSWER: &str = "com.cloud.agent.api.GetVncPortAnswer";

    #[tokio::test]
    async fn the_port_is_the_real_one() {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        let (class, fields) = bench.answer(CLASS, json!({"id": 3, "name": "i-2-3-VM"})).await;
        assert_eq!(class, ANSWER);
        assert_eq!((&fields["address"], &fields["port"]), (&json!("10.99.0.2"), &json!(5907)));
    }

    #[tokio::test]
    async fn guests_without_display_or_existence_fail() {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        for (name, why) in
            [("i-2-4-VM", "no VNC display"), ("gone", "does not exist"), ("../x", "name of a guest")]
        {
            let (class, fields) = bench.answer(CLASS, json!({"name": name})).await;
            assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(false)));
            assert!(fields["details"].as_str().unwrap().contains(why), "{name}: {fields}");
        }
    }
}
