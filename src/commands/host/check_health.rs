//! `com.cloud.agent.api.CheckHealthCommand`: asked before a silent host is declared down.
//!
//! It must be answered however busy the host is; the answer itself is the proof of life.

use crate::commands::{Command, Ctx, Fault, NoFields, Reply};

#[derive(Debug, serde::Deserialize)]
pub struct CheckHealthCommand {}

impl Command for CheckHealthCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.CheckHealthAnswer";

    async fn handle(self, _: Ctx) -> Result<Reply<NoFields>, Fault> {
        Ok(Reply::done().details("resource is alive"))
    }
}
