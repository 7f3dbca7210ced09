//! Blocking operations on the size of guests and on what runs inside; each runs on a pool thread.

use std::time::Duration;

use serde_json::Value;
use virt::domain::SchedulerInfo;
use virt::sys;

use super::guests::found;
use super::link::Lease;
use super::{ffi, refused};
use crate::hypervisor::error::{HypervisorError, Result};
use crate::hypervisor::tuning::{AddressSource, InterfaceAddresses};

pub fn vcpus(link: &Lease, name: &str) -> Result<u32> {
    let count = found(link, name)?.vcpus_flags(sys::VIR_DOMAIN_VCPU_LIVE);
    count.map_err(refused("reading the number of CPUs", name))
}

pub fn set_vcpus(link: &Lease, name: &str, count: u32) -> Result<()> {
    let set = found(link, name)?.set_vcpus_flags(count, sys::VIR_DOMAIN_VCPU_LIVE);
    set.map(drop).map_err(refused("changing the number of CPUs", name))
}

pub fn max_memory(link: &Lease, name: &str) -> Result<u64> {
    found(link, name)?.max_memory().map_err(refused("reading the memory size", name))
}

pub fn cpu_shares(link: &Lease, name: &str) -> Result<Option<u64>> {
    let parameters = found(link, name)?.scheduler_parameters();
    match parameters.map_err(refused("reading the CPU shares", name)) {
        Ok(parameters) => Ok(parameters.cpu_shares),
        // Without the cpu control group there are none.
        Err(HypervisorError::Unsupported { .. } | HypervisorError::Invalid { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn set_cpu_shares(link: &Lease, name: &str, shares: u64) -> Result<()> {
    let parameters = SchedulerInfo { cpu_shares: Some(shares), ..SchedulerInfo::default() };
    let set = found(link, name)?.set_scheduler_parameters_flags(&parameters, sys::VIR_DOMAIN_AFFECT_LIVE);
    set.map_err(refused("changing the CPU shares", name))
}

pub fn agent_command(link: &Lease, name: &str, command: &Value, timeout: Duration) -> Result<Value> {
    // Below zero libvirt has other meanings; 0 would not wait.
    let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX).max(1);
    let answer = found(link, name)?.qemu_agent_command(&command.to_string(), seconds, 0);
    returned("The guest agent", name, command, &answer.map_err(refused("the guest agent command", name))?)
}

pub fn monitor_command(link: &Lease, name: &str, command: &Value) -> Result<Value> {
    let answer = found(link, name)?.qemu_monitor_command(&command.to_string(), 0);
    returned("QEMU", name, command, &answer.map_err(refused("the QEMU command", name))?)
}

/// What is under `return`; anything else is a refusal, of which the arguments are nobody's business.
fn returned(peer: &'static str, guest: &str, command: &Value, answer: &str) -> Result<Value> {
    let refusal = |said: String| HypervisorError::CommandRefused {
        peer,
        command: command.get("execute").and_then(Value::as_str).unwrap_or_default().to_owned(),
        guest: guest.to_owned(),
        answer: said,
    };
    let mut parsed: Value =
        serde_json::from_str(answer).map_err(|error| refusal(format!("the answer is not JSON ({error})")))?;
    match parsed.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => {
            let said = parsed.pointer("/error/desc").and_then(Value::as_str);
            Err(refusal(said.unwrap_or("no result").to_owned()))
        }
    }
}

pub fn addresses(link: &Lease, name: &str, source: AddressSource) -> Result<Vec<InterfaceAddresses>> {
    let source = match source {
        AddressSource::Agent => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        AddressSource::Lease => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
        AddressSource::Arp => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    };
    let found = ffi::addresses(&found(link, name)?, source);
    let found = found.map_err(refused("reading the addresses", name))?;
    // What a guest agent says is up to the guest.
    let read = |(address, prefix): (String, u32)| Some((address.parse().ok()?, prefix));
    Ok(found
        .into_iter()
        .map(|interface| InterfaceAddresses {
            name: interface.name,
            mac: interface.mac.map(|mac| mac.to_ascii_lowercase()),
            addresses: interface.addresses.into_iter().filter_map(read).collect(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_qemu_and_agent_are_unwrapped() {
        let command = serde_json::json!({"execute": "guest-fsfreeze-status"});
        let read = |answer| returned("QEMU", "i-2-3-VM", &command, answer);
        assert_eq!(read(r#"{"return":"thawed"}"#).unwrap(), "thawed");
        assert_eq!(read(r#"{"return":{},"id":"libvirt-9"}"#).unwrap(), serde_json::json!({}));
        for (answer, said) in [
            (r#"{"error":{"class":"GenericError","desc":"no such node"}}"#, "no such node"),
            ("{}", "no result"),
            ("", "not JSON"),
        ] {
            let error = read(answer).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("guest-fsfreeze-status"), "{error}");
        }
    }
}
