//! What can go wrong with bridges, in words for the operator.

use crate::host::exec::ExecError;
use std::path::PathBuf;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum NetworkError {
    #[error(
        "{name:?} cannot be the name of a network device (1 to 15 letters, digits, dots, dashes and underscores): \
         correct the traffic label or agent.properties"
    )]
    Name { name: String },
    #[error(
        "Name {name} for id {id} on {pif} is longer than the 15 characters that Linux allows: give {pif} a shorter name"
    )]
    NameTooLong { name: String, pif: String, id: u32 },
    #[error("{id} is not the id of a {kind}: the server should send {allowed}")]
    Id { kind: &'static str, id: u32, allowed: &'static str },
    #[error(
        "Bridge {name} for {traffic} traffic does not exist: create it, or correct the traffic label or agent.properties"
    )]
    NoBridge { name: String, traffic: &'static str },
    #[error("{name} is to be a bridge for {traffic} traffic and is another device: rename or remove it")]
    NotABridge { name: String, traffic: &'static str },
    #[error(
        "There is no bridge or interface {base} to put {what} on: create it, or correct the traffic label or agent.properties"
    )]
    NoPif { base: String, what: String },
    #[error("{pif} is down, {what} cannot be put on it: bring it up (ip link set {pif} up)")]
    PifDown { pif: String, what: String },
    #[error("A device {name} that is not {wanted} exists already: rename or remove it")]
    NameTaken { name: String, wanted: String },
    #[error("{uplink} is a port of {owner} already and cannot be one of {bridge}: take it out of {owner}")]
    UplinkInUse { uplink: String, owner: String, bridge: String },
    #[error(
        "Bridge {bridge} for VLAN 4095 does not exist, and no device can be made for that id: create the bridge, or use \
         another id"
    )]
    NoTrunk { bridge: String },
    #[error(
        "This kernel has no 802.1q VLAN devices, {uplink} cannot be made: run `modprobe 8021q`; if there is no such module, \
         install the package with the rest of the kernel's modules ({text})"
    )]
    NoVlanSupport { uplink: String, text: String },
    #[error(
        "This kernel has no VXLAN devices, {uplink} cannot be made: run `modprobe vxlan`; if there is no such module, \
         install the package with the rest of the kernel's modules ({text})"
    )]
    NoVxlanSupport { uplink: String, text: String },
    #[error("Failed to create vnet {id}: check {pif} and {bridge} (ip link)")]
    Create { id: u32, pif: String, bridge: String, source: Box<NetworkError> },
    #[error("Failed to remove {bridge}: check it by hand (ip link)")]
    Remove { bridge: String, source: Box<NetworkError> },
    #[error("Control network {cidr} cannot be set up on {bridge}: check its addresses and routes")]
    Control { bridge: String, cidr: String, source: Box<NetworkError> },
    #[error(
        "control.cidr={cidr} is not an IPv4 network with at least two addresses, as 169.254.0.0/16 is: correct it"
    )]
    ControlCidr { cidr: String },
    #[error("`ip {command}` was refused: {text}")]
    Refused { command: String, text: String },
    #[error("{} failed: {text}", .script.display())]
    Script { script: PathBuf, text: String },
    #[error("Cannot run {program}")]
    Run { program: String, source: ExecError },
    #[error("Program {name} is not installed: install {package}")]
    NoProgram { name: &'static str, package: &'static str },
    #[error(
        "network.bridge.type={kind}: this agent plugs guests into native bridges only, set network.bridge.type=native"
    )]
    BridgeKind { kind: String },
}
