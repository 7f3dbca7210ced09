//! Each fault of the simulator does on the wire what it promises.

use crate::mini_agent::{LIMIT, MiniAgent, tls};
use cloudstack_agent::sim::{Ending, Knobs, Scenario, Script, SimConfig, SimEvent, SimServer, Status};
use cloudstack_agent::wire::{DecodeError, Flags, Message};
use serde_json::Value;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::TLS12;

fn playing(script: Script) -> SimConfig {
    let knobs = Knobs {
        after_ready: Duration::from_millis(5),
        attach_after: Duration::from_millis(5),
        delay: Duration::from_millis(30),
        down: Duration::from_secs(2),
        storm: 500,
        ..Knobs::default()
    };
    SimConfig { script, knobs, reconnect_gap: Duration::ZERO, ..SimConfig::default() }
}

async fn start(scenario: Scenario) -> SimServer {
    SimServer::start(playing(Script::always(scenario))).await.unwrap()
}

async fn dial(server: &SimServer) -> MiniAgent {
    MiniAgent::dial(server.address(), tls(server.pki(), &TLS12, None)).await.unwrap()
}

async fn seen(server: &SimServer, wanted: impl Fn(&SimEvent) -> bool) -> SimEvent {
    let found = server.events().until(LIMIT, |recorded| wanted(&recorded.event)).await;
    found.unwrap_or_else(|| panic!("not seen; record: {:#?}", server.recorded())).event
}

/// Everything the server sends from here on, as raw bytes, until it closes.
async fn raw_until_end(agent: &mut MiniAgent) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokio::time::timeout(LIMIT, agent.tcp.read_to_end(&mut bytes)).await.expect("no end").unwrap();
    bytes
}

#[tokio::test]
async fn the_alert_loop_ends_when_the_script_says_so() {
    let script = Script::first(Scenario::CutAfterStartup, 3).finally(Scenario::Normal);
    let server = SimServer::start(playing(script)).await.unwrap();
    for _ in 0..3 {
        let mut agent = dial(&server).await;
        assert_eq!(agent.register().await, None, "cut before ReadyCommand");
    }
    let mut agent = dial(&server).await;
    assert_eq!(agent.register().await, Some(1));
    seen(&server, |event| matches!(event, SimEvent::Ready { .. })).await;
    use Status::{Alert, Connecting, Up};
    let host = &server.hosts()[0];
    assert_eq!(host.history(), [Connecting, Alert, Connecting, Alert, Connecting, Alert, Connecting, Up]);
    assert_eq!(host.registrations, 4);
    let moments: Vec<_> = host.transitions.iter().map(|transition| transition.at).collect();
    assert!(moments.is_sorted());
    assert_eq!(server.violations(), []);
}

#[tokio::test]
async fn a_refusal_names_its_reason_and_leaves_the_link_open() {
    let server = start(Scenario::Refuse).await;
    let mut agent = dial(&server).await;
    agent.startup().await;
    let refusal = agent.next_of("ReadyCommand").await.unwrap();
    assert_eq!(refusal.header.flags, Flags(0x0007));
    let head = refusal.header;
    assert_eq!((head.sequence, head.mgmt_id, head.agent_id, head.via), (-1, -1, -1, -1));
    let fields: Value = refusal.elements[0].read().unwrap();
    assert!(fields["_details"].as_str().unwrap().contains("pod"));
    assert!(server.hosts().is_empty());
    let open = tokio::time::timeout(Duration::from_millis(100), agent.tcp.read(&mut [0; 1])).await;
    assert!(open.is_err(), "the link was closed");
}

#[tokio::test]
async fn a_rejected_startup_says_result_false() {
    let server = start(Scenario::StartupRejected).await;
    let mut agent = dial(&server).await;
    agent.startup().await;
    let answer = agent.next_of("StartupAnswer").await.unwrap();
    assert_eq!(answer.elements[0].read::<Value>().unwrap()["result"], Value::Bool(false));
}

