//! The simulator against a tiny agent: a good one is praised, a bad one is told what it did.

use crate::mini_agent::{LIMIT, MiniAgent, answer, good_answer, tls};
use cloudstack_agent::sim::{
    ClientCertificate, Ending, KeyKind, MANAGEMENT_ID, Pki, Profile, Rule, Script, SimConfig, SimEvent,
    SimServer, Status, Validity,
};
use cloudstack_agent::wire::{Element, Flags, Header, Message};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::version::{TLS12, TLS13};

async fn server(config: SimConfig) -> SimServer {
    SimServer::start(config).await.unwrap()
}

async fn dial(server: &SimServer) -> MiniAgent {
    MiniAgent::dial(server.address(), tls(server.pki(), &TLS12, None)).await.unwrap()
}

/// Waits until the server saw an event that `wanted` accepts.
async fn seen(server: &SimServer, wanted: impl Fn(&SimEvent) -> bool) -> SimEvent {
    let found = server.events().until(LIMIT, |recorded| wanted(&recorded.event)).await;
    found.unwrap_or_else(|| panic!("not seen; record: {:#?}", server.recorded())).event
}

async fn closed(server: &SimServer) -> Ending {
    match seen(server, |event| matches!(event, SimEvent::Closed { .. })).await {
        SimEvent::Closed { by, .. } => by,
        _ => unreachable!(),
    }
}

/// Waits until `rule` was broken, and checks that nothing else was.
async fn told(server: &SimServer, rule: Rule) {
    seen(server, |event| matches!(event, SimEvent::Violation { .. })).await;
    let rules: Vec<Rule> = server.violations().iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, [rule], "{:?}", server.violations());
}

#[tokio::test]
async fn a_good_agent_registers_and_breaks_no_rule() {
    for profile in [Profile::V4_19_1, Profile::V4_22] {
        let server = server(SimConfig { profile, ..SimConfig::default() }).await;
        let mut agent = dial(&server).await;
        assert_eq!(agent.register().await, Some(1));
        agent.ping(1).await;
        let pong = agent.next_of("PingAnswer").await.unwrap();
        assert_eq!(pong.header.flags, Flags(0x0022));
        let fields: Value = pong.elements[0].read().unwrap();
        assert_eq!(fields["sendStartup"], json!(false));
        assert_eq!(fields["_command"]["_hostVmStateReport"]["i-2-3-VM"]["state"], json!("PowerOn"));
        let ping = seen(&server, |event| matches!(event, SimEvent::Ping { .. })).await;
        assert!(matches!(ping, SimEvent::Ping { vms: Some(vms), answered: true, .. } if vms.len() == 1));

        let host = server.host(&agent.guid).unwrap();
        assert_eq!((host.id, host.status, host.registrations, host.pings), (1, Status::Up, 1, 1));
        assert_eq!(host.history(), [Status::Connecting, Status::Up]);
        drop(agent);
        assert_eq!(closed(&server).await, Ending::Agent);
        assert_eq!(server.hosts()[0].status, Status::Alert);
        assert_eq!(server.violations(), []);
    }
}

#[tokio::test]
async fn the_round_is_the_captured_one() {
    for (profile, order) in [
        (
            Profile::V4_19_1,
            "CheckNetworkCommand CleanupNetworkRulesCmd ModifySshKeysCommand SetHostParamsCommand ModifySshKeysCommand ReadyCommand ReadyCommand",
        ),
        (
            Profile::V4_22,
            "CleanupNetworkRulesCmd CheckNetworkCommand ModifySshKeysCommand ModifySshKeysCommand SetHostParamsCommand ReadyCommand ReadyCommand",
        ),
    ] {
        let server = server(SimConfig { profile, ..SimConfig::default() }).await;
        let mut agent = dial(&server).await;
        agent.register().await.unwrap();
        let sent: Vec<String> = server
            .recorded()
            .into_iter()
            .filter_map(|recorded| match recorded.event {
                SimEvent::Sent { classes, .. } => Some(classes.join("+")),
                _ => None,
            })
            .collect();
        assert_eq!(sent.join(" "), order);
    }
}

