//! Bridges of VLANs and VXLANs: made when the first guest needs one, removed after the last.
//! Mirrors `modifyvlan.sh` and `modifyvxlan.sh`. The caller holds the lock of [`super::Bridges`].

use super::error::NetworkError;
use super::ip;
use super::links::Links;
use super::names::{self, Made, TRUNK, Tag, Vnet};
use super::plan::Unplugged;
use crate::host::exec::{Program, is_executable};
use std::path::{Path, PathBuf};

/// Hosts may have another one, for EVPN for example, so it is called where it exists.
const VXLAN_SCRIPT: &str = "modifyvxlan.sh";
/// What hosts with that script use, the kernel's own default; not the port that IANA assigned later.
const VXLAN_PORT: u16 = 8472;
const VXLAN_TTL: u8 = 10;

pub(super) struct Workshop<'a> {
    pub links: &'a Links,
    /// Where the scripts of the Java agent are.
    pub scripts: &'a Path,
}

impl Workshop<'_> {
    /// Makes what is missing of a bridge; gives the devices that were made, in order.
    pub(super) async fn make(&self, vnet: &Vnet) -> Result<Vec<String>, NetworkError> {
        if self.is_ready(vnet) {
            return Ok(Vec::new());
        }
        if vnet.tag == Tag::Vlan(TRUNK) {
            let bridge = vnet.bridge.clone();
            return if self.links.is_bridge(&bridge) {
                Ok(Vec::new())
            } else {
                Err(NetworkError::NoTrunk { bridge })
            };
        }
        self.check(vnet)?;
        let mut missing = vec![vnet.uplink.clone(), vnet.bridge.clone()];
        missing.retain(|name| !self.links.exists(name));
        let done = match (vnet.tag, self.script()) {
            (Tag::Vxlan(_), Some(script)) => self.make_by_script(script, vnet).await,
            _ => self.make_by_hand(vnet, &missing).await,
        };
        // A script may have made less, or something else; a refusal comes in the middle.
        missing.retain(|name| self.links.exists(name));
        if let Err(error) = done {
            if let Err(left) = self.delete(&vnet.bridge, &missing).await {
                tracing::warn!(bridge = vnet.bridge, "Left behind: {}", crate::errors::chain(&left));
            }
            return Err(error);
        }
        tracing::info!(bridge = vnet.bridge, pif = vnet.pif, made = ?missing, "Bridge of {} is ready", vnet.tag.title());
        Ok(missing)
    }

    fn is_ready(&self, vnet: &Vnet) -> bool {
        let links = self.links;
        links.is_bridge(&vnet.bridge)
            && links.is_up(&vnet.bridge)
            && links.is_up(&vnet.uplink)
            && links.master(&vnet.uplink).as_deref() == Some(vnet.bridge.as_str())
    }

    /// Whether all that exists already is what it should be.
    fn check(&self, vnet: &Vnet) -> Result<(), NetworkError> {
        let links = self.links;
        let Vnet { uplink, bridge, pif, .. } = vnet;
        if links.exists(bridge) && !links.is_bridge(bridge) {
            return Err(NetworkError::NameTaken { name: bridge.clone(), wanted: "a bridge".to_owned() });
        }
        if links.exists(uplink) {
            let right = match vnet.tag {
                Tag::Vlan(_) => links.below_vlan(uplink).as_ref() == Some(pif),
                Tag::Vxlan(_) => links.is_vxlan(uplink),
            };
            if !right {
                let wanted = format!("the device of {} on {pif}", vnet.tag.title());
                return Err(NetworkError::NameTaken { name: uplink.clone(), wanted });
            }
        }
        if let Some(owner) = links.master(uplink).filter(|owner| owner != bridge) {
            return Err(NetworkError::UplinkInUse { uplink: uplink.clone(), owner, bridge: bridge.clone() });
        }
        if !links.is_up(pif) {
            return Err(NetworkError::PifDown { pif: pif.clone(), what: vnet.tag.title() });
        }
        Ok(())
    }

    async fn make_by_hand(&self, vnet: &Vnet, missing: &[String]) -> Result<(), NetworkError> {
        let Vnet { uplink, bridge, pif, tag } = vnet;
        let adding = missing.iter().map(|name| match tag {
            _ if name == bridge => format!("link add name {bridge} type bridge"),
            Tag::Vlan(id) => format!("link add link {pif} name {uplink} type vlan id {id}"),
            Tag::Vxlan(id) => format!(
                "link add name {uplink} type vxlan id {id} group {} ttl {VXLAN_TTL} dev {pif} dstport {VXLAN_PORT}",
                Vnet::group(*id)
            ),
        });
        let adding: Vec<String> = adding.collect();
        ip::run(&adding).await.map_err(|error| explained(error, vnet))?;
        // Before they are up, so that they never get an address.
        self.links.disable_ipv6(uplink);
        self.links.disable_ipv6(bridge);
        let mut joining = vec![
            format!("link set dev {uplink} master {bridge}"),
            format!("link set dev {uplink} up"),
            format!("link set dev {bridge} up"),
        ];
        if let Tag::Vxlan(id) = tag {
            joining.push(format!("route replace {}/32 dev {pif}", Vnet::group(*id)));
        }
        ip::run(&joining).await.map_err(|error| failed(error, vnet))
    }

    async fn make_by_script(&self, script: PathBuf, vnet: &Vnet) -> Result<(), NetworkError> {
        let id = vnet.tag.id().to_string();
        let words = ["-o", "add", "-v", &id, "-p", &vnet.pif, "-b", &vnet.bridge];
        call(&script, &words).await.map_err(|error| failed(error, vnet))?;
        if self.links.is_bridge(&vnet.bridge) {
            return Ok(());
        }
        let text = "it reports success and there is no bridge".to_owned();
        Err(failed(NetworkError::Script { script, text }, vnet))
    }

    fn script(&self) -> Option<PathBuf> {
        Some(self.scripts.join(VXLAN_SCRIPT)).filter(|script| is_executable(script))
    }

    /// Removes a bridge that was made for a network id, with its uplink, unless anything else is on it.
    pub(super) async fn remove(&self, bridge: &str, made: &Made) -> Result<Unplugged, NetworkError> {
        let is_uplink = |port: &String| {
            made.is_uplink(port) && (self.links.is_vxlan(port) || self.links.below_vlan(port).is_some())
        };
        let (uplinks, others): (Vec<String>, Vec<String>) =
            self.links.ports(bridge).into_iter().partition(is_uplink);
        if let Some(port) = others.into_iter().next() {
            return Ok(Unplugged::InUse { port: Some(port) });
        }
        // An operator's bridge may have such a name by chance. One of ours whose uplink was removed by
        // hand names an interface of this host.
        let ours = made.is_vxlan() || made.pif().is_some_and(|pif| self.links.exists(pif));
        if uplinks.is_empty() && !ours {
            return Ok(Unplugged::NotOurs);
        }
        let devices: Vec<String> = uplinks.into_iter().chain([bridge.to_owned()]).collect();
        self.delete(bridge, &devices).await?;
        tracing::info!(bridge, "Bridge is removed, no guest is left on it");
        Ok(Unplugged::Removed)
    }

    /// Takes back what [`Workshop::make`] made, unless it got other ports since.
    pub(super) async fn take_back(&self, bridge: &str, made: &[String]) -> Result<(), NetworkError> {
        let ports = self.links.ports(bridge);
        let uplink = Made::by_name(bridge);
        let foreign =
            |port: &&String| !made.contains(port) && !uplink.as_ref().is_some_and(|u| u.is_uplink(port));
        if ports.iter().find(foreign).is_some() {
            return Ok(());
        }
        self.delete(bridge, made).await
    }

    async fn delete(&self, bridge: &str, devices: &[String]) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Remove { bridge: bridge.to_owned(), source: Box::new(source) };
        let made = Made::by_name(bridge);
        let vxlan = devices.iter().find(|name| self.links.is_vxlan(name)).zip(made);
        if let (Some((device, made)), Some(script)) = (&vxlan, self.script()) {
            let pif = self.links.below(device).unwrap_or_else(|| "vx".to_owned());
            let words = ["-o", "delete", "-v", &made.id.to_string(), "-p", &pif, "-b", bridge];
            call(&script, &words).await.map_err(failed)?;
        }
        let mut commands = Vec::new();
        if let Some((_, made)) = vxlan {
            commands.push(format!("route flush exact {}/32", Vnet::group(made.id)));
        }
        let there = devices.iter().filter(|name| self.links.exists(name));
        for name in there {
            commands.push(format!("link del dev {}", names::checked(name)?));
        }
        ip::run(&commands).await.map_err(failed)
    }
}

