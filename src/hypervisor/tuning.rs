//! Size and share of running guests, and talking to what is inside them.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::error::{Object, Result};
use super::libvirt::tuning;
use super::{Hypervisor, QUERY_DEADLINE, checked};

/// How much longer than the agent libvirt may take.
const AGENT_GRACE: Duration = Duration::from_secs(10);

/// Who is asked for the addresses of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSource {
    /// The guest agent.
    Agent,
    /// The DHCP servers of libvirt's own networks.
    Lease,
    /// The host's neighbour table.
    Arp,
}

/// An interface with its addresses, as one of the sources knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddresses {
    /// As the source calls it: inside the guest for the agent, on the host for the others.
    pub name: String,
    /// Lower case.
    pub mac: Option<String>,
    /// With the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u32)>,
}

impl Hypervisor {
    /// Number of CPUs that a running guest has.
    pub async fn vcpus(&self, name: &str) -> Result<u32> {
        let name = checked(Object::Guest, name)?;
        self.call("reading the number of CPUs", QUERY_DEADLINE, move |link| tuning::vcpus(link, &name)).await
    }

    /// Plugs CPUs into a running guest, or takes some out.
    pub async fn set_vcpus(&self, name: &str, count: u32) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        self.change("changing the number of CPUs", move |link| tuning::set_vcpus(link, &name, count)).await
    }

    /// KiB, with what was plugged.
    pub async fn max_memory(&self, name: &str) -> Result<u64> {
        let name = checked(Object::Guest, name)?;
        self.call("reading the memory size", QUERY_DEADLINE, move |link| tuning::max_memory(link, &name))
            .await
    }

    /// `None` where libvirt does not control CPU shares.
    pub async fn cpu_shares(&self, name: &str) -> Result<Option<u64>> {
        let name = checked(Object::Guest, name)?;
        self.call("reading the CPU shares", QUERY_DEADLINE, move |link| tuning::cpu_shares(link, &name)).await
    }

    pub async fn set_cpu_shares(&self, name: &str, shares: u64) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        let set = move |link: &_| tuning::set_cpu_shares(link, &name, shares);
        self.change("changing the CPU shares", set).await
    }

    /// Sends a command such as `{"execute":"guest-fsfreeze-status"}` to the guest agent; gives what
    /// it returned. `AgentUnresponsive` without an agent.
    pub async fn agent_command(&self, name: &str, command: &Value, timeout: Duration) -> Result<Value> {
        let (name, command) = (checked(Object::Guest, name)?, command.clone());
        let send = move |link: &_| tuning::agent_command(link, &name, &command, timeout);
        self.change_within("a guest agent command", timeout + AGENT_GRACE, send).await
    }

    /// Sends a command such as `{"execute":"query-block"}` to QEMU; gives what it returned.
    pub async fn monitor_command(&self, name: &str, command: &Value, timeout: Duration) -> Result<Value> {
        let (name, command) = (checked(Object::Guest, name)?, command.clone());
        let send = move |link: &_| tuning::monitor_command(link, &name, &command);
        self.change_within("a QEMU command", timeout, send).await
    }

    pub async fn interface_addresses(
        &self,
        name: &str,
        source: AddressSource,
    ) -> Result<Vec<InterfaceAddresses>> {
        let name = checked(Object::Guest, name)?;
        // An agent that hangs must not take a slot for questions.
        self.change("reading the addresses of a guest", move |link| tuning::addresses(link, &name, source))
            .await
    }
}
