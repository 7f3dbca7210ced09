//! `com.cloud.agent.api.GetUnmanagedInstancesCommand`: the guests of this host that the server does
//! not have, or one of them.

use super::instance::{Home, UnmanagedInstance};
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::hypervisor::{Flavour, Passwords, xml};
use crate::wire::lenient;
use std::collections::BTreeMap;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetUnmanagedInstancesCommand {
    /// Absent for all.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub instance_name: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub managed_instances_names: Vec<String>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetUnmanagedInstancesAnswer {
    #[serde(skip_serializing_if = "String::is_empty")]
    instance_name: String,
    unmanaged_instances: BTreeMap<String, UnmanagedInstance>,
}

impl Command for GetUnmanagedInstancesCommand {
    type Answer = GetUnmanagedInstancesAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetUnmanagedInstancesAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetUnmanagedInstancesAnswer>, Fault> {
        let address = ctx.private_ip().unwrap_or_default();
        let home =
            Home { hypervisor: &ctx.services.hypervisor, address, bridges: Some(&ctx.services.bridges) };
        let managed = |name: &String| self.managed_instances_names.contains(name);
        let mut found = BTreeMap::new();
        if self.instance_name.is_empty() {
            for guest in home.hypervisor.documents(Flavour::Secure).await? {
                if managed(&guest.name) {
                    continue;
                }
                match xml::domain(&guest.xml) {
                    Ok(description) => {
                        found.insert(guest.name.clone(), home.tell(guest.state, &description).await);
                    }
                    Err(error) => {
                        tracing::warn!(guest = guest.name, %error, "Not offered for import: its XML cannot be read");
                    }
                }
            }
        } else {
            let name = &self.instance_name;
            let failed =
                |why: &str| Fault::new(format!("Error listing unmanaged instances: guest {name} {why}"));
            if managed(name) {
                return Err(failed("is managed already"));
            }
            let guest = home.hypervisor.describe(name, Passwords::Included).await?;
            let guest = guest.ok_or_else(|| failed("does not exist on this host"))?;
            found.insert(name.clone(), home.tell(guest.state, &guest.description).await);
        }
        let answer =
            GetUnmanagedInstancesAnswer { instance_name: self.instance_name, unmanaged_instances: found };
        Ok(Reply::ok(answer).details("OK"))
    }
}