async fn call(script: &Path, words: &[&str]) -> Result<(), NetworkError> {
    let run = Program::new(script).args(words).run().await;
    let output = run.map_err(|source| NetworkError::Run { program: script.display().to_string(), source })?;
    if output.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = if errors.trim().is_empty() { output.text() } else { errors.into_owned() };
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect();
    Err(NetworkError::Script { script: script.to_owned(), text })
}

fn failed(error: NetworkError, vnet: &Vnet) -> NetworkError {
    NetworkError::Create {
        id: vnet.tag.id(),
        pif: vnet.pif.clone(),
        bridge: vnet.bridge.clone(),
        source: Box::new(error),
    }
}

/// A kernel without the kind of device says so when the first is to be made.
fn explained(error: NetworkError, vnet: &Vnet) -> NetworkError {
    let unknown = |text: &str| text.contains("Unknown device type") || text.contains("not supported");
    match error {
        NetworkError::Refused { command, text } if command.contains(&vnet.uplink) && unknown(&text) => {
            let uplink = vnet.uplink.clone();
            match vnet.tag {
                Tag::Vlan(_) => NetworkError::NoVlanSupport { uplink, text },
                Tag::Vxlan(_) => NetworkError::NoVxlanSupport { uplink, text },
            }
        }
        error => failed(error, vnet),
    }
}
