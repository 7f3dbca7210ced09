//! `cloudstack-guest-tool`: asks the QEMU guest agent of a guest, through libvirt's `virsh`. Answers are
//! JSON on stdout, also those about errors, and exit codes as those of the script it replaces.

use std::time::Duration;

use serde_json::{Value, json};

use super::root::Root;

/// Beyond the guest agent's own time: libvirt has to be reached as well.
const GRACE: Duration = Duration::from_secs(10);

pub const OK: u8 = 0;
/// The guest agent has answered something else than was expected.
pub const UNEXPECTED: u8 = 1;
/// The guest agent could not be asked.
pub const FAILED: u8 = 255;

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Info,
    Ping,
    Fstrim,
}

/// The answer as JSON, and the exit code.
pub async fn ask(root: &Root, guest: &str, question: Question, timeout: u32) -> (Value, u8) {
    let asked = match question {
        Question::Ping => command(root, guest, "guest-ping", timeout).await.map(|answer| {
            let is_empty = answer.as_object().is_some_and(serde_json::Map::is_empty);
            (json!({ "result": is_empty }), if is_empty { OK } else { UNEXPECTED })
        }),
        Question::Fstrim => command(root, guest, "guest-fstrim", timeout).await.map(|answer| {
            let is_empty = answer.as_object().is_none_or(serde_json::Map::is_empty);
            (json!({ "result": answer }), if is_empty { UNEXPECTED } else { OK })
        }),
        Question::Info => info(root, guest, timeout).await.map(|answer| (answer, OK)),
    };
    asked.unwrap_or_else(|error| (json!({ "error": error }), FAILED))
}

async fn info(root: &Root, guest: &str, timeout: u32) -> Result<Value, String> {
    Ok(json!({
        "filesystem": command(root, guest, "guest-get-fsinfo", timeout).await?,
        "network": command(root, guest, "guest-network-get-interfaces", timeout).await?,
    }))
}

async fn command(root: &Root, guest: &str, command: &str, timeout: u32) -> Result<Value, String> {
    if guest.is_empty() || guest.starts_with('-') || guest.chars().any(char::is_control) {
        return Err(format!("{guest:?} is no name of a guest"));
    }
    let (seconds, request) = (timeout.to_string(), json!({ "execute": command }).to_string());
    let arguments =
        ["--connect", "qemu:///system", "qemu-agent-command", guest, &request, "--timeout", &seconds];
    let deadline = Duration::from_secs(timeout.into()) + GRACE;
    let output = root
        .run("virsh", &arguments, deadline)
        .await
        .ok_or("virsh is not installed: apt install libvirt-clients")?
        .map_err(|error| crate::errors::chain(&error))?;
    if !output.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        return Err(said.strip_prefix("error: ").unwrap_or(said).to_owned());
    }
    let answer: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("the answer of the guest agent is no JSON: {error}"))?;
    Ok(answer.get("return").cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::testing::Scratch;

    async fn answered(script: &str, question: Question) -> (Value, u8) {
        let host = Scratch::bare();
        host.program("virsh", script);
        ask(&host.root(), "i-2-3-VM", question, 5).await
    }

    #[tokio::test]
    async fn answers_are_those_of_the_script() {
        let pong = r#"echo '{"return":{}}'"#;
        assert_eq!(answered(pong, Question::Ping).await, (json!({"result": true}), 0));
        let odd = r#"echo '{"return":{"x":1}}'"#;
        assert_eq!(answered(odd, Question::Ping).await, (json!({"result": false}), 1));
        assert_eq!(answered(odd, Question::Fstrim).await, (json!({"result": {"x": 1}}), 0));
        // The fifth argument is the request.
        let both = r#"case "$5" in *fsinfo*) echo '{"return":[1]}';; *) echo '{"return":[2]}';; esac"#;
        let both = (answered(both, Question::Info).await, (json!({"filesystem": [1], "network": [2]}), 0));
        assert_eq!(both.0, both.1);
    }

    #[tokio::test]
    async fn errors_are_json_too() {
        let script = "echo 'error: failed to get domain' >&2; exit 1";
        assert_eq!(answered(script, Question::Ping).await, (json!({"error": "failed to get domain"}), 255));
        let (error, code) = answered("echo nonsense", Question::Ping).await;
        assert!(error["error"].as_str().unwrap().contains("no JSON") && code == 255);
        let host = Scratch::bare();
        let (error, code) = ask(&host.root(), "--all", Question::Ping, 5).await;
        assert!(error["error"].as_str().unwrap().contains("no name") && code == 255);
        let (error, _) = ask(&host.root(), "x", Question::Ping, 5).await;
        assert!(error["error"].as_str().unwrap().contains("virsh is not installed"));
    }
}
