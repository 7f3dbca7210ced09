//! `com.cloud.agent.api.ShutdownCommand`, both ways.
//!
//! Sent by this agent when it stops, so that the host becomes Disconnected instead of Alert; sent
//! by the server when the host is deleted. What the latter means for the connection is decided by
//! the session; here `removeHost` blanks the placement, as the reference agent does.

use crate::commands::fault::fault_from;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::config::{Change, ConfigError};
use crate::wire::{Element, Sent, lenient};

pub const CLASS: &str = "com.cloud.agent.api.ShutdownCommand";

/// Reason of a host being deleted on the server.
pub const DELETE_HOST: &str = "deleteHost";

fault_from!(ConfigError);

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub reason: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub remove_host: bool,
}

impl Command for ShutdownCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        Key::Settings.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        if self.remove_host {
            let blank = |key| Change { key, value: Some(String::new()) };
            ctx.services.config.persist(vec![blank("zone"), blank("cluster"), blank("pod")]).await?;
        }
        Ok(Reply::done())
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Farewell<'a> {
    /// Never absent: servers compare it without a null check.
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    remove_host: bool,
}

/// The last message of a graceful stop, reason `sig.kill`.
pub fn farewell(detail: Option<&str>) -> Result<Element, serde_json::Error> {
    Element::new(CLASS, &Sent::new(&Farewell { reason: "sig.kill", detail, remove_host: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farewell_is_the_captured_one() {
        assert_eq!(
            farewell(None).unwrap().fields.get(),
            r#"{"reason":"sig.kill","removeHost":false,"contextMap":{},"wait":0,"bypassHostMaintenance":false}"#
        );
    }
}