#[tokio::test]
async fn doors_that_do_not_open() {
    for (scenario, first) in
        [(Scenario::TlsAlert, &[21u8, 3, 3][..]), (Scenario::NotTls, b"HTTP"), (Scenario::AcceptClose, b"")]
    {
        let server = start(scenario).await;
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, &[22, 3, 1, 0, 1, 1]).await.unwrap();
        let mut bytes = Vec::new();
        // A reset instead of FIN is as good: the socket was closed with our bytes unread.
        let _ = socket.read_to_end(&mut bytes).await;
        assert!(bytes.starts_with(first), "{scenario:?}: {bytes:?}");
        seen(&server, |event| matches!(event, SimEvent::HandshakeFailed { .. })).await;
    }
    for scenario in [Scenario::WrongCa, Scenario::ClientCert] {
        let server = start(scenario).await;
        let failed = MiniAgent::dial(server.address(), tls(server.pki(), &TLS12, None)).await;
        assert!(failed.is_err(), "{scenario:?}");
    }
}

#[tokio::test]
async fn quiet_servers_stay_quiet() {
    for scenario in [Scenario::Silent, Scenario::NoReady, Scenario::HalfOpen] {
        let server = start(scenario).await;
        let mut agent = dial(&server).await;
        match scenario {
            Scenario::HalfOpen => {
                agent.register().await.unwrap();
                seen(&server, |event| matches!(event, SimEvent::Mischief { .. })).await;
            }
            _ => agent.startup().await,
        }
        agent.ping(1).await;
        let mut classes = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(300), agent.next()).await {
            if message.header.is_request() {
                agent.answer(&message).await;
            }
            classes.push(message.elements[0].simple_name().to_owned());
        }
        let unwanted: &[&str] = match scenario {
            Scenario::Silent | Scenario::HalfOpen => &["StartupAnswer", "CheckNetworkCommand", "PingAnswer"],
            _ => &["ReadyCommand"],
        };
        assert!(!classes.iter().any(|class| unwanted.contains(&class.as_str())), "{scenario:?} {classes:?}");
        assert!(!server.recorded().iter().any(|r| matches!(r.event, SimEvent::Closed { .. })));
    }
}

