//! `com.cloud.agent.api.UnmanageInstanceCommand` (4.22): leaves a guest to its owner. It becomes
//! persistent, so that libvirt still has it after its end.

use crate::commands::to::VirtualMachineTo;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::guest::released;
use crate::hypervisor::Flavour;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmanageInstanceCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub instance_name: String,
    /// Of a guest that is stopped.
    #[serde(default)]
    pub vm: Option<VirtualMachineTo>,
    /// Whether there is a config drive, which the server is going to delete.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub is_config_drive_attached: bool,
}

impl Command for UnmanageInstanceCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.UnmanageInstanceAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.instance_name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let (name, hypervisor) = (self.instance_name.as_str(), &ctx.services.hypervisor);
        // The flavour with passwords, and without what only the present run has.
        let Some(document) = hypervisor.domain_xml(name, Flavour::Inactive).await? else {
            let why = match self.vm {
                Some(_) => {
                    "is stopped, and this agent leaves only running guests to their owners: start it first"
                }
                None => "does not run on this host",
            };
            return Err(Fault::new(format!("Guest {name} {why}")));
        };
        let document = if self.is_config_drive_attached {
            let image = format!("{name}.iso");
            released::without_config_drive(&document, &image).map_err(|error| Fault::from_error(&error))?
        } else {
            document
        };
        hypervisor.define_domain(&document).await?;
        tracing::info!(guest = name, "Guest is left to its owner");
        Ok(Reply::done().details("Successfully unmanaged"))
    }
}
