//! What a server of each version sends while a host registers, field by field as captured.

use crate::wire::Element;
use serde_json::{Map, Value, json};

/// The line of server releases that is imitated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Profile {
    #[default]
    V4_19_1,
    V4_22,
}

impl Profile {
    /// `4.19.1` or `4.22`.
    pub fn named(name: &str) -> Option<Profile> {
        match name {
            "4.19.1" => Some(Profile::V4_19_1),
            "4.22" => Some(Profile::V4_22),
            _ => None,
        }
    }
}

/// A command that the server sends by itself.
#[derive(Debug, Clone)]
pub enum Command {
    CheckNetwork,
    CleanupNetworkRules,
    SetHostParams,
    ModifySshKeys,
    /// The `ReadyCommand` whose answer makes the host Up.
    Ready,
    /// The second `ReadyCommand`, with the list of management servers.
    ReadyWithServers,
    CheckHealth,
    HostStats,
    /// For the pool with this id, path and type.
    StorageStats {
        id: String,
        path: String,
        pool_type: String,
    },
    /// The host was removed from the server.
    Shutdown {
        remove_host: bool,
    },
    /// Given by the caller.
    Given(Vec<Element>),
}

/// What the commands of one session are filled with.
#[derive(Debug, Clone)]
pub struct Facts {
    pub profile: Profile,
    pub host_id: i64,
    pub host_name: String,
    pub guid: String,
    pub servers: Vec<String>,
    /// Bridge or interface that the host must have.
    pub traffic_label: String,
    /// Correlation id in `contextMap`.
    pub logid: String,
    /// Seconds between two runs of the network rule cleanup.
    pub cleanup_interval: u32,
}

/// Public key text that no key belongs to.
const FAKE_PUBLIC_KEY: &str = "ecdsa-sha2-nistp256 AAAASIMULATED= root@simulated\n";
/// Private key text that is none.
const FAKE_PRIVATE_KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nSIMULATED\n-----END EC PRIVATE KEY-----\n";
const HOST_UUID: &str = "5f6d9e58-3f0c-4a53-9f0e-000000000000";

impl Command {
    /// Whether the server keeps other in-sequence commands back until this one is answered.
    pub fn is_in_sequence(&self) -> bool {
        match self {
            Command::CheckNetwork | Command::SetHostParams | Command::Ready | Command::ReadyWithServers => {
                true
            }
            Command::CleanupNetworkRules
            | Command::ModifySshKeys
            | Command::CheckHealth
            | Command::HostStats
            | Command::StorageStats { .. }
            | Command::Shutdown { .. }
            | Command::Given(_) => false,
        }
    }

    /// The elements of the request.
    pub fn elements(&self, facts: &Facts) -> Vec<Element> {
        let (name, fields, wait) = match self {
            Command::Given(elements) => return elements.clone(),
            Command::CheckNetwork => (
                "CheckNetworkCommand",
                json!({"networkInfoList": [{
                    "physicalNetworkId": 200,
                    "privateNetworkName": facts.traffic_label,
                    "guestNetworkName": facts.traffic_label,
                }]}),
                0,
            ),
            Command::CleanupNetworkRules => {
                ("CleanupNetworkRulesCmd", json!({"interval": facts.cleanup_interval}), 0)
            }
            Command::SetHostParams => ("SetHostParamsCommand", json!({"params": host_params(facts)}), 0),
            Command::ModifySshKeys => {
                ("ModifySshKeysCommand", json!({"_pubKey": FAKE_PUBLIC_KEY, "_prvKey": FAKE_PRIVATE_KEY}), 0)
            }
            Command::Ready => ("ReadyCommand", ready(facts, Servers::Omitted), 60),
            Command::ReadyWithServers => ("ReadyCommand", ready(facts, Servers::Listed), 0),
            Command::CheckHealth => ("CheckHealthCommand", json!({}), 50),
            Command::HostStats => (
                "GetHostStatsCommand",
                json!({"hostGuid": facts.guid, "hostName": facts.host_name, "hostId": facts.host_id}),
                0,
            ),
            Command::StorageStats { id, path, pool_type } => {
                ("GetStorageStatsCommand", json!({"id": id, "localPath": path, "pooltype": pool_type}), 0)
            }
            Command::Shutdown { remove_host } => {
                ("ShutdownCommand", json!({"reason": "deleteHost", "removeHost": remove_host}), 0)
            }
        };
        command(name, fields, wait, &facts.logid).into_iter().collect()
    }
}

