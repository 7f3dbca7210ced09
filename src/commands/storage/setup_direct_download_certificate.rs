//! `org.apache.cloudstack.agent.directdownload.SetupDirectDownloadCertificateCommand`: one more
//! certificate to trust when templates are downloaded over HTTPS.
//!
//! Kept as a PEM file of its own beside `agent.properties`, not in the keystore of the Java agent: the
//! keystore is this host's identity, and a download must not be able to spoil it.

use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::tls::download;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupDirectDownloadCertificateCommand {
    /// PEM.
    #[serde(default, deserialize_with = "lenient::or_default")]
    certificate: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    certificate_name: String,
}

impl Command for SetupDirectDownloadCertificateCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        Key::Certificate.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let (store, name) = (ctx.services.downloads.store().to_owned(), self.certificate_name.clone());
        let installed =
            tokio::task::spawn_blocking(move || download::install(&store, &name, &self.certificate));
        installed
            .await
            .map_err(|_| Fault::new("The certificate was not imported: see the agent's log"))??;
        tracing::info!(name = %self.certificate_name, "Certificate for downloads is imported");
        Ok(Reply::done().details(format!("Certificate {} imported", self.certificate_name)))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    const SETUP: &str = "org.apache.cloudstack.agent.directdownload.SetupDirectDownloadCertificateCommand";
    const REVOKE: &str = "org.apache.cloudstack.agent.directdownload.RevokeDirectDownloadCertificateCommand";

    #[tokio::test]
    async fn certificates_come_and_go_by_name() {
        let mut bench = Bench::disconnected().await;
        let pem = include_str!("../../../tests/data/tls/java-ca.crt");
        let file = bench.dir().join("direct-download-certs/mirror-1.pem");
        for _ in 0..2 {
            let fields = json!({"certificate": pem, "certificateName": "mirror-1"});
            let (class, fields) = bench.answer(SETUP, fields).await;
            assert_eq!((class.as_str(), &fields["result"]), ("com.cloud.agent.api.Answer", &json!(true)));
            assert_eq!(fields["details"], "Certificate mirror-1 imported");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), pem);
        }
        for _ in 0..2 {
            let (class, fields) = bench.answer(REVOKE, json!({"certificateAlias": "mirror-1"})).await;
            assert_eq!((class.as_str(), &fields["result"]), ("com.cloud.agent.api.Answer", &json!(true)));
            assert!(!file.exists());
        }
    }

    #[tokio::test]
    async fn a_name_that_is_a_path_is_refused() {
        let mut bench = Bench::disconnected().await;
        let name = "../agent.properties";
        let (_, fields) = bench.answer(SETUP, json!({"certificate": "x", "certificateName": name})).await;
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().starts_with("The provided certificate name is invalid"));
        let (_, fields) = bench.answer(REVOKE, json!({"certificateAlias": name})).await;
        assert_eq!(fields["result"], false);
    }
}
