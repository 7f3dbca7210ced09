//! `com.cloud.agent.api.CreateStoragePoolCommand`: nothing to do. The server sends `ModifyStoragePoolCommand`
//! next, which makes the pool.

use crate::commands::{Command, Ctx, Fault, NoFields, Reply};

#[derive(Debug, serde::Deserialize)]
pub struct CreateStoragePoolCommand {}

impl Command for CreateStoragePoolCommand {
    type Answer = NoFields;

    async fn handle(self, _: Ctx) -> Result<Reply<NoFields>, Fault> {
        Ok(Reply::done().details("success"))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn it_is_welcome_and_changes_nothing() {
        let mut bench = Bench::new().await;
        let command =
            json!({"_createDatastore": false, "add": true, "pool": {"type": "RBD"}, "localPath": "/mnt/x"});
        let (class, fields) = bench.answer("com.cloud.agent.api.CreateStoragePoolCommand", command).await;
        assert_eq!(class, "com.cloud.agent.api.Answer");
        assert_eq!((&fields["result"], &fields["details"]), (&json!(true), &json!("success")));
    }
}
