//! `com.cloud.agent.api.SetHostParamsCommand`: settings of the server that hosts have to know.
//!
//! Sent at each registration and whenever one of them changes. Parameters that mean nothing to this
//! agent are passed over, so that newer servers can send more.

use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::config::Change;
use crate::wire::lenient;
use std::collections::BTreeMap;

/// Parameter on the wire and the key it is stored under.
const STORED: [(&str, &str); 2] = [
    ("migratewait", "vm.migrate.wait"),
    ("router.aggregation.command.each.timeout", "router.aggregation.command.each.timeout"),
];

#[derive(Debug, serde::Deserialize)]
pub struct SetHostParamsCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub params: BTreeMap<String, Option<String>>,
}

impl SetHostParamsCommand {
    fn changes(&self) -> Result<Vec<Change>, Fault> {
        let given = STORED.iter().filter_map(|(name, key)| {
            let text = self.params.get(*name)?.as_deref()?.trim();
            (!text.is_empty()).then_some((*name, *key, text))
        });
        given
            .map(|(name, key, text)| match text.parse::<i32>() {
                Ok(seconds) => Ok(Change { key, value: Some(seconds.to_string()) }),
                Err(_) => {
                    let shown: String = text.chars().take(40).collect();
                    Err(Fault::new(format!("Parameter {name} is {shown:?}, expected whole seconds")))
                }
            })
            .collect()
    }
}

impl Command for SetHostParamsCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        Key::Settings.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let changes = self.changes()?;
        if !changes.is_empty() {
            ctx.services.config.persist(changes).await?;
        }
        Ok(Reply::done())
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;
    use std::time::Duration;

    const CLASS: &str = "com.cloud.agent.api.SetHostParamsCommand";

    #[tokio::test]
    async fn known_parameters_are_stored_and_others_are_not() {
        let mut bench = Bench::new().await;
        let captured = json!({"params": {"tungsten.plugin.enable": "false", "migratewait": "3600",
            "reconcile.commands.enabled": "false", "router.aggregation.command.each.timeout": "600"}});
        let (class, fields) = bench.answer(CLASS, captured).await;
        assert_eq!((class.as_str(), &fields["result"]), ("com.cloud.agent.api.Answer", &json!(true)));
        let config = bench.config();
        assert_eq!(config.vm_migrate_wait, Some(Duration::from_secs(3600)));
        assert_eq!(config.router_aggregation_timeout, Some(Duration::from_secs(600)));
        assert!(!bench.properties().contains("tungsten"));
    }

    #[tokio::test]
    async fn nothing_is_stored_if_one_value_is_no_number() {
        let mut bench = Bench::new().await;
        let before = bench.properties();
        let bad = json!({"params": {"migratewait": "60",
            "router.aggregation.command.each.timeout": "1\nguid=stolen"}});
        let (_, fields) = bench.answer(CLASS, bad).await;
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().contains("router.aggregation.command.each.timeout"));
        assert_eq!(bench.properties(), before);
    }

    #[tokio::test]
    async fn blank_and_absent_values_change_nothing() {
        let mut bench = Bench::new().await;
        let before = bench.properties();
        for empty in [json!({}), json!({"params": null}), json!({"params": {"migratewait": ""}})] {
            let (_, fields) = bench.answer(CLASS, empty).await;
            assert_eq!(fields["result"], true);
        }
        assert_eq!(bench.properties(), before);
    }
}
