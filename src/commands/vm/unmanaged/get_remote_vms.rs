//! `com.cloud.agent.api.GetRemoteVmsCommand`: the stopped guests of a host that is not CloudStack's, by
//! its libvirt.

use super::instance::{Home, UnmanagedInstance};
use crate::commands::registry::PLAIN_ANSWER;
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::hypervisor::{Connection, Flavour, Hypervisor, PowerState, xml};
use crate::wire::lenient;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// For the connection; a host behind a firewall that drops packets never answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// User and password are for copying volumes and are not read here.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetRemoteVmsCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub remote_ip: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetRemoteVmsAnswer {
    remote_ip: String,
    unmanaged_instances: BTreeMap<String, UnmanagedInstance>,
    vm_names: Vec<String>,
}

impl Command for GetRemoteVmsCommand {
    type Answer = GetRemoteVmsAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetRemoteVmsAnswer";

    /// Servers take the guests out of the other class without a look at the result.
    fn failure_class(&self) -> &'static str {
        PLAIN_ANSWER
    }

    async fn handle(self, _: Ctx) -> Result<Reply<GetRemoteVmsAnswer>, Fault> {
        let host = match self.remote_ip.parse() {
            Ok(IpAddr::V4(address)) => address.to_string(),
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            Err(_) => return Err(Fault::new("The remote host is not named by an IP address")),
        };
        let remote = connect(&host).await?;
        let home = Home { hypervisor: &remote, address: self.remote_ip.clone(), bridges: None };
        let mut found = BTreeMap::new();
        for guest in remote.documents(Flavour::Secure).await? {
            if guest.state.power() != PowerState::Off {
                continue;
            }
            match xml::domain(&guest.xml) {
                Ok(description) => {
                    found.insert(guest.name.clone(), home.tell(guest.state, &description).await);
                }
                Err(error) => {
                    tracing::warn!(guest = guest.name, host, %error, "Not offered for import: its XML cannot be read");
                }
            }
        }
        let vm_names = found.keys().cloned().collect();
        Ok(Reply::ok(GetRemoteVmsAnswer { remote_ip: self.remote_ip, unmanaged_instances: found, vm_names }))
    }
}

async fn connect(host: &str) -> Result<Hypervisor, Fault> {
    let remote = Hypervisor::spawn(&format!("qemu+tcp://{host}/system"));
    let mut status = remote.status();
    let decided = status.wait_for(|status| match &status.connection {
        Connection::Connected { .. } | Connection::Lost { .. } => true,
        Connection::Connecting { last_error, .. } => last_error.is_some(),
    });
    let connection = match tokio::time::timeout(PATIENCE, decided).await {
        Ok(Ok(status)) => Some(status.connection.clone()),
        Ok(Err(_)) | Err(_) => None,
    };
    match connection {
        Some(Connection::Connected { .. }) => Ok(remote),
        connection => {
            tracing::warn!(host, ?connection, "No connection to the libvirt of a remote host");
            Err(Fault::new(format!(
                "Unable to connect to remote host {host}, please check the libvirtd tcp connectivity and retry"
            )))
        }
    }
}
