//! `com.cloud.agent.api.MaintainCommand`: the host goes into maintenance. The server moves the guests
//! itself; the connection stays up.

use crate::commands::{Command, Ctx, Fault, Reply};

#[derive(Debug, serde::Deserialize)]
pub struct MaintainCommand {}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MaintainAnswer {
    /// Guests can be migrated away before the maintenance.
    will_migrate: bool,
}

impl Command for MaintainCommand {
    type Answer = MaintainAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.MaintainAnswer";

    async fn handle(self, _: Ctx) -> Result<Reply<MaintainAnswer>, Fault> {
        Ok(Reply::ok(MaintainAnswer { will_migrate: true }))
    }
}
