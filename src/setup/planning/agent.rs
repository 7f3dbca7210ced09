//! agent.properties and the agent's unit. Only keys that differ are written; keys whose names merely begin
//! alike (`host` and `host.reserved.mem.mb`) are none of its business.

use super::{AGENT_UNIT, AgentState, Edit, Facts, Placement, Plan, Topic, Undo};
use crate::config::{Config, Properties};
use crate::errors::chain;
use crate::setup::PROPERTIES;
use std::path::Path;

const RESOURCE: &str = "com.cloud.hypervisor.kvm.resource.LibvirtComputingResource";
/// What a boolean of agent.properties may be for no.
const NO: [&str; 5] = ["false", "no", "n", "off", "0"];

pub(super) fn boolean(facts: &Facts, key: &str) -> Option<bool> {
    let file = Properties::parse(facts.properties.as_deref()?).ok()?;
    let value = file.get(key)?.trim().to_ascii_lowercase();
    (!value.is_empty()).then(|| !NO.contains(&value.as_str()))
}

pub(super) fn plan(plan: &mut Plan, placement: &Placement, facts: &Facts) {
    let old = match Properties::parse(facts.properties.as_deref().unwrap_or_default()) {
        Ok(old) => old,
        Err(error) => return plan.problems.push(format!("Cannot use {PROPERTIES}: {}", chain(&error))),
    };
    let mut new = old.clone();
    let mut values = Vec::new();
    for (key, value) in wanted(placement, &old, facts) {
        if new.set(key, &value) {
            values.push((key.to_owned(), value));
        }
    }
    match Config::from_properties(Path::new(PROPERTIES), &new) {
        Ok(config) if config.missing().is_empty() => check_memory(plan, &config, facts),
        Ok(config) => plan.problems.push(format!("{PROPERTIES} would lack {}", config.missing().join(", "))),
        Err(error) => plan.problems.push(chain(&error)),
    }
    if !values.is_empty() {
        let keys: Vec<String> = values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let what = format!("set {} in {PROPERTIES}", keys.join(", "));
        plan.step(Topic::Agent, what, Edit::Properties { path: PROPERTIES.into(), values });
    }
    unit(plan, facts);
}

fn wanted(placement: &Placement, old: &Properties, facts: &Facts) -> Vec<(&'static str, String)> {
    let has = |key: &str| old.get(key).is_some_and(|value| !value.trim().is_empty());
    let mut wanted = vec![
        ("host", servers(&placement.servers, old.get("host"))),
        ("zone", placement.zone.clone()),
        ("pod", placement.pod.clone()),
        ("cluster", placement.cluster.clone()),
        ("guid", placement.guid.clone()),
        ("hypervisor.type", placement.hypervisor.clone()),
        ("private.network.device", placement.private_nic.clone()),
        ("public.network.device", placement.public_nic.clone()),
        ("guest.network.device", placement.guest_nic.clone()),
    ];
    // Not asked for: what is there counts.
    for (key, value) in [
        ("port", "8250".to_owned()),
        ("resource", RESOURCE.to_owned()),
        ("local.storage.uuid", facts.fresh_ids.join(",")),
    ] {
        if !has(key) && !value.is_empty() {
            wanted.push((key, value));
        }
    }
    wanted.retain(|(_, value)| !value.is_empty());
    wanted
}

/// A server names servers and no algorithm; the agent keeps what the server tells it later, with one. The
/// same servers are no reason to restart it.
fn servers(wanted: &str, old: Option<&str>) -> String {
    let names = |list: &str| list.split('@').next().unwrap_or_default().trim().to_owned();
    match old {
        Some(old) if !wanted.contains('@') && names(old) == wanted.trim() => old.to_owned(),
        _ => wanted.to_owned(),
    }
}

fn check_memory(plan: &mut Plan, config: &Config, facts: &Facts) {
    if facts.memory_mib <= config.host_reserved_mem_mb {
        plan.problems.push(format!(
            "This host has {} MiB of memory and host.reserved.mem.mb withholds {}: lower it in {PROPERTIES}",
            facts.memory_mib, config.host_reserved_mem_mb
        ));
    }
}

fn unit(plan: &mut Plan, facts: &Facts) {
    let Some(unit) = facts.unit(AGENT_UNIT) else {
        plan.notes.push(format!("There is no {AGENT_UNIT} to start here"));
        return;
    };
    if unit.file_state != "enabled" {
        let undo = Undo::Run(["systemctl", "disable", AGENT_UNIT].map(str::to_owned).to_vec());
        plan.run(Topic::Agent, &["systemctl", "enable", AGENT_UNIT], undo);
    }
    // One that is not registered may wait for minutes before it tries the new place.
    if plan.touches(&[Topic::Agent]) || !unit.active || facts.agent == AgentState::NotRegistered {
        let again = ["systemctl", "try-restart", AGENT_UNIT].map(str::to_owned).to_vec();
        plan.run(Topic::Agent, &["systemctl", "restart", AGENT_UNIT], Undo::RunAtEnd(again));
    }
}
