//! A host in a cage: a [`Node`] whose agent talks to the real libvirt, and the simulated server.

use super::cage::Cage;
use crate::harness::{self, LIMIT, Node};
use cloudstack_agent::sim::{Answers, Recorded, Scenario, Script, SendError, SimConfig, SimEvent, SimServer};
use cloudstack_agent::wire::Flags;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// Interval of pings unless a test needs another.
const PING: Duration = Duration::from_secs(1);

pub struct Host {
    pub server: SimServer,
    pub node: Node,
    /// Id of its local pool; not the usual one, since hosts may share a libvirt.
    pub pool: Uuid,
}

impl Host {
    /// A host that was set up and not started.
    pub async fn new(cage: &Cage) -> Host {
        Host::with_ping_interval(cage, PING).await
    }

    pub async fn with_ping_interval(cage: &Cage, ping_interval: Duration) -> Host {
        let config = SimConfig { ping_interval, ..harness::config(Script::always(Scenario::Normal)) };
        let server = SimServer::start(config).await.unwrap();
        let mut node = Node::new(server.address());
        node.set("hypervisor.uri", "qemu:///system");
        let pool = Uuid::new_v4();
        node.set("local.storage.uuid", &pool.to_string());
        node.launched_by(cage.launcher());
        Host { server, node, pool }
    }

    /// Starts the agent and waits until the server counts the host as Up.
    pub async fn register(&mut self) {
        self.node.start();
        self.registered().await;
    }

    pub async fn registered(&self) {
        harness::ready(&self.server, 1).await;
        self.node.is_registered().await;
    }

    /// A registered host.
    pub async fn up(cage: &Cage) -> Host {
        let mut host = Host::new(cage).await;
        host.register().await;
        host
    }

    fn id(&self) -> i64 {
        self.server.host(&self.node.resource_guid()).expect("the host registered").id
    }

    /// Sends one command; the answers come later.
    pub fn send(
        &self,
        class: &str,
        fields: Value,
    ) -> impl Future<Output = Result<Answers, SendError>> + use<> {
        self.server.send(self.id(), vec![harness::command(class, fields)], Flags::STOP_ON_ERROR)
    }

    /// Sends one command; gives the class and the fields of the answer.
    pub async fn ask(&self, class: &str, fields: Value) -> (String, Value) {
        let answers = tokio::time::timeout(LIMIT, self.send(class, fields)).await;
        let answers = answers.unwrap_or_else(|_| panic!("no answer to {class}")).unwrap();
        let answer = &answers.elements[0];
        (answer.simple_name().to_owned(), answer.read().unwrap())
    }

    /// Sends one command; gives the fields of an answer that must be good.
    pub async fn good(&self, class: &str, fields: Value) -> Value {
        let (name, answer) = self.ask(class, fields).await;
        assert_eq!(answer["result"], true, "{class} was answered by {name} {answer}");
        answer
    }

    /// The present, for [`Host::ping`].
    pub fn mark(&self) -> usize {
        self.server.recorded().len()
    }

    /// Waits for a ping that came after `mark` and that `wanted` accepts.
    pub async fn ping(&self, mark: usize, what: &str, wanted: impl Fn(&Ping) -> bool) -> Ping {
        let mut events = self.server.events();
        let mut seen = 0;
        let found = events
            .until(LIMIT, |recorded| {
                seen += 1;
                seen > mark && Ping::of(recorded).is_some_and(|ping| wanted(&ping))
            })
            .await;
        found
            .and_then(|recorded| Ping::of(&recorded))
            .unwrap_or_else(|| panic!("no ping {what}: {:#?}", self.pings()))
    }

    /// Pings so far.
    pub fn pings(&self) -> Vec<Ping> {
        self.server.recorded().iter().filter_map(Ping::of).collect()
    }

    /// Asserts that the first session still stands, that there was no other, and that no rule was
    /// broken.
    pub fn undisturbed(&self) {
        harness::flawless(&self.server);
        assert_eq!(harness::connections(&self.server), 1);
        assert_eq!(harness::startups(&self.server).len(), 1);
        assert!(harness::all(&self.server, |event| matches!(event, SimEvent::Closed { .. })).is_empty());
    }
}

/// A ping as the server saw it.
#[derive(Debug, Clone)]
pub struct Ping {
    pub out_of_band: bool,
    /// Power states by guest; absent if libvirt could not tell.
    pub report: Option<BTreeMap<String, String>>,
}

impl Ping {
    fn of(recorded: &Recorded) -> Option<Ping> {
        let SimEvent::Ping { out_of_band, vms, .. } = &recorded.event else { return None };
        Some(Ping { out_of_band: *out_of_band, report: vms.clone() })
    }

    pub fn state(&self, guest: &str) -> Option<&str> {
        self.report.as_ref()?.get(guest).map(String::as_str)
    }

    pub fn lacks(&self, guest: &str) -> bool {
        self.report.as_ref().is_some_and(|report| !report.contains_key(guest))
    }
}
