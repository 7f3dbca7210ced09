//! `com.cloud.agent.api.FreezeThawVMCommand`: the guest agent brings the file systems of a guest into a
//! sound state and holds them there, or lets them go.

use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::wire::lenient;
use serde_json::{Value, json};
use std::time::Duration;

/// For each question to the guest agent.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreezeThawVmCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
    /// `frozen` or `thawed`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    option: String,
}

impl Command for FreezeThawVmCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "com.cloud.agent.api.FreezeThawVMAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.vm_name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let (guest, option) = (&self.vm_name, self.option.as_str());
        let result = match option {
            "frozen" => freeze(&ctx, guest).await,
            "thawed" => tell(&ctx, guest, "guest-fsfreeze-thaw").await,
            other => return Err(Fault::new(format!("A guest can be frozen or thawed, not {other:?}"))),
        };
        result?;
        let status = tell(&ctx, guest, "guest-fsfreeze-status").await?;
        if status.as_str() != Some(option) {
            return Err(Fault::new(format!("The guest agent of {guest} says {status}, not {option:?}")));
        }
        tracing::info!(guest, option, "File systems of the guest");
        Ok(Reply::done().details(format!("File systems of {guest} are {option}")))
    }
}

/// A guest agent that was too slow may still freeze, and nobody would thaw.
async fn freeze(ctx: &Ctx, guest: &str) -> Result<Value, Fault> {
    let frozen = tell(ctx, guest, "guest-fsfreeze-freeze").await;
    if frozen.is_err() {
        let _ = tell(ctx, guest, "guest-fsfreeze-thaw").await;
    }
    frozen
}

async fn tell(ctx: &Ctx, guest: &str, command: &str) -> Result<Value, Fault> {
    let command = json!({"execute": command});
    Ok(ctx.services.hypervisor.agent_command(guest, &command, PATIENCE).await?)
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn what_cannot_be_done_is_said() {
        let mut bench = Bench::with_pool().await;
        for (option, words) in [("frozen", "i-2-3-VM"), ("thawed", "i-2-3-VM"), ("melted", "\"melted\"")] {
            let fields = json!({"vmName": "i-2-3-VM", "option": option});
            let (class, answer) = bench.answer("com.cloud.agent.api.FreezeThawVMCommand", fields).await;
            assert_eq!(
                (class.as_str(), &answer["result"]),
                ("com.cloud.agent.api.FreezeThawVMAnswer", &json!(false))
            );
            assert!(answer["details"].as_str().unwrap().contains(words), "{answer}");
        }
    }
}
