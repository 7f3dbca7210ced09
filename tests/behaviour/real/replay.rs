//! Captured requests of a real server, played to an agent on a host that is made to look like the
//! captured one: its addresses, bridge, pools and template server are here under the same names.

use super::cage::Cage;
use super::edge::{BRIDGE, Edge};
use super::traces::Traces;
use cloudstack_agent::commands::table;
use cloudstack_agent::sim::captured::{self, Exchange, differences};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Id and directory of each pool of the captured hosts.
pub const POOLS: [(&str, &str); 3] = [
    ("2f8a0f51-5d6c-4d7b-8a68-1d2f6c1e9b10", "/var/lib/libvirt/images"),
    ("3a9b1a62-6e7d-4e8c-9b79-2e3a7d2fa0c2", "/var/lib/libvirt/images2"),
    ("4bab2b73-7f8e-4f9d-8a8a-3f4b8e30b0d3", "/var/lib/libvirt/images3"),
];
/// Shared storage of the capture, and where it is here: nothing of a cage hides what is below `/mnt`.
const SHARED: (&str, &str) = ("/mnt/smp", "/run/smp");
/// Of the captured hosts, and of the server that templates came from.
const ADDRESS: &str = "10.99.0.2";
/// Sizes of what that server had.
const IMAGE: &str = "64M";
const DISC: usize = 555_008;

/// What is not sent as it was captured.
///
/// Text of a request, what it is here, why.
const ADAPTED: [(&str, &str, &str); 5] = [
    (SHARED.0, SHARED.1, "a cage has its own directory there"),
    ("vlan://500", "vlan://untagged", "bridges in a cage have no card that could tag"),
    ("vlan://778", "vlan://untagged", "the same"),
    ("vlan://780", "vlan://untagged", "the same"),
    (
        "\"waitDetachDevice\":10000",
        "\"waitDetachDevice\":2000",
        "the guest will not give it up in ten either",
    ),
];

/// Answers that have another `result` here than they had there, by what request or captured answer have
/// in them; then the details differ, too.
///
/// Command, text, result here, why.
const OTHERWISE: [(&str, &str, bool, &str); 5] = [
    ("StartCommand", "Failed to create vnet 500", true, "the kernel of the capture had no VLANs"),
    (
        "StartCommand",
        "tc qdisc add",
        true,
        "it could not limit bandwidth, without which this agent starts guests",
    ),
    ("PlugNicCommand", "tc qdisc add", true, "the same"),
    (
        "AttachCommand",
        "unsupported protocol",
        true,
        "the reference agent has no discs on shared mount points",
    ),
    ("StartCommand", "template=domP", false, "the programs of system VMs are not installed here"),
];

/// Captured commands that are not played, and why.
const LEFT_OUT: [(&str, &str); 6] = [
    ("ModifySshKeysCommand", "writes keys to the home directory of whoever runs the tests"),
    ("NetworkUsageCommand", "asks a system VM that answers"),
    ("ReadyCommand", "belongs to the registration, which the simulated server plays"),
    (
        "SetupCertificateCommand",
        "its certificate is for a key that is not here: see the tests of certificates",
    ),
    ("SetupKeyStoreCommand", "the same"),
    ("SetupMSListCommand", "sends the agent to the servers of the capture: see the tests of server lists"),
];

