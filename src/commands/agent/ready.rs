//! `com.cloud.agent.api.ReadyCommand`: the server accepted this host (or says why not).
//!
//! Comes twice: with the host id, then with the list of servers. Both are answered, handling is
//! idempotent. A refusal (`_details` set) never gets here: the session ends on it.

use crate::commands::{Command, Ctx, Fault, Reply, ServerList, SessionRequest};
use crate::host::capabilities::CapabilityFacts;
use crate::wire::lenient;
use std::collections::BTreeMap;
use std::time::Duration;

pub const CLASS: &str = "com.cloud.agent.api.ReadyCommand";

/// Longest interval between checks of the preferred server that is accepted from the wire.
const LONGEST_CHECK_INTERVAL: i64 = 7 * 24 * 3600;

#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyCommand {
    /// Why the server refuses this host; absent when it is accepted.
    #[serde(default, rename = "_details")]
    pub details: Option<String>,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub host_id: Option<i64>,
    /// 4.20.2 and later.
    #[serde(default)]
    pub host_uuid: Option<String>,
    #[serde(default)]
    pub host_name: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub ms_host_list: Vec<String>,
    /// 4.21 and later.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub avoid_ms_host_list: Vec<String>,
    #[serde(default)]
    pub lb_algorithm: Option<String>,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub lb_check_interval: Option<i64>,
    /// 4.20 and later: what the server believes this host to be.
    #[serde(default)]
    pub arch: Option<String>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyAnswer {
    details_map: BTreeMap<&'static str, String>,
}

impl ReadyCommand {
    fn servers(&self) -> ServerList {
        ServerList {
            hosts: self.ms_host_list.clone(),
            algorithm: self.lb_algorithm.clone().unwrap_or_default(),
            check_interval: seconds(self.lb_check_interval),
            avoid: self.avoid_ms_host_list.clone(),
        }
    }
}

/// What servers store about this host when it becomes ready. `host.uefi.enable` is always there:
/// some servers dereference it without a check.
fn details(facts: &CapabilityFacts) -> BTreeMap<&'static str, String> {
    let mut details = BTreeMap::from([("host.uefi.enable", facts.uefi.to_string())]);
    if facts.instance_conversion {
        details.extend(converter_versions(facts));
    }
    details
}

/// Versions of the tools that convert guests of other hypervisors (4.20 and later), where known.
pub fn converter_versions(facts: &CapabilityFacts) -> impl Iterator<Item = (&'static str, String)> {
    let virtv2v = facts.virtv2v_version.clone().map(|version| ("host.virtv2v.version", version));
    let ovftool = facts.ovftool_version.clone().map(|version| ("host.ovftool.version", version));
    virtv2v.into_iter().chain(ovftool)
}

/// Seconds from the wire, bounded; negative and absent are zero.
pub fn seconds(value: Option<i64>) -> Duration {
    let bounded = value.unwrap_or_default().clamp(0, LONGEST_CHECK_INTERVAL);
    Duration::from_secs(u64::try_from(bounded).unwrap_or_default())
}

impl Command for ReadyCommand {
    type Answer = ReadyAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.ReadyAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<ReadyAnswer>, Fault> {
        let own_arch = ctx.services.identity.borrow().as_ref().map(|identity| identity.arch.clone());
        if let (Some(theirs), Some(ours)) = (&self.arch, own_arch)
            && !theirs.is_empty()
            && *theirs != ours
        {
            tracing::warn!(server_says = %theirs, this_host = %ours, "The server has another architecture for this host");
        }
        ctx.session.ask(SessionRequest::Servers { list: self.servers(), check_now: false }).await;
        Ok(Reply::ok(ReadyAnswer { details_map: details(&ctx.services.capabilities.current()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_all_versions_are_read() {
        let json = r#"{"dcId":1,"hostId":"7","hostUuid":"4605","hostName":"vm","msHostList":["10.0.0.1"],"avoidMsHostList":[],
            "lbAlgorithm":"static","lbCheckInterval":0,"enableHumanReadableSizes":true,"arch":"x86_64","new":{"x":[]}}"#;
        let command: ReadyCommand = serde_json::from_str(json).unwrap();
        assert_eq!((command.host_id, command.details.as_deref()), (Some(7), None));
        assert_eq!(command.servers().hosts, ["10.0.0.1"]);
        let refused: ReadyCommand = serde_json::from_str(r#"{"_details":"wrong zone"}"#).unwrap();
        assert_eq!(refused.details.as_deref(), Some("wrong zone"));
    }

    #[test]
    fn intervals_from_the_wire_are_bounded() {
        assert_eq!(seconds(Some(-5)), Duration::ZERO);
        assert_eq!(seconds(Some(i64::MAX)), Duration::from_secs(604_800));
    }
}
