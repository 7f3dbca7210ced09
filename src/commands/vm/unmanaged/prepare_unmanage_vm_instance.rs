//! `com.cloud.agent.api.PrepareUnmanageVMInstanceCommand`: is the guest here that the server is about
//! to give up?

use crate::commands::{Command, Ctx, Fault, NoFields, Reply};
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareUnmanageVmInstanceCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub instance_name: String,
}

impl Command for PrepareUnmanageVmInstanceCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.PrepareUnmanageVMInstanceAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let name = self.instance_name;
        match ctx.services.hypervisor.state(&name).await? {
            Some(_) => Ok(Reply::done().details("OK")),
            None => Err(Fault::new(format!("Guest {name} does not exist on this host"))),
        }
    }
}
