//! `com.cloud.agent.api.PropagateResourceEventCommand`: servers send it to each other, never to a
//! host. It has a line in the table to say that this is on purpose.

use crate::commands::registry::UNSUPPORTED_ANSWER;
use crate::commands::{Answer, Command, Ctx, Fault, NoFields, Reply};

pub const CLASS: &str = "com.cloud.agent.api.PropagateResourceEventCommand";

#[derive(Debug, serde::Deserialize)]
pub struct PropagateResourceEventCommand {}

/// Reads the one field of an unsupported answer that says something.
#[derive(serde::Deserialize)]
struct Refusal {
    details: String,
}

impl Command for PropagateResourceEventCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = UNSUPPORTED_ANSWER;

    async fn handle(self, _: Ctx) -> Result<Reply<NoFields>, Fault> {
        // The wording is kept in one place, with the classes that have no handler at all.
        let refusal: Refusal = Answer::unsupported(CLASS).element.read()?;
        Ok(Reply::failed(NoFields {}, refusal.details))
    }
}

#[cfg(test)]
mod tests {
    use super::CLASS;
    use crate::commands::Answer;
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn it_is_answered_like_an_unknown_class() {
        let (class, fields) = Bench::new().await.answer(CLASS, json!({"hostId": 1, "event": "Enable"})).await;
        let unknown = Answer::unsupported(CLASS).element;
        assert_eq!(class, unknown.class);
        assert_eq!(fields, unknown.read::<serde_json::Value>().unwrap());
    }
}
