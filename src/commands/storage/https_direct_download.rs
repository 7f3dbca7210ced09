//! `org.apache.cloudstack.agent.directdownload.HttpsDirectDownloadCommand`: a template behind an HTTPS URL.

use super::direct_download::{ANSWER, DirectDownload, DirectDownloadAnswer};
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::storage::download::Source;

#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub struct HttpsDirectDownloadCommand(DirectDownload);

impl Command for HttpsDirectDownloadCommand {
    type Answer = DirectDownloadAnswer;
    const ANSWER: &'static str = ANSWER;

    async fn handle(self, ctx: Ctx) -> Result<Reply<DirectDownloadAnswer>, Fault> {
        self.0.fetch(Source::Http, ctx).await
    }
}