#[tokio::test]
async fn the_first_messages_are_those_of_a_real_server() {
    let server = server(SimConfig::default()).await;
    let mut agent = dial(&server).await;
    agent.startup().await;
    let accepted = agent.next().await.unwrap();
    assert_eq!(accepted.header.flags, Flags(0x0020));
    assert_eq!((accepted.header.mgmt_id, accepted.header.via), (MANAGEMENT_ID, -1));
    let fields: Value = accepted.elements[0].read().unwrap();
    assert_eq!((&fields["hostId"], &fields["pingInterval"]), (&json!(0), &json!(1)));
    let check = agent.next().await.unwrap();
    assert_eq!(check.header.flags, Flags(0x0027));
    assert_eq!(check.header.sequence & 0xffff_ffff_ffff, 1);
    assert_eq!((check.header.agent_id, check.header.via), (1, 1));
}

#[tokio::test]
async fn a_seed_repeats_a_run() {
    let mut firsts = Vec::new();
    for seed in [7, 7, 8] {
        let server = server(SimConfig { seed, ..SimConfig::default() }).await;
        let mut agent = dial(&server).await;
        agent.startup().await;
        firsts.push(agent.next_of("CheckNetworkCommand").await.unwrap().header.sequence);
    }
    assert_eq!(firsts[0], firsts[1]);
    assert_ne!(firsts[0], firsts[2]);
}

#[tokio::test]
async fn callers_get_answers_and_in_sequence_batches_wait() {
    let server = server(SimConfig::default()).await;
    let mut agent = dial(&server).await;
    let host = agent.register().await.unwrap();
    seen(&server, |event| matches!(event, SimEvent::Ready { .. })).await;
    let command = |class: &str| {
        let fields = json!({"contextMap": {}, "wait": 0, "bypassHostMaintenance": false});
        vec![Element::new(&format!("com.cloud.agent.api.{class}"), &fields).unwrap()]
    };
    let in_sequence = Flags::IN_SEQUENCE.with(Flags::STOP_ON_ERROR);
    let first = server.send(host, command("MaintainCommand"), in_sequence);
    let second = server.send(host, command("CheckHealthCommand"), in_sequence);
    let third = server.send(host, command("CheckHealthCommand"), Flags::STOP_ON_ERROR);

    let maintain = agent.next_of("MaintainCommand").await.unwrap();
    let free = agent.next_of("CheckHealthCommand").await.unwrap();
    assert!(!free.header.flags.contains(Flags::IN_SEQUENCE), "the second batch overtook the first");
    agent.answer(&free).await;
    assert_eq!(third.await.unwrap().result(0), Some(true));
    let elements = vec![answer("MaintainAnswer", json!({"result": false, "details": "busy"}))];
    let reply = Message { header: maintain.header.response(), elements };
    agent.put(&reply.encode().unwrap()).await;
    let answers = first.await.unwrap();
    assert_eq!((answers.result(0), answers.details(0).as_deref()), (Some(false), Some("busy")));
    let held = agent.next_of("CheckHealthCommand").await.unwrap();
    agent.answer(&held).await;
    assert_eq!(second.await.unwrap().header.flags, Flags(0x0006));
    assert!(server.send(99, vec![], Flags::default()).await.is_err());
    assert_eq!(server.violations(), []);
}

type Spoiler = fn(&mut Message);

/// Registers, takes one CheckHealthCommand and answers it by what `spoil` makes of a good response.
async fn spoilt(spoil: impl Fn(&mut Message)) -> SimServer {
    let server = server(SimConfig::default()).await;
    let mut agent = dial(&server).await;
    let host = agent.register().await.unwrap();
    seen(&server, |event| matches!(event, SimEvent::Ready { .. })).await;
    let fields = json!({"contextMap": {}, "wait": 0});
    let check = Element::new("com.cloud.agent.api.CheckHealthCommand", &fields).unwrap();
    let answers = server.send(host, vec![check], Flags::IN_SEQUENCE);
    let request = agent.next_of("CheckHealthCommand").await.unwrap();
    let mut response = Message {
        header: request.header.response(),
        elements: request.elements.iter().map(good_answer).collect(),
    };
    spoil(&mut response);
    agent.put(&response.encode().unwrap()).await;
    answers.await.unwrap();
    server
}