enum Servers {
    Omitted,
    Listed,
}

fn host_params(facts: &Facts) -> Value {
    let mut params = json!({
        "tungsten.plugin.enable": "false",
        "migratewait": "3600",
        "router.aggregation.command.each.timeout": "600",
    });
    if facts.profile == Profile::V4_22 {
        set(&mut params, "reconcile.commands.enabled", json!("false"));
    }
    params
}

fn ready(facts: &Facts, servers: Servers) -> Value {
    let mut fields = json!({"dcId": 1, "hostId": facts.host_id, "enableHumanReadableSizes": true});
    let newer = facts.profile == Profile::V4_22;
    if newer {
        set(&mut fields, "hostUuid", json!(HOST_UUID));
        set(&mut fields, "hostName", json!(facts.host_name));
    }
    if matches!(servers, Servers::Listed) {
        set(&mut fields, "msHostList", json!(facts.servers));
        set(&mut fields, "lbAlgorithm", json!("static"));
        set(&mut fields, "lbCheckInterval", json!(0));
        if newer {
            set(&mut fields, "avoidMsHostList", json!([]));
            set(&mut fields, "arch", json!("x86_64"));
        }
    }
    fields
}

/// The early `StartupAnswer`: host id 0, whatever the host.
pub(super) fn startup_answer(profile: Profile, result: bool, ping_interval: u64) -> Option<Element> {
    let mut fields = json!({"hostId": 0, "pingInterval": ping_interval, "result": result});
    if profile == Profile::V4_22 {
        set(&mut fields, "hostName", json!(""));
        set(&mut fields, "hostUuid", json!(""));
    }
    plain("StartupAnswer", fields)
}

/// The later `StartupAnswer` that a repeated startup request gets, with the real id.
pub(super) fn late_startup_answer(host_id: i64, ping_interval: u64) -> Option<Element> {
    plain("StartupAnswer", json!({"hostId": host_id, "pingInterval": ping_interval, "result": true}))
}

/// The answer to a ping, which is echoed in it.
pub(super) fn ping_answer(profile: Profile, ping: Value, send_startup: bool) -> Option<Element> {
    let mut fields = json!({"_command": ping, "sendStartup": send_startup, "result": true});
    if profile == Profile::V4_22 {
        set(&mut fields, "avoidMsList", json!([]));
        set(&mut fields, "reconcileCommands", json!([]));
    }
    plain("PingAnswer", fields)
}

/// The `ReadyCommand` that refuses a host.
pub(super) fn refusal(text: &str) -> Option<Element> {
    plain("ReadyCommand", json!({"_details": text, "enableHumanReadableSizes": true}))
}

/// The answer to an agent's control request.
pub(super) fn control_answer() -> Option<Element> {
    plain("AgentControlAnswer", json!({"result": true}))
}

fn plain(name: &str, fields: Value) -> Option<Element> {
    finish(name, fields, 0, json!({}))
}

/// A command of package `com.cloud.agent.api` with the common tail.
pub(super) fn command(name: &str, fields: Value, wait: u32, logid: &str) -> Option<Element> {
    finish(name, fields, wait, json!({"logid": logid}))
}

fn finish(name: &str, mut fields: Value, wait: u32, context: Value) -> Option<Element> {
    set(&mut fields, "contextMap", context);
    set(&mut fields, "wait", json!(wait));
    set(&mut fields, "bypassHostMaintenance", json!(false));
    // A value of this kind always serializes.
    Element::new(&format!("com.cloud.agent.api.{name}"), &fields).ok()
}

fn set(fields: &mut Value, name: &str, value: Value) {
    if let Value::Object(map) = fields {
        let map: &mut Map<String, Value> = map;
        map.insert(name.to_owned(), value);
    }
}
