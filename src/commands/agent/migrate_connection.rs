//! `com.cloud.agent.api.MigrateAgentConnectionCommand` (4.21): this server is about to stop, so the
//! host is to move to another one.
//!
//! The answer goes out on the old connection; the session moves shortly after.

use super::ready;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply, ServerList, SessionRequest};
use crate::wire::lenient;

#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrateAgentConnectionCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub ms_list: Vec<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub avoid_ms_list: Vec<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub lb_algorithm: String,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub lb_check_interval: Option<i64>,
}

impl Command for MigrateAgentConnectionCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.MigrateAgentConnectionAnswer";

    fn claims(&self) -> Claims {
        Key::Settings.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        // Also without hosts: the servers to avoid count for the move either way.
        let list = ServerList {
            hosts: self.ms_list,
            algorithm: self.lb_algorithm,
            check_interval: ready::seconds(self.lb_check_interval),
            avoid: self.avoid_ms_list,
        };
        ctx.session.ask(SessionRequest::Servers { list, check_now: false }).await;
        ctx.session.ask(SessionRequest::Migrate).await;
        Ok(Reply::done())
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::SessionRequest;
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn the_list_comes_before_the_move() {
        let mut bench = Bench::new().await;
        let fields = json!({"msList": ["10.0.0.1", "10.0.0.2"], "avoidMsList": ["10.0.0.1"],
            "lbAlgorithm": "static", "lbCheckInterval": 0});
        let (class, fields) = bench.answer("com.cloud.agent.api.MigrateAgentConnectionCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.MigrateAgentConnectionAnswer");
        assert_eq!(fields["result"], true);
        let Some(SessionRequest::Servers { list, check_now: false }) = bench.request() else {
            panic!("no list")
        };
        assert_eq!(list.avoid, ["10.0.0.1"]);
        assert!(matches!(bench.request(), Some(SessionRequest::Migrate)));
        assert!(bench.request().is_none());
    }
}
