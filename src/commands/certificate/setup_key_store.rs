//! `org.apache.cloudstack.ca.SetupKeyStoreCommand`: make a new key and ask for its certificate.
//!
//! The key in use stays until the certificate is there, see [`crate::tls::provision`].

use super::{Recipient, blocking};
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply, secret};
use crate::config::{Change, Secret};
use crate::host::identity::{addresses, full_name};
use crate::tls::provision;
use crate::wire::lenient;
use std::time::Duration;

/// The resolver is asked for the full name; without an answer the short one has to do.
const NAME_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupKeyStoreCommand {
    /// Taken only if agent.properties has none.
    #[serde(default = "secret::none", deserialize_with = "secret::text")]
    pub keystore_password: Secret,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub handle_by_agent: bool,
}

/// The server casts to exactly this class, whose name has a small s.
#[derive(Debug, serde::Serialize)]
pub struct SetupKeystoreAnswer {
    csr: String,
}

impl Command for SetupKeyStoreCommand {
    type Answer = SetupKeystoreAnswer;
    const ANSWER: &'static str = "org.apache.cloudstack.ca.SetupKeystoreAnswer";

    fn claims(&self) -> Claims {
        Key::Certificate.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<SetupKeystoreAnswer>, Fault> {
        Recipient::of(self.handle_by_agent).must_be_this_host()?;
        let config = ctx.config()?;
        if config.keystore_passphrase.is_none() {
            let passphrase = usable(self.keystore_password.expose())?;
            let change = Change { key: "keystore.passphrase", value: Some(passphrase.to_owned()) };
            ctx.services.config.persist(vec![change]).await?;
        }
        let name = full_name(NAME_DEADLINE.min(ctx.deadline)).await;
        let directory = config.dir().to_owned();
        let csr = blocking(move || provision::setup_keystore(&directory, &name, &addresses())).await?;
        tracing::info!("New key made, its certificate is requested from the server");
        Ok(Reply::ok(SetupKeystoreAnswer { csr: csr.0 }))
    }
}

/// What goes into agent.properties must be one plain word.
fn usable(passphrase: &str) -> Result<&str, Fault> {
    if provision::is_plain_passphrase(passphrase) {
        Ok(passphrase)
    } else {
        Err(Fault::new(
            "The keystore password in the command is not one plain word: set keystore.passphrase in agent.properties",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    const CLASS: &str = "org.apache.cloudstack.ca.SetupKeyStoreCommand";
    const ANSWER: &str = "org.apache.cloudstack.ca.SetupKeystoreAnswer";

    #[tokio::test]
    async fn the_request_for_a_new_key_is_returned() {
        let mut bench = Bench::new().await;
        let captured = json!({"validityDays": 365, "keystorePassword": "canary7c1", "handleByAgent": true,
            "accessDetails": {}, "contextMap": {"logid": "42837076", "job": "job-87"}, "wait": 60});
        let (class, fields) = bench.answer(CLASS, captured).await;
        assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(true)), "{fields}");
        assert!(fields["csr"].as_str().unwrap().starts_with("-----BEGIN NEW CERTIFICATE REQUEST-----"));
        assert!(bench.properties().contains("keystore.passphrase=canary7c1"));
        let mode = std::fs::metadata(bench.dir().join("cloud.key.new")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!bench.dir().join("cloud.key").exists(), "the key in use is not touched");
    }

    #[tokio::test]
    async fn the_passphrase_in_use_stays() {
        let mut bench = Bench::with_properties("keystore.passphrase=old\n").await;
        let command = json!({"keystorePassword": "new", "handleByAgent": true});
        let (_, fields) = bench.answer(CLASS, command).await;
        assert_eq!(fields["result"], true, "{fields}");
        assert!(bench.properties().contains("keystore.passphrase=old"));
        assert!(!bench.properties().contains("new"));
    }

    #[tokio::test]
    async fn routers_and_strange_passwords_are_refused() {
        let mut bench = Bench::new().await;
        let before = bench.properties();
        for password in ["", "a b", "a\nguid=x", "$(id)", &"x".repeat(257)] {
            let (class, fields) =
                bench.answer(CLASS, json!({"keystorePassword": password, "handleByAgent": true})).await;
            assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(false)), "{password:?}");
        }
        let (class, fields) =
            bench.answer(CLASS, json!({"keystorePassword": "x", "handleByAgent": false})).await;
        assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(false)));
        assert!(fields["details"].as_str().unwrap().contains("not supported yet"));
        assert_eq!(bench.properties(), before);
        assert!(!bench.dir().join("cloud.key.new").exists());
    }

    #[test]
    fn the_password_is_not_shown() {
        let command: SetupKeyStoreCommand = serde_json::from_str(r#"{"keystorePassword":"canary"}"#).unwrap();
        assert!(!format!("{command:?}").contains("canary"));
    }
}
