//! `com.cloud.agent.api.UnmanageInstanceCommand` (4.22): leaves a guest to its owner. It becomes
//! persistent, so that libvirt still has it after its end.

use crate::commands::to::VirtualMachineTo;
use crate::commands::vm::launch::definition::Definition;
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
        match (hypervisor.domain_xml(name, Flavour::Inactive).await?, &self.vm) {
            (Some(document), _) => hypervisor.define_domain(&self.released(document)?).await?,
            (None, Some(vm)) if vm.name == name => self.define(&ctx, vm).await?,
            (None, _) => return Err(Fault::new(format!("Guest {name} does not run on this host"))),
        }
        tracing::info!(guest = name, "Guest is left to its owner");
        Ok(Reply::done().details("Successfully unmanaged"))
    }
}

impl UnmanageInstanceCommand {
    fn released(&self, document: String) -> Result<String, Fault> {
        if !self.is_config_drive_attached {
            return Ok(document);
        }
        let image = format!("{}.iso", self.instance_name);
        released::without_config_drive(&document, &image).map_err(|error| Fault::from_error(&error))
    }

    /// Defines a guest that is stopped as this host would start it. Its bridges stay for its owner.
    async fn define(&self, ctx: &Ctx, vm: &VirtualMachineTo) -> Result<(), Fault> {
        let mut work = ctx.services.journal.begin("leave a guest to its owner", &vm.name, &ctx.logid).await;
        let defined = async {
            let definition = Definition::make(ctx, vm, None, &mut work).await?;
            let document = self.released(definition.xml.0)?;
            ctx.services.hypervisor.define_domain(&document).await?;
            Ok::<_, Fault>(definition.media)
        };
        let defined = defined.await;
        work.settle(defined).await?.leave_mounted();
        Ok(())
    }
}
