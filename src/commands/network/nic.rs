//! From a network card on the wire to what the bridges need to know of it.

use crate::commands::Fault;
use crate::commands::to::NicTo;
use crate::network::{Broadcast, NicPlan, Traffic};
use crate::wire::lenient;

/// `com.cloud.agent.api.to.NicTO`, the members that decide about the bridge.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// `Guest`, `Public`, `Control`, `Management`, `Storage`.
    #[serde(default, deserialize_with = "lenient::or_default", rename = "type")]
    pub traffic: String,
    /// `Native`, `Vlan`, `Vxlan`, `LinkLocal`, ...
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub broadcast_type: String,
    /// `vlan://100`, `vlan://untagged`, `vxlan://5000`.
    #[serde(default)]
    pub broadcast_uri: Option<String>,
    /// The traffic label: a bridge or a network device of the host.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub mac: String,
}

impl Nic {
    /// What the bridges make of this card; an error names what is not understood, for to guess would put
    /// a guest into the wrong network.
    pub fn plan(&self) -> Result<NicPlan, Fault> {
        let traffic = traffic(&self.traffic)?;
        let broadcast = broadcast(traffic, &self.broadcast_type, self.broadcast_uri.as_deref())?;
        Ok(NicPlan { traffic, broadcast, label: self.name.clone(), mac: self.mac.clone() })
    }
}

impl From<&NicTo> for Nic {
    fn from(to: &NicTo) -> Nic {
        Nic {
            traffic: to.traffic.clone(),
            broadcast_type: to.broadcast_type.clone(),
            broadcast_uri: to.broadcast_uri.clone(),
            name: to.name.clone(),
            mac: to.mac.clone(),
        }
    }
}

fn traffic(name: &str) -> Result<Traffic, Fault> {
    let all = [Traffic::Guest, Traffic::Public, Traffic::Control, Traffic::Management, Traffic::Storage];
    let found = all.into_iter().find(|traffic| traffic.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let name: String = name.chars().take(40).collect();
        Fault::new(format!("Network cards for {name:?} traffic are not known to this agent"))
    })
}

/// Which types of network are kept apart by the bridge; with all others that is somebody else's task.
fn broadcast(traffic: Traffic, kind: &str, uri: Option<&str>) -> Result<Broadcast, Fault> {
    let is = |name: &str| kind.eq_ignore_ascii_case(name);
    if is("Lswitch") {
        return Err(Fault::new("Nicira NVP Logicalswitches are not supported by the BridgeVifDriver"));
    }
    let by_bridge = match traffic {
        Traffic::Guest | Traffic::Public => is("Vlan") || is("Vxlan") || is("Netris"),
        Traffic::Storage => is("Storage"),
        Traffic::Control | Traffic::Management => false,
    };
    match uri {
        Some(uri) if by_bridge => read_uri(uri),
        _ => Ok(Broadcast::Native),
    }
}

fn read_uri(uri: &str) -> Result<Broadcast, Fault> {
    let unknown = || {
        let uri: String = uri.chars().take(80).collect();
        Fault::new(format!(
            "Broadcast URI {uri:?} is not vlan://ID, vlan://untagged or vxlan://ID: check the VLAN of the network"
        ))
    };
    let (scheme, value) = uri.split_once("://").ok_or_else(unknown)?;
    if value.eq_ignore_ascii_case("untagged") {
        return Ok(Broadcast::Native);
    }
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let id: u32 = value.parse().ok().filter(|_| digits).ok_or_else(unknown)?;
    match scheme.to_ascii_lowercase().as_str() {
        "vlan" | "storage" => u16::try_from(id).map(Broadcast::Vlan).map_err(|_| unknown()),
        "vxlan" | "netris" => Ok(Broadcast::Vxlan(id)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(traffic: &str, kind: &str, uri: &str) -> Result<Broadcast, Fault> {
        let nic = Nic {
            traffic: traffic.into(),
            broadcast_type: kind.into(),
            broadcast_uri: Some(uri.into()),
            ..Nic::default()
        };
        nic.plan().map(|plan| plan.broadcast)
    }

    #[test]
    fn tags_by_traffic_type_and_uri() {
        for (traffic, kind, uri, expected) in [
            ("Guest", "Vlan", "vlan://100", Broadcast::Vlan(100)),
            ("Guest", "Vlan", "vlan://untagged", Broadcast::Native),
            ("Guest", "Native", "vlan://100", Broadcast::Native),
            ("Guest", "Vlan", "ec2://untagged", Broadcast::Native),
            ("Guest", "Vxlan", "vxlan://5000", Broadcast::Vxlan(5000)),
            ("Guest", "Netris", "netris://77", Broadcast::Vxlan(77)),
            ("Guest", "Pvlan", "pvlan://100-i200", Broadcast::Native),
            ("Public", "Vlan", "vlan://780", Broadcast::Vlan(780)),
            ("Storage", "Storage", "storage://200", Broadcast::Vlan(200)),
            ("Storage", "Storage", "storage://untagged", Broadcast::Native),
            ("Storage", "Native", "vlan://untagged", Broadcast::Native),
            ("Management", "Native", "vlan://5", Broadcast::Native),
            ("Control", "LinkLocal", "", Broadcast::Native),
        ] {
            assert_eq!(plan(traffic, kind, uri).unwrap(), expected, "{traffic} {kind} {uri}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for uri in [
            "100",
            "vlan://",
            "vlan://70000",
            "vlan://-1",
            "vlan://+1",
            "vlan://1 ",
            "vlan://100-200",
            "gre://5",
        ] {
            assert!(plan("Guest", "Vlan", uri).unwrap_err().text().starts_with("Broadcast URI"), "{uri}");
        }
        assert!(plan("Guest", "Lswitch", "lswitch:x").unwrap_err().text().starts_with("Nicira NVP"));
        assert!(plan("Vpn", "Vlan", "vlan://5").unwrap_err().text().contains("\"Vpn\""));
    }

    #[test]
    fn a_captured_card_is_read() {
        let json = r#"{"deviceId":0,"mac":"1e:00:1d:00:00:35","broadcastType":"Vlan","type":"Guest",
            "broadcastUri":"vlan://500","isolationUri":"vlan://500","name":"cloudbr1"}"#;
        let plan = serde_json::from_str::<Nic>(json).unwrap().plan().unwrap();
        let expected = NicPlan {
            traffic: Traffic::Guest,
            broadcast: Broadcast::Vlan(500),
            label: Some("cloudbr1".into()),
            mac: "1e:00:1d:00:00:35".into(),
        };
        assert_eq!(plan, expected);
    }
}
