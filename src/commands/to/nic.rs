//! `com.cloud.agent.api.to.NicTO` with the members of its parent `NetworkTO`: a network card.

use super::vm::Era;
use crate::wire::lenient;
use serde::Deserialize;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NicTo {
    /// Place among the guest's cards.
    #[serde(default, deserialize_with = "lenient::int")]
    pub device_id: i64,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub uuid: String,
    #[serde(default)]
    pub nic_uuid: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub mac: String,
    #[serde(default)]
    pub ip: Option<String>,
    #[serde(default)]
    pub netmask: Option<String>,
    #[serde(default)]
    pub gateway: Option<String>,
    #[serde(default)]
    pub ip6address: Option<String>,
    #[serde(default)]
    pub ip6cidr: Option<String>,
    /// Further addresses.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub nic_sec_ips: Vec<String>,
    /// `Native`, `Vlan`, `Vxlan`, `LinkLocal`, ...
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub broadcast_type: String,
    /// `vlan://100`, `vlan://untagged`, `vxlan://5000`.
    #[serde(default)]
    pub broadcast_uri: Option<String>,
    #[serde(default)]
    pub isolation_uri: Option<String>,
    /// `Guest`, `Public`, `Control`, `Management`, `Storage`.
    #[serde(default, deserialize_with = "lenient::or_default", rename = "type")]
    pub traffic: String,
    /// The traffic label: a bridge or a network device of the host.
    #[serde(default)]
    pub name: Option<String>,
    /// Mbit/s; absent or -1 for no limit.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub network_rate_mbps: Option<i64>,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub default_nic: bool,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub pxe_disable: bool,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub dpdk_enabled: bool,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub mtu: Option<i64>,
    /// The name from 4.21 on; its mere presence tells the version.
    #[serde(default, deserialize_with = "lenient::opt_flag")]
    security_group_enabled: Option<bool>,
    #[serde(default, deserialize_with = "lenient::opt_flag")]
    is_security_group_enabled: Option<bool>,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    network_id: Option<i64>,
}

impl NicTo {
    pub fn has_security_groups(&self) -> bool {
        self.security_group_enabled.or(self.is_security_group_enabled).unwrap_or(false)
    }

    /// The oldest version of the server that sends this.
    pub fn era(&self) -> Era {
        if self.security_group_enabled.is_some() {
            Era::V4_21
        } else if self.network_id.is_some() {
            Era::V4_20
        } else {
            Era::V4_19
        }
    }

    /// The limit of this card in kilobytes per second; only traffic of guests and to the outside has one.
    pub fn rate_kilobytes(&self) -> Option<u64> {
        let limited = ["Guest", "Public"].iter().any(|traffic| self.traffic.eq_ignore_ascii_case(traffic));
        // What a megabit is was corrected in 4.21.
        let kilobytes = if self.era() == Era::V4_21 { 125 } else { 128 };
        let mbps = self.network_rate_mbps.filter(|_| limited)?;
        u64::try_from(mbps).ok().filter(|mbps| *mbps > 0)?.checked_mul(kilobytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(json: &str) -> NicTo {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn rates_by_traffic_and_version() {
        for (json, rate) in [
            (r#"{"type":"Guest","networkRateMbps":200,"isSecurityGroupEnabled":false}"#, Some(25_600)),
            (r#"{"type":"Public","networkRateMbps":200,"securityGroupEnabled":true}"#, Some(25_000)),
            (r#"{"type":"Control","networkRateMbps":200}"#, None),
            (r#"{"type":"Guest","networkRateMbps":-1}"#, None),
            (r#"{"type":"Guest","networkRateMbps":0}"#, None),
            (r#"{"type":"Guest"}"#, None),
        ] {
            assert_eq!(nic(json).rate_kilobytes(), rate, "{json}");
        }
    }

    #[test]
    fn security_groups_under_both_names() {
        assert!(nic(r#"{"isSecurityGroupEnabled":true}"#).has_security_groups());
        assert!(nic(r#"{"securityGroupEnabled":true}"#).has_security_groups());
        assert!(!nic("{}").has_security_groups());
    }
}