#[tokio::test]
async fn each_rule_for_answers_is_checked() {
    let spoilers: [(Rule, Spoiler); 9] = [
        (Rule::FromServerSet, |m| m.header.flags = m.header.flags.with(Flags::FROM_SERVER)),
        (Rule::WrongIds, |m| m.header.mgmt_id = -1),
        (Rule::FlagsNotEchoed, |m| m.header.flags = Flags::default()),
        (Rule::AnswerCount, |m| m.elements.push(m.elements[0].clone())),
        (Rule::MissingResult, |m| m.elements[0] = answer("CheckHealthAnswer", json!({}))),
        (Rule::MissingContext, |m| {
            let class = m.elements[0].class.clone();
            m.elements[0] = Element::new(&class, &json!({"result": true})).unwrap();
        }),
        (Rule::ExplicitNull, |m| {
            m.elements[0] = answer("CheckHealthAnswer", json!({"result": true, "details": null}));
        }),
        (Rule::UnknownClass, |m| m.elements[0] = answer("CheckHelthAnswer", json!({"result": false}))),
        (Rule::WrongAnswerClass, |m| m.elements[0] = answer("Answer", json!({"result": true}))),
    ];
    for (rule, spoil) in spoilers {
        told(&spoilt(spoil).await, rule).await;
    }
}

#[tokio::test]
async fn each_rule_for_requests_is_checked() {
    let server_of = || async {
        let server = server(SimConfig::default()).await;
        let mut agent = dial(&server).await;
        agent.register().await.unwrap();
        seen(&server, |event| matches!(event, SimEvent::Ready { .. })).await;
        (server, agent)
    };

    let (server, mut agent) = server_of().await;
    agent.ping(0).await;
    seen(&server, |event| matches!(event, SimEvent::Ping { .. })).await;
    assert!(server.violations().iter().all(|violation| violation.rule == Rule::WrongHostId));
    assert_eq!(server.violations().len(), 2, "header and body are both wrong");

    let (server, mut agent) = server_of().await;
    agent.startup().await;
    let early = agent.next_of("StartupAnswer").await.unwrap();
    let late = agent.next_of("StartupAnswer").await.unwrap();
    assert_eq!((early.elements.len(), late.elements.len()), (1, 2));
    assert!(agent.next().await.is_none(), "the shared link is closed");
    told(&server, Rule::SecondStartup).await;

    let (server, mut agent) = server_of().await;
    let control = answer("AgentControlCommand", json!({"text": "x".repeat(9_000)}));
    let mut raw = Message { header: Header::request(900, Some(1), Flags::STOP_ON_ERROR), elements: vec![] };
    let body = serde_json::to_string(&vec![control]).unwrap();
    raw.header.size = u32::try_from(body.len()).unwrap();
    let mut bytes = Vec::new();
    raw.header.encode(&mut bytes);
    bytes.extend_from_slice(body.as_bytes());
    agent.put(&bytes).await;
    told(&server, Rule::NotCompressed).await;
}

#[tokio::test]
async fn startup_requests_are_checked() {
    let server = server(SimConfig::default()).await;
    let mut agent = dial(&server).await;
    agent.ping(1).await;
    told(&server, Rule::BeforeStartup).await;
    let bare = answer("StartupRoutingCommand", json!({"guid": "x"}));
    agent.request(vec![bare], None, Flags::default()).await;
    seen(&server, |event| {
        matches!(event, SimEvent::Violation { rule: Rule::StartupIncomplete, detail } if detail.contains("Host.OS"))
    })
    .await;
}

#[tokio::test]
async fn broken_frames_are_told_from_a_closed_link() {
    use tokio::io::AsyncWriteExt;
    let server = server(SimConfig::default()).await;
    let mut agent = dial(&server).await;
    agent.register().await.unwrap();
    agent.tcp.write_all(&[0, 0, 0x46, 0x51]).await.unwrap();
    assert_eq!(closed(&server).await, Ending::Broken);
    told(&server, Rule::BrokenFrame).await;
}

#[tokio::test]
async fn a_second_connection_of_a_host_displaces_the_first() {
    let server = server(SimConfig::default()).await;
    let mut older = dial(&server).await;
    older.register().await.unwrap();
    let mut newer = dial(&server).await;
    assert_eq!(newer.register().await, Some(1));
    assert!(older.next().await.is_none());
    assert_eq!(closed(&server).await, Ending::Displaced);
    told(&server, Rule::SecondConnection).await;
    assert_eq!(server.hosts()[0].status, Status::Up);
}

