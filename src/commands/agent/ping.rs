//! `com.cloud.agent.api.PingRoutingCommand`: sign of life and power states of the guests.
//!
//! Mirrors the reference's report: only guests that are on. A report that libvirt could not give
//! completely is left out: servers skip the comparison then, while an empty one would declare every
//! guest of this host stopped.

use crate::hypervisor::{DomainPower, PowerState};
use crate::wire::{Element, Sent, lenient};
use std::collections::BTreeMap;

pub const CLASS: &str = "com.cloud.agent.api.PingRoutingCommand";
pub const ANSWER: &str = "com.cloud.agent.api.PingAnswer";

/// `com.cloud.agent.api.PingAnswer`, without the echo of the ping.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PingAnswer {
    /// The server does not count this host as Up and wants a new registration.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub send_startup: bool,
    /// Servers that are not up (4.21).
    #[serde(default)]
    pub avoid_ms_list: Option<Vec<String>>,
}

/// Power states of all guests of this host, complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PowerReport {
    /// Name of this host as libvirt has it.
    pub host: String,
    pub running: Vec<String>,
}

impl PowerReport {
    pub fn new(host: String, guests: Vec<DomainPower>) -> PowerReport {
        let on = |guest: &DomainPower| guest.state.power() == PowerState::On;
        PowerReport { host, running: guests.into_iter().filter(on).map(|guest| guest.name).collect() }
    }
}

/// What triggered a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Interval,
    /// A guest stopped by itself.
    GuestEvent,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct PingRoutingCommand<'a> {
    #[serde(rename = "_hostVmStateReport", skip_serializing_if = "Option::is_none")]
    report: Option<BTreeMap<&'a str, HostVmStateReportEntry<'a>>>,
    #[serde(rename = "_gatewayAccessible")]
    gateway_accessible: bool,
    #[serde(rename = "_vnetAccessible")]
    vnet_accessible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_health_check_result: Option<bool>,
    host_type: &'static str,
    /// -1 while unknown: the link identifies the host then, and 0 would be another host's.
    host_id: i64,
    out_of_band: bool,
    /// Reconciliation (4.21) is not offered.
    command_infos: [(); 0],
}

#[derive(Debug, serde::Serialize)]
struct HostVmStateReportEntry<'a> {
    state: &'static str,
    host: &'a str,
}

/// The ping as it goes out.
pub fn element(
    host_id: Option<i64>,
    trigger: Trigger,
    report: Option<&PowerReport>,
    healthy: Option<bool>,
) -> Result<Element, serde_json::Error> {
    let entry = |host| HostVmStateReportEntry { state: "PowerOn", host };
    let report = report.map(|report| {
        report.running.iter().map(|name| (name.as_str(), entry(report.host.as_str()))).collect()
    });
    let ping = PingRoutingCommand {
        report,
        gateway_accessible: true,
        vnet_accessible: true,
        host_health_check_result: healthy,
        host_type: "Routing",
        host_id: host_id.unwrap_or(-1),
        out_of_band: trigger == Trigger::GuestEvent,
        command_infos: [],
    };
    Element::new(CLASS, &Sent::new(&ping))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::DomainState;

    fn json(report: Option<&PowerReport>) -> serde_json::Value {
        element(Some(1), Trigger::Interval, report, None).unwrap().read().unwrap()
    }

    #[test]
    fn the_ping_has_the_members_of_the_captured_one() {
        let guests = vec![
            DomainPower { name: "i-1-4-VM".into(), state: DomainState::Paused },
            DomainPower { name: "i-1-5-VM".into(), state: DomainState::Shutoff },
        ];
        let report = PowerReport::new("vm".into(), guests);
        let expected = serde_json::json!({
            "_hostVmStateReport": {"i-1-4-VM": {"state": "PowerOn", "host": "vm"}},
            "_gatewayAccessible": true, "_vnetAccessible": true, "hostType": "Routing", "hostId": 1,
            "outOfBand": false, "commandInfos": [], "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        });
        assert_eq!(json(Some(&report)), expected);
    }

    #[test]
    fn without_an_answer_of_libvirt_there_is_no_report() {
        assert!(json(None).get("_hostVmStateReport").is_none());
        let empty = PowerReport::new("vm".into(), vec![]);
        assert_eq!(json(Some(&empty))["_hostVmStateReport"], serde_json::json!({}));
    }
}