/// A host like that of the capture in a cage of its own, registered.
pub async fn host(cage: &Cage) -> Edge<'_> {
    cage.start_libvirtd();
    cage.answers().await;
    let mut directories: Vec<&str> = POOLS.iter().map(|(_, directory)| *directory).collect();
    let [ids, paths] = [POOLS.map(|pool| pool.0).join(","), directories.join(",")];
    directories.push(SHARED.1);
    cage.run(&[&["mkdir", "-p"], &directories[..]].concat()).await.unwrap();
    cage.run(&["ip", "address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]).await.unwrap();
    // In place of the network card behind the bridge.
    cage.run(&["ip", "tuntap", "add", "eth1", "mode", "tap"]).await.unwrap();
    // Where they are installed a start would wait for a system VM that does not answer.
    let hide = "d=/usr/share/cloudstack-common; [ ! -e $d ] || mount -t tmpfs none $d";
    cage.run(&["sh", "-c", hide]).await.unwrap();
    let properties = [
        ("local.storage.uuid", ids.as_str()),
        ("local.storage.path", &paths),
        ("private.network.device", BRIDGE),
        ("public.network.device", BRIDGE),
        ("guest.network.device", BRIDGE),
        // Nobody in these guests hears the power button.
        ("stop.script.timeout", "1"),
    ];
    let edge = Edge::with(cage, &properties).await;
    cage.run(&["ip", "link", "set", "eth1", "master", BRIDGE]).await.unwrap();
    edge
}

/// What the host has of guests.
pub async fn traces(edge: &Edge<'_>) -> Traces {
    let of_agent = ["cache", "temporary", "state/journal"].map(|name| edge.host.node.path(name));
    let pools = POOLS.iter().map(|(_, directory)| *directory).chain([SHARED.1]);
    let directories: Vec<PathBuf> =
        of_agent.into_iter().chain(pools.map(|path| edge.cage.file(path))).collect();
    Traces::of(edge.cage, &directories).await
}

/// Starts the server that templates come from.
pub async fn serve(edge: &Edge<'_>) {
    let file = edge.host.node.path("tiny.qcow2");
    edge.cage.run(&["qemu-img", "create", "-f", "qcow2", file.to_str().unwrap(), IMAGE]).await.unwrap();
    let image = std::fs::read(file).unwrap();
    let listener = TcpListener::bind((ADDRESS, 8000)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let body = if request.contains(" /t.iso ") { vec![0; DISC] } else { image.clone() };
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            if !request.starts_with("HEAD") {
                let _ = stream.write_all(&body).await;
            }
        }
    });
}

/// The captured commands of one version, and which of them were played.
pub struct Replay<'a> {
    edge: &'a Edge<'a>,
    exchanges: Vec<Exchange>,
    played: BTreeSet<usize>,
    /// Names that the captured agent gave to what it made, with those that this one gave.
    names: Vec<(String, String)>,
}

impl<'a> Replay<'a> {
    pub fn of(edge: &'a Edge<'a>, version: &str) -> Replay<'a> {
        let (_, file) = captured::FILES.into_iter().find(|(of, _)| *of == version).unwrap();
        let mut exchanges = captured::exchanges(file).unwrap();
        exchanges.retain(|exchange| table::find(&exchange.class).is_some());
        Replay { edge, exchanges, played: BTreeSet::new(), names: Vec::new() }
    }

    /// Plays the first command of that name that has `part` in it, was answered, and was not played yet.
    pub async fn plays(&mut self, command: &str, part: &str) -> Value {
        let index = self.find(command, part, |index, exchange, played| {
            exchange.answer.is_some() && !played.contains(&index)
        });
        self.played.insert(index);
        self.tell(index, &[]).await
    }

    /// Plays all of them that were not played yet.
    pub async fn plays_all(&mut self, command: &str) {
        while self.is_left(command) {
            self.plays(command, "").await;
        }
    }

    fn is_left(&self, command: &str) -> bool {
        self.exchanges.iter().enumerate().any(|(index, exchange)| {
            is(exchange, command) && exchange.answer.is_some() && !self.played.contains(&index)
        })
    }

    /// Plays an answered command, played before or not, with other texts in command and captured answer:
    /// what must have happened and was not captured.
    pub async fn retells(&mut self, command: &str, part: &str, changes: &[(&str, &str)]) -> Value {
        let index = self.find(command, part, |_, exchange, _| exchange.answer.is_some());
        self.tell(index, changes).await
    }

    /// Plays a command of which the answer was not captured; gives the answer.
    pub async fn plays_unanswered(&mut self, command: &str, part: &str) -> (String, Value) {
        let index = self.find(command, part, |_, exchange, _| exchange.answer.is_none());
        self.played.insert(index);
        let Exchange { class, fields, .. } = &self.exchanges[index];
        self.edge.host.ask(class, self.adapted(fields)).await
    }

    /// Asserts that no command was forgotten.
    pub fn is_complete(&self) {
        for (index, exchange) in self.exchanges.iter().enumerate() {
            let left_out = LEFT_OUT.iter().any(|(command, _)| is(exchange, command));
            let played = self.played.contains(&index);
            assert!(!(left_out && played), "{} is played: take it out of LEFT_OUT", exchange.class);
            // Seen once more with its answer.
            let again = exchange.answer.is_none()
                && self.exchanges.iter().any(|other| {
                    let same = other.class == exchange.class && guest(other) == guest(exchange);
                    same && other.answer.is_some()
                });
            assert!(played || left_out || again, "not played: {} {}", exchange.class, exchange.fields);
        }
    }

    fn find(
        &self,
        command: &str,
        part: &str,
        wanted: impl Fn(usize, &Exchange, &BTreeSet<usize>) -> bool,
    ) -> usize {
        let found = self.exchanges.iter().enumerate().position(|(index, exchange)| {
            is(exchange, command)
                && exchange.fields.to_string().contains(part)
                && wanted(index, exchange, &self.played)
        });
        found.unwrap_or_else(|| panic!("no {command} with {part} was captured, or none is left"))
    }

    async fn tell(&mut self, index: usize, changes: &[(&str, &str)]) -> Value {
        let Exchange { class, fields, answer } = &self.exchanges[index];
        let (their_class, theirs) = answer.as_ref().unwrap();
        let [fields, theirs] = [fields, theirs].map(|value| changed(value, changes));
        let otherwise = OTHERWISE.iter().find(|(command, text, result, _)| {
            class.ends_with(&format!(".{command}"))
                && theirs["result"] != *result
                && [&fields, &theirs].iter().any(|value| value.to_string().contains(text))
        });
        let (our_class, ours) = self.edge.host.ask(class, self.adapted(&fields)).await;
        assert_eq!(their_class.rsplit('.').next(), Some(our_class.as_str()), "{class} {fields}: {ours}");
        let expected =
            otherwise.map_or_else(|| theirs["result"].clone(), |(_, _, result, _)| (*result).into());
        assert_eq!(ours["result"], expected, "{class} {fields}\ntheirs {theirs}\nours   {ours}");
        let mut differing = differences(class, &theirs, &ours);
        differing.retain(|line| otherwise.is_none() || line != "/details: text");
        assert!(differing.is_empty(), "{class}: {differing:?}\ntheirs {theirs}\nours   {ours}");
        learn(&theirs, &ours, &mut self.names);
        ours
    }

    fn adapted(&self, fields: &Value) -> Value {
        let mut fields = changed(fields, &ADAPTED.map(|(there, here, _)| (there, here)));
        let names: Vec<(&str, &str)> = self.names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        fields = changed(&fields, &names);
        if fields.get("isoData").is_some() {
            // Most of it was left out of the capture.
            fields["isoData"] = "AAAA".into();
        }
        fields
    }
}

