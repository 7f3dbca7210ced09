//! `com.cloud.agent.api.CheckNetworkCommand`: do the traffic labels of the zone exist on this host?
//! Asked while it registers; a host that lacks one is refused.

use crate::commands::{Command, Ctx, Fault, Reply};
use crate::host::nic;
use crate::wire::lenient;
use std::path::Path;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckNetworkCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub network_info_list: Vec<PhysicalNetworkSetupInfo>,
}

/// `com.cloud.network.PhysicalNetworkSetupInfo`; a label that is absent needs no check. The label of
/// storage traffic is not checked by the reference agent either.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PhysicalNetworkSetupInfo {
    #[serde(default)]
    pub guest_network_name: Option<String>,
    #[serde(default)]
    pub private_network_name: Option<String>,
    #[serde(default)]
    pub public_network_name: Option<String>,
}

#[derive(Debug, serde::Serialize)]
pub struct CheckNetworkAnswer {
    /// Whether the host is to connect anew after a correction; hosts never ask for that.
    #[serde(rename = "_reconnect")]
    reconnect: bool,
}

impl PhysicalNetworkSetupInfo {
    fn labels(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let labels = [
            ("guest", &self.guest_network_name),
            ("private", &self.private_network_name),
            ("public", &self.public_network_name),
        ];
        labels.into_iter().filter_map(|(traffic, label)| Some((traffic, label.as_deref()?)))
    }
}

/// Names of all bridges of the node below `root`, sorted.
fn bridges(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("sys/class/net")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut bridges: Vec<String> = names.filter(|name| nic::bridge_ports(root, name).is_some()).collect();
    bridges.sort();
    bridges
}

/// What is wrong with the first label that does not exist.
fn problem(root: &Path, networks: &[PhysicalNetworkSetupInfo]) -> Option<String> {
    let mut labels = networks.iter().flat_map(PhysicalNetworkSetupInfo::labels);
    let (traffic, label) = labels.find(|(_, label)| !nic::network_exists(root, label))?;
    let shown: String = label.chars().take(80).collect();
    if nic::bridge_ports(root, label).is_some() {
        return Some(format!(
            "Can not find network: {shown} ({traffic} traffic) is a bridge without a physical port: add the interface to it"
        ));
    }
    let found = bridges(root);
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Some(format!(
        "Can not find network: {shown} ({traffic} traffic); bridges on this host: {found}. Create it, or correct the traffic label of the zone"
    ))
}

impl Command for CheckNetworkCommand {
    type Answer = CheckNetworkAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.CheckNetworkAnswer";

    async fn handle(self, _: Ctx) -> Result<Reply<CheckNetworkAnswer>, Fault> {
        let answer = CheckNetworkAnswer { reconnect: false };
        Ok(match problem(Path::new("/"), &self.network_info_list) {
            None => Reply::ok(answer),
            Some(details) => Reply::failed(answer, details),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.CheckNetworkCommand";

    #[tokio::test]
    async fn labels_of_this_host_are_found() {
        let mut bench = Bench::new().await;
        let network = json!({"physicalNetworkId": 201, "privateNetworkName": "lo", "guestNetworkName": "lo"});
        let (class, fields) = bench.answer(CLASS, json!({"networkInfoList": [network]})).await;
        assert_eq!(class, "com.cloud.agent.api.CheckNetworkAnswer");
        assert_eq!((&fields["result"], &fields["_reconnect"]), (&json!(true), &json!(false)));
        assert!(fields.get("details").is_none());
    }

    #[tokio::test]
    async fn a_missing_label_is_named() {
        let mut bench = Bench::new().await;
        let network = json!({"publicNetworkName": "no-such-bridge"});
        let (class, fields) = bench.answer(CLASS, json!({"networkInfoList": [{}, network]})).await;
        assert_eq!(class, "com.cloud.agent.api.CheckNetworkAnswer");
        assert_eq!((&fields["result"], &fields["_reconnect"]), (&json!(false), &json!(false)));
        assert!(
            fields["details"].as_str().unwrap().starts_with("Can not find network: no-such-bridge (public")
        );
    }

    fn named(label: &str) -> [PhysicalNetworkSetupInfo; 1] {
        [PhysicalNetworkSetupInfo { guest_network_name: Some(label.into()), ..Default::default() }]
    }

    #[test]
    fn the_problem_says_what_there_is() {
        let root = tempfile::tempdir().unwrap();
        for port in ["cloudbr0/brif/eth0", "cloudbr1/brif/vnet0", "eth0"] {
            std::fs::create_dir_all(root.path().join("sys/class/net").join(port)).unwrap();
        }
        assert_eq!(problem(root.path(), &named("cloudbr0")), None);
        assert_eq!(problem(root.path(), &[PhysicalNetworkSetupInfo::default()]), None);
        let missing = problem(root.path(), &named("cloudbr7")).unwrap();
        assert!(missing.contains("cloudbr7") && missing.contains("cloudbr0, cloudbr1"), "{missing}");
        assert!(problem(root.path(), &named("cloudbr1")).unwrap().contains("without a physical port"));
        assert!(problem(root.path(), &named("../../etc")).is_some());
    }
}
