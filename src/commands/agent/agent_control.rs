//! `com.cloud.agent.api.AgentControlCommand`: the base class of messages between server and console
//! proxies. A host has no use for it; the reference agent says yes to whatever it does not know.

use crate::commands::{Command, Ctx, Fault, NoFields, Reply};

#[derive(Debug, serde::Deserialize)]
pub struct AgentControlCommand {}

impl Command for AgentControlCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.AgentControlAnswer";

    async fn handle(self, _: Ctx) -> Result<Reply<NoFields>, Fault> {
        Ok(Reply::done())
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn it_is_acknowledged() {
        let (class, fields) =
            Bench::new().await.answer("com.cloud.agent.api.AgentControlCommand", json!({"x": 1})).await;
        assert_eq!(
            (class.as_str(), &fields["result"]),
            ("com.cloud.agent.api.AgentControlAnswer", &json!(true))
        );
    }
}
