//! Metrics of a whole agent, as an operator gets them.

use crate::harness::{LIMIT, Node, command, config, free_port, ready};
use cloudstack_agent::metrics::SOCKET_NAME;
use cloudstack_agent::sim::{Script, SimConfig, SimServer};
use serde_json::json;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Waits until a page of `agent metrics` has this line; gives the page.
async fn page_with(node: &Node, line: &str) -> String {
    let mut last = String::new();
    let found = async {
        loop {
            let run = node.run("metrics", &[]).await;
            assert_eq!((run.code, run.stderr.as_str()), (0, ""));
            last = run.stdout;
            if last.lines().any(|found| found == line) {
                return;
            }
            sleep(Duration::from_millis(40)).await;
        }
    };
    let there = timeout(LIMIT, found).await.is_ok();
    assert!(there, "{line} does not come:\n{last}");
    last
}

#[tokio::test]
async fn a_registered_host_counts_commands_libvirt_and_sessions() {
    let unknown = command("NobodyKnowsThisCommand", json!({}));
    let settings = SimConfig { after_ready: vec![vec![unknown]], ..config(Script::default()) };
    let server = SimServer::start(settings).await.unwrap();
    let node = Node::registered(&server).await;
    let page =
        page_with(&node, r#"cloudstack_agent_commands_total{command="other",result="unsupported"} 1"#).await;
    for line in [
        r#"cloudstack_agent_session_state{state="registered"} 1"#,
        "cloudstack_agent_session_registrations_total 1",
        "cloudstack_agent_libvirt_connected 1",
        "cloudstack_agent_requests_in_flight 0",
        "cloudstack_agent_journal_leftovers 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing:\n{page}");
    }
    assert!(!page.contains("NobodyKnows"), "names from the wire are labels:\n{page}");
    let calls = page.lines().find_map(|line| {
        line.strip_prefix(r#"cloudstack_agent_libvirt_call_duration_seconds_count{kind="question"} "#)
    });
    assert!(calls.unwrap().parse::<u64>().unwrap() > 0);
    let done = page.lines().filter(|line| line.contains(r#"result="done"} "#) && !line.ends_with(" 0"));
    assert!(done.count() > 2, "{page}");
    // The same over TCP, from the next look at the file on.
    let port = free_port();
    node.set("metrics.listen", &format!("127.0.0.1:{port}"));
    node.reload();
    node.logs("Metrics are served on", 1).await;
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok());
}

#[tokio::test]
async fn without_a_configuration_there_is_a_page_and_without_an_agent_none() {
    let mut node = Node::bare();
    let absent = node.run("metrics", &[]).await;
    assert_eq!((absent.code, absent.stdout.as_str()), (3, ""));
    assert!(
        absent.stderr.contains(SOCKET_NAME) && absent.stderr.contains("systemctl start"),
        "{}",
        absent.stderr
    );
    node.start();
    node.status().await;
    page_with(&node, r#"cloudstack_agent_session_state{state="idle"} 1"#).await;
    // Killed, it leaves the socket's file behind, which is no obstacle.
    node.kill().await;
    assert_eq!(node.run("metrics", &[]).await.code, 3);
    assert!(node.runtime_dir().join(SOCKET_NAME).exists());
    node.start();
    node.status().await;
    page_with(&node, r#"cloudstack_agent_session_state{state="idle"} 1"#).await;
    assert_eq!(node.stop().await, Some(0));
    assert!(!node.runtime_dir().join(SOCKET_NAME).exists());
}

#[tokio::test]
async fn lost_connections_are_counted_by_their_reason() {
    let server = crate::harness::plain_server().await;
    let node = Node::registered(&server).await;
    server.restart_after(Duration::from_millis(10)).await;
    ready(&server, 2).await;
    page_with(&node, "cloudstack_agent_session_registrations_total 2").await;
    page_with(&node, r#"cloudstack_agent_session_ends_total{reason="lost"} 1"#).await;
}
