//! What a host lacks, worked out from facts alone. No I/O, no clock, no randomness: facts in, plan out.
//!
//! One file per part of the host. Each compares what is with what has to be and adds the edits that are
//! missing, so that a plan for a host that is set up already is empty.

mod agent;
mod apparmor;
pub mod conf;
mod facts;
mod firewall;
mod kernel;
mod libvirt;
mod network;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use facts::{AgentState, Confinement, Facts, Profile, Unit};
pub use libvirt::{DAEMON, LINKS, SOCKETS};

pub const AGENT_UNIT: &str = "cloudstack-agent.service";

/// What is to be set up.
#[allow(clippy::large_enum_variant)] // there is one of it, once in the life of a process
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one per process")]
pub enum Task {
    /// All that adding a host takes (`cloudstack-setup-agent -a`, or its questions answered).
    AddHost(Placement),
    /// Only libvirt and QEMU, for TLS with the host's certificate (`cloudstack-setup-agent -s`).
    SecureLibvirt(Certificates),
}

/// Whether libvirt may already use the certificates that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificates {
    Known,
    /// Just replaced: libvirt has to read them.
    Renewed,
}

/// Where the host belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// As `host` in agent.properties: servers separated by commas, `@algorithm` behind.
    pub servers: String,
    pub zone: String,
    pub pod: String,
    pub cluster: String,
    pub hypervisor: String,
    pub guid: String,
    pub private_nic: String,
    pub public_nic: String,
    pub guest_nic: String,
    pub secure: bool,
}

/// Part of the host that an edit belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    Kernel,
    AppArmor,
    Certificates,
    Libvirt,
    Qemu,
    Firewall,
    Agent,
}

impl fmt::Display for Topic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Topic::Kernel => "kernel",
            Topic::AppArmor => "apparmor",
            Topic::Certificates => "certificates",
            Topic::Libvirt => "libvirt",
            Topic::Qemu => "qemu",
            Topic::Firewall => "firewall",
            Topic::Agent => "agent",
        })
    }
}

/// One change of the host. Paths are the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// Replaces or creates a file; `mode` is for a new one.
    Write { path: PathBuf, content: String, mode: u32 },
    /// Sets keys of agent.properties and leaves every other byte alone.
    Properties { path: PathBuf, values: Vec<(String, String)> },
    /// Makes `path` a symbolic link, and its directory if need be.
    Link { path: PathBuf, target: PathBuf },
    /// Runs a program, given without its directory.
    Run { program: String, arguments: Vec<String>, undo: Undo },
}

/// How the effect of a program is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    Nothing,
    /// By this program, in its turn.
    Run(Vec<String>),
    /// By this program, after all files are as they were.
    RunAtEnd(Vec<String>),
}

/// An edit with what it does, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub topic: Topic,
    pub what: String,
    pub edit: Edit,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Worth knowing, and no reason not to go on.
    pub notes: Vec<String>,
    /// Reasons why nothing may be changed, each with what to do.
    pub problems: Vec<String>,
}

impl Plan {
    fn step(&mut self, topic: Topic, what: impl Into<String>, edit: Edit) {
        self.steps.push(Step { topic, what: what.into(), edit });
    }

    fn run(&mut self, topic: Topic, words: &[&str], undo: Undo) {
        let mut words = words.iter().map(|word| (*word).to_owned());
        let program = words.next().unwrap_or_default();
        let arguments: Vec<String> = words.collect();
        let what = format!("run {program} {}", arguments.join(" "));
        self.step(topic, what, Edit::Run { program, arguments, undo });
    }

    fn touches(&self, topics: &[Topic]) -> bool {
        self.steps.iter().any(|step| topics.contains(&step.topic))
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// What has to change. A plan with problems must not be applied.
pub fn plan(task: &Task, facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    if !facts.is_root {
        plan.problems.push("Only root can set up a host: run it with sudo".to_owned());
    }
    match task {
        Task::AddHost(placement) => {
            network::check(&mut plan, placement, facts);
            kernel::plan(&mut plan, facts);
            apparmor::plan(&mut plan, facts);
            libvirt::links(&mut plan, placement.secure, facts);
            libvirt::qemu(&mut plan, placement.secure, facts);
            libvirt::vnc(&mut plan, placement.secure, facts);
            libvirt::daemon(&mut plan, placement.secure, Certificates::Known, facts);
            firewall::plan(&mut plan, placement.secure, facts);
            agent::plan(&mut plan, placement, facts);
        }
        Task::SecureLibvirt(certificates) => {
            libvirt::links(&mut plan, true, facts);
            libvirt::vnc(&mut plan, true, facts);
            libvirt::daemon(&mut plan, true, *certificates, facts);
        }
    }
    plan
}