fn is(exchange: &Exchange, command: &str) -> bool {
    exchange.class.rsplit('.').next() == Some(command)
}

/// The guest that a command starts or plugs a card into.
fn guest(exchange: &Exchange) -> &str {
    let names = [&exchange.fields["vm"]["name"], &exchange.fields["instanceName"]];
    names.into_iter().find_map(Value::as_str).unwrap_or_default()
}

fn changed(value: &Value, changes: &[(&str, &str)]) -> Value {
    let text = changes.iter().fold(value.to_string(), |text, (old, new)| text.replace(old, new));
    serde_json::from_str(&text).unwrap()
}

/// Notes the names of new files, which each agent makes up.
fn learn(theirs: &Value, ours: &Value, names: &mut Vec<(String, String)>) {
    let Value::Object(members) = theirs else { return };
    for (name, theirs) in members {
        let ours = &ours[name];
        match (theirs.as_str(), ours.as_str()) {
            (Some(theirs), Some(ours))
                if ["path", "installPath", "u"].contains(&name.as_str()) && theirs != ours =>
            {
                names.retain(|(known, _)| known != theirs);
                names.push((theirs.to_owned(), ours.to_owned()));
            }
            _ => learn(theirs, ours, names),
        }
    }
}

#[test]
fn every_exception_is_of_a_captured_command() {
    let all: Vec<Exchange> =
        captured::FILES.into_iter().flat_map(|(_, file)| captured::exchanges(file).unwrap()).collect();
    let has = |command: &str, text: &str| {
        all.iter().any(|exchange| {
            let answer = exchange.answer.as_ref().map(|(_, answer)| answer.to_string()).unwrap_or_default();
            is(exchange, command) && (exchange.fields.to_string() + &answer).contains(text)
        })
    };
    for (command, text, _, reason) in OTHERWISE {
        assert!(has(command, text) && !reason.is_empty(), "{command} {text}");
    }
    for (command, reason) in LEFT_OUT {
        assert!(has(command, "") && !reason.is_empty(), "{command}");
    }
    for (there, _, reason) in ADAPTED {
        let anywhere = all.iter().any(|exchange| exchange.fields.to_string().contains(there));
        assert!(anywhere && !reason.is_empty(), "{there}");
    }
}
