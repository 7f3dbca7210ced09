//! `org.apache.cloudstack.agent.lb.SetupMSListCommand`: the list of management servers has changed.
//!
//! Sent to every host when the servers' load-balancing settings change. Storing and using the list
//! is the session's business.

use super::ready;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply, ServerList, SessionRequest};
use crate::wire::lenient;

#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupMsListCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub ms_list: Vec<String>,
    /// 4.21 and later.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub avoid_ms_list: Vec<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub lb_algorithm: String,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub lb_check_interval: Option<i64>,
    /// 4.21 and later: look for the preferred server once, at once.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub trigger_host_lb: bool,
}

impl Command for SetupMsListCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "org.apache.cloudstack.agent.lb.SetupMSListAnswer";

    fn claims(&self) -> Claims {
        Key::Settings.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let list = ServerList {
            hosts: self.ms_list,
            algorithm: self.lb_algorithm,
            check_interval: ready::seconds(self.lb_check_interval),
            avoid: self.avoid_ms_list,
        };
        ctx.session.ask(SessionRequest::Servers { list, check_now: self.trigger_host_lb }).await;
        Ok(Reply::done())
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use crate::commands::{ServerList, SessionRequest};
    use serde_json::json;
    use std::time::Duration;

    const CLASS: &str = "org.apache.cloudstack.agent.lb.SetupMSListCommand";

    #[tokio::test]
    async fn the_session_gets_the_list() {
        let mut bench = Bench::new().await;
        let captured = json!({"msList": ["127.0.0.1"], "lbAlgorithm": "static", "lbCheckInterval": 0,
            "contextMap": {"logid": "0dd685d0"}, "wait": 0, "bypassHostMaintenance": false});
        let (class, fields) = bench.answer(CLASS, captured).await;
        assert_eq!(class, "org.apache.cloudstack.agent.lb.SetupMSListAnswer");
        assert_eq!(fields["result"], true);
        let Some(SessionRequest::Servers { list, check_now }) = bench.request() else { panic!("no list") };
        let expected = ServerList {
            hosts: vec!["127.0.0.1".into()],
            algorithm: "static".into(),
            check_interval: Duration::ZERO,
            avoid: vec![],
        };
        assert_eq!((list, check_now), (expected, false));
    }

    #[tokio::test]
    async fn the_newer_fields_are_passed_on() {
        let mut bench = Bench::new().await;
        let newer = json!({"msList": ["a", "b"], "avoidMsList": ["b"], "lbAlgorithm": "shuffle",
            "lbCheckInterval": "60", "triggerHostLb": true});
        bench.answer(CLASS, newer).await;
        let Some(SessionRequest::Servers { list, check_now }) = bench.request() else { panic!("no list") };
        assert_eq!(
            (list.avoid, list.check_interval, check_now),
            (vec!["b".into()], Duration::from_secs(60), true)
        );
    }
}