#[tokio::test]
async fn a_hasty_return_is_a_violation_unless_it_said_goodbye() {
    for (goodbye, rules) in [(false, vec![Rule::FastReconnect]), (true, vec![])] {
        let server = server(SimConfig::default()).await;
        let mut agent = dial(&server).await;
        agent.register().await.unwrap();
        seen(&server, |event| matches!(event, SimEvent::Ready { .. })).await;
        if goodbye {
            let mut header = Header::request(-1, Some(1), Flags(0x0006));
            header.flags = Flags(0x0007);
            let elements = vec![answer("ShutdownCommand", json!({"reason": "sig.kill"}))];
            agent.put(&Message { header, elements }.encode().unwrap()).await;
            assert!(agent.next().await.is_none());
        }
        drop(agent);
        let ending = closed(&server).await;
        assert_eq!(ending, if goodbye { Ending::Shutdown } else { Ending::Agent });
        let left = server.hosts()[0].status;
        assert_eq!(left, if goodbye { Status::Disconnected } else { Status::Alert });
        dial(&server).await.register().await.unwrap();
        let broken: Vec<Rule> = server.violations().iter().map(|violation| violation.rule).collect();
        assert_eq!(broken, rules);
    }
}

#[tokio::test]
async fn tls_13_is_offered_and_its_tickets_are_not_framed() {
    let server = server(SimConfig::default()).await;
    let mut agent = MiniAgent::dial(server.address(), tls(server.pki(), &TLS13, None)).await.unwrap();
    let mut head = [0; 3];
    use tokio::io::AsyncReadExt;
    agent.tcp.read_exact(&mut head).await.unwrap();
    assert_eq!(head, [23, 3, 3], "a bare TLS record where a frame header belongs");
}

#[tokio::test]
async fn client_certificates_are_demanded_and_checked() {
    let pki = Arc::new(Pki::new(KeyKind::Rsa).unwrap());
    let here = [IpAddr::from([127, 0, 0, 1])];
    let config = SimConfig {
        client_certificate: ClientCertificate::Need,
        pki: Some(Arc::clone(&pki)),
        ..SimConfig::default()
    };
    let server = server(config).await;
    let good = pki.issue("kvm1", &here, Validity::Days(1)).unwrap();
    let agent = MiniAgent::dial(server.address(), tls(&pki, &TLS12, Some(&good))).await;
    assert_eq!(agent.unwrap().register().await, Some(1));
    let elsewhere = pki.issue("kvm1", &[IpAddr::from([192, 0, 2, 1])], Validity::Days(1)).unwrap();
    let expired = pki.issue("kvm1", &here, Validity::Expired).unwrap();
    for identity in [None, Some(&elsewhere), Some(&expired)] {
        assert!(MiniAgent::dial(server.address(), tls(&pki, &TLS12, identity)).await.is_err());
    }
    let refused =
        server.recorded().iter().filter(|r| matches!(r.event, SimEvent::HandshakeFailed { .. })).count();
    assert_eq!(refused, 3);
}

#[tokio::test]
async fn many_agents_at_once() {
    let server = server(SimConfig { script: Script::default(), ..SimConfig::default() }).await;
    let mut agents = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (address, tls) = (server.address(), tls(server.pki(), &TLS12, None));
        agents.spawn(async move {
            let mut agent = MiniAgent::dial(address, tls).await.unwrap();
            agent.guid = format!("{n}-LibvirtComputingResource");
            (agent.register().await.unwrap(), agent)
        });
    }
    let mut held = agents.join_all().await;
    held.sort_by_key(|(id, _)| *id);
    assert!(held.iter().map(|(id, _)| *id).eq(1..=40));
    assert_eq!(server.hosts().len(), 40);
    assert_eq!(server.violations(), []);
    server.stop().await;
    assert!(server.hosts().iter().all(|host| host.status == Status::Disconnected));
    assert!(tokio::net::TcpStream::connect(server.address()).await.is_err());
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.expect("stopping twice is harmless");
}