#[tokio::test]
async fn malformed_input_comes_after_a_whole_registration() {
    let server = start(Scenario::Truncated).await;
    let mut agent = dial(&server).await;
    agent.register().await.unwrap();
    let tail = raw_until_end(&mut agent).await;
    let announced = usize::from(u16::from_be_bytes([tail[2], tail[3]]));
    assert!(!tail.is_empty() && tail.len() < 4 + announced);

    let server = start(Scenario::Oversized).await;
    let mut agent = dial(&server).await;
    agent.register().await.unwrap();
    let mut head = [0; 4];
    agent.tcp.read_exact(&mut head).await.unwrap();
    assert_eq!(head, [0, 0, 0x4e, 0x20]);

    for scenario in [Scenario::OutOfOrder, Scenario::Garbage] {
        let server = start(scenario).await;
        let mut agent = dial(&server).await;
        agent.register().await.unwrap();
        let broken = tokio::spawn(async move { agent.next().await }).await;
        assert!(broken.is_err(), "{scenario:?}: the session must not open this");
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    for (scenario, compressed) in [(Scenario::BadGzip, true), (Scenario::DeepJson, false)] {
        let server = start(scenario).await;
        let mut agent = dial(&server).await;
        agent.register().await.unwrap();
        let raw = tokio::time::timeout(LIMIT, agent.next_raw()).await.unwrap().unwrap();
        match Message::decode(&raw) {
            Err(DecodeError::Inflated { announced, .. }) if compressed => assert_eq!(announced, 4_096),
            Ok(message) if !compressed => assert!(message.elements[0].read::<Value>().is_err()),
            other => panic!("{scenario:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn ping_answers_ask_for_a_startup() {
    for (scenario, asked) in [(Scenario::Duplicate, [true, false]), (Scenario::SendStartup, [true, true])] {
        let server = start(scenario).await;
        let mut agent = dial(&server).await;
        agent.register().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await; // past `after_ready`
        for expected in asked {
            agent.ping(1).await;
            let answer = agent.next_of("PingAnswer").await.unwrap();
            let fields: Value = answer.elements[0].read().unwrap();
            assert_eq!(fields["sendStartup"], Value::Bool(expected), "{scenario:?}");
        }
        let again = dial(&server).await.register().await;
        assert_eq!(again, Some(1));
        assert_eq!(server.hosts()[0].status, Status::Up);
    }
}

#[tokio::test]
async fn a_restart_refuses_and_comes_back_on_the_same_port() {
    let server = SimServer::start(playing(Script::parse("restart").unwrap())).await.unwrap();
    let mut agent = dial(&server).await;
    agent.register().await.unwrap();
    assert!(raw_until_end(&mut agent).await.is_empty(), "FIN without close_notify");
    seen(&server, |event| matches!(event, SimEvent::Stopped { .. })).await;
    assert!(TcpStream::connect(server.address()).await.is_err());
    let mut starts = 0;
    seen_count(&server, &mut starts).await;
    assert_eq!(dial(&server).await.register().await, Some(1));
    let history = server.hosts()[0].history();
    assert_eq!(
        history,
        [Status::Connecting, Status::Up, Status::Disconnected, Status::Connecting, Status::Up]
    );
}

/// Waits for the second `Listening`.
async fn seen_count(server: &SimServer, starts: &mut u32) {
    let mut events = server.events();
    let second = events.until(LIMIT, |recorded| {
        *starts += u32::from(matches!(recorded.event, SimEvent::Listening { .. }));
        *starts == 2
    });
    assert!(second.await.is_some());
}

#[tokio::test]
async fn a_deleted_host_is_told() {
    for (scenario, removed) in [(Scenario::ShutdownCommand, false), (Scenario::ShutdownRemove, true)] {
        let server = start(scenario).await;
        let mut agent = dial(&server).await;
        agent.register().await.unwrap();
        let command = agent.next_of("ShutdownCommand").await.unwrap();
        let fields: Value = command.elements[0].read().unwrap();
        assert_eq!(fields["reason"], "deleteHost");
        assert_eq!(fields["removeHost"], Value::Bool(removed));
    }
}

#[tokio::test]
async fn slow_is_late_and_complete() {
    let server = start(Scenario::Slow).await;
    assert_eq!(dial(&server).await.register().await, Some(1));
    assert_eq!(server.violations(), []);
}

#[tokio::test]
async fn a_storm_is_counted() {
    let server = start(Scenario::Storm).await;
    let mut agent = dial(&server).await;
    agent.register().await.unwrap();
    let answering = tokio::spawn(async move { while agent.next_of("none").await.is_some() {} });
    let storm = seen(&server, |event| matches!(event, SimEvent::Storm { .. })).await;
    let SimEvent::Storm { commands, elapsed, median, p99, max } = storm else { unreachable!() };
    assert_eq!(commands, 500);
    assert!(median <= p99 && p99 <= max && max <= elapsed);
    assert_eq!(server.violations(), []);
    answering.abort();
}

#[tokio::test]
async fn missing_pings_end_in_alert_unless_the_health_check_is_answered() {
    let server = start(Scenario::Normal).await;
    let mut agent = dial(&server).await;
    agent.register().await.unwrap();
    let check = agent.next_of("CheckHealthCommand").await.unwrap();
    agent.answer(&check).await;
    seen(
        &server,
        |event| matches!(event, SimEvent::Answer { command, .. } if command == "CheckHealthCommand"),
    )
    .await;
    let host = &server.hosts()[0];
    assert_eq!(host.history(), [Status::Connecting, Status::Up, Status::Up]);
    drop(agent);
    let end = seen(&server, |event| matches!(event, SimEvent::Closed { .. })).await;
    assert!(matches!(end, SimEvent::Closed { by: Ending::Agent, .. }));
}
