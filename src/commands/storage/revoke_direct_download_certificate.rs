//! `org.apache.cloudstack.agent.directdownload.RevokeDirectDownloadCertificateCommand`: a certificate
//! that is no longer trusted when templates are downloaded. One that is not there is no error.

use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::tls::download;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokeDirectDownloadCertificateCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    certificate_alias: String,
}

impl Command for RevokeDirectDownloadCertificateCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        Key::Certificate.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let (store, alias) = (ctx.services.downloads.store().to_owned(), self.certificate_alias.clone());
        let revoked = tokio::task::spawn_blocking(move || download::revoke(&store, &alias));
        revoked.await.map_err(|_| Fault::new("The certificate was not removed: see the agent's log"))??;
        tracing::info!(alias = %self.certificate_alias, "Certificate for downloads is removed");
        Ok(Reply::done())
    }
}

// Tested together with its counterpart, in `setup_direct_download_certificate.rs`.
