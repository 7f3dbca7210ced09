//! `org.apache.cloudstack.ca.SetupCertificateCommand`: the certificate for the key made before.
//!
//! Nothing is replaced unless certificate, CAs and key fit together. The connection goes on with the
//! old certificate until nothing is in progress; then the session connects anew.

use super::{Recipient, blocking};
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply, SessionRequest, secret};
use crate::config::Secret;
use crate::tls::provision::{self, ProvisionError};
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupCertificateCommand {
    /// PEM, as the next two.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub certificate: String,
    /// Empty: the key of the request is meant.
    #[serde(default = "secret::none", deserialize_with = "secret::text")]
    pub private_key: Secret,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub ca_certificates: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub handle_by_agent: bool,
}

impl Command for SetupCertificateCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "org.apache.cloudstack.ca.SetupCertificateAnswer";

    fn claims(&self) -> Claims {
        Key::Certificate.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        Recipient::of(self.handle_by_agent).must_be_this_host()?;
        let config = ctx.config()?;
        let installed = blocking(move || {
            let passphrase = config.keystore_passphrase.as_ref().ok_or(ProvisionError::NoPassphrase)?;
            provision::install_certificate(
                config.dir(),
                &self.certificate,
                &self.ca_certificates,
                Some(self.private_key.expose()),
                passphrase.expose(),
            )
        })
        .await?;
        let summary = installed.certificate;
        tracing::info!(certificate = ?summary, authorities = installed.authorities, "New certificate installed");
        ctx.session.ask(SessionRequest::CertificateRenewed).await;
        Ok(Reply::done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use serde_json::{Value, json};

    const CLASS: &str = "org.apache.cloudstack.ca.SetupCertificateCommand";
    const ANSWER: &str = "org.apache.cloudstack.ca.SetupCertificateAnswer";

    /// Has a key made, and does what the server does with the request: certificate and CA, in PEM.
    async fn signed(bench: &mut Bench) -> (String, String) {
        request(bench).await;
        let requested = std::fs::read_to_string(bench.dir().join("cloud.key.new")).unwrap();
        let requested = KeyPair::from_pem(&requested).unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.distinguished_name.push(DnType::CommonName, "ca");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority_pem = authority.self_signed(&key).unwrap().pem();
        let host = CertificateParams::new(vec!["vm".into()]).unwrap();
        let certificate = host.signed_by(&requested, &Issuer::new(authority, key)).unwrap();
        (certificate.pem(), authority_pem)
    }

    async fn request(bench: &mut Bench) {
        let command = json!({"keystorePassword": "p4ssw0rd", "handleByAgent": true});
        let (_, fields) = bench.answer("org.apache.cloudstack.ca.SetupKeyStoreCommand", command).await;
        assert_eq!(fields["result"], true, "{fields}");
    }

    fn command(certificate: &str, authority: &str) -> Value {
        json!({"certificate": certificate, "privateKey": "", "caCertificates": authority, "handleByAgent": true,
            "accessDetails": {}, "contextMap": {"logid": "25460828"}, "wait": 60, "bypassHostMaintenance": false})
    }

    #[tokio::test]
    async fn the_session_learns_of_an_installed_certificate() {
        let mut bench = Bench::new().await;
        let (certificate, authority) = signed(&mut bench).await;
        let (class, fields) = bench.answer(CLASS, command(&certificate, &authority)).await;
        assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(true)), "{fields}");
        assert!(matches!(bench.request(), Some(SessionRequest::CertificateRenewed)));
        for file in ["cloud.crt", "cloud.key", "cloud.ca.crt", "cloud.jks"] {
            assert!(bench.dir().join(file).exists(), "{file}");
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_changes_nothing() {
        let mut bench = Bench::new().await;
        let (certificate, authority) = signed(&mut bench).await;
        // Made after the certificate, so it belongs to another key.
        request(&mut bench).await;
        let router = json!({"certificate": certificate, "caCertificates": authority, "handleByAgent": false});
        for bad in
            [command(&certificate, &authority), command("", &authority), command(&certificate, "x"), router]
        {
            let (class, fields) = bench.answer(CLASS, bad).await;
            assert_eq!((class.as_str(), &fields["result"]), (ANSWER, &json!(false)));
            assert!(bench.request().is_none());
            assert!(!bench.dir().join("cloud.crt").exists());
        }
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let command: SetupCertificateCommand = serde_json::from_str(r#"{"privateKey":"canary"}"#).unwrap();
        assert!(!format!("{command:?}").contains("canary"));
    }
}
