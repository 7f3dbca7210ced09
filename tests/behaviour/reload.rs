//! SIGHUP: what is taken over, what is refused, and that the session does not notice.

use crate::harness::{Node, connections, plain_server};

#[tokio::test]
async fn a_reload_says_what_applies_and_what_needs_a_restart() {
    let server = plain_server().await;
    let mut node = Node::registered(&server).await;
    let pid = node.pid();
    node.set("cmds.timeout", "99");
    node.set("private.network.device", "other0");
    node.reload();
    node.logs("Configuration reloaded", 1).await;
    node.logs("keep their old value until the agent is restarted", 1).await;
    let refused = node.logged("WARN", "keep their old value").remove(0);
    assert_eq!(refused.fields["keys"], "private.network.device");
    let applied = node.logged("INFO", "Configuration reloaded").remove(0);
    assert!(applied.fields["changed"].as_str().unwrap().contains("cmds.timeout"));
    assert_eq!((node.pid(), connections(&server)), (pid, 1));
}

#[tokio::test]
async fn a_broken_file_is_refused_by_key_and_line_and_the_running_one_stays() {
    let server = plain_server().await;
    let node = Node::registered(&server).await;
    // What the registration saves comes first: it would overwrite this edit.
    node.until("id and list", |node| {
        node.value("host").is_some_and(|host| host.contains('@'))
            && node.value("LibvirtComputingResource.id").is_some()
    })
    .await;
    node.set("port", "many");
    node.reload();
    node.logs("Configuration is not reloaded", 1).await;
    let message = node.logged("ERROR", "Configuration is not reloaded").remove(0).message;
    assert!(message.contains("port") && message.contains("many") && message.contains("line"), "{message}");
    assert_eq!(connections(&server), 1);
    let status = node.wait_for("the check", |status| status.checks.iter().any(|c| c.id == "config")).await;
    assert_eq!(status.exit_code(), 2);
}
