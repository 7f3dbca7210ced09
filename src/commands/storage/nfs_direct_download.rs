//! `org.apache.cloudstack.agent.directdownload.NfsDirectDownloadCommand`: a template on an NFS server.
//! The Java agent fails at these; here they work.

use super::direct_download::{ANSWER, DirectDownload, DirectDownloadAnswer};
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::storage::download::Source;

#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub struct NfsDirectDownloadCommand(DirectDownload);

impl Command for NfsDirectDownloadCommand {
    type Answer = DirectDownloadAnswer;
    const ANSWER: &'static str = ANSWER;

    async fn handle(self, ctx: Ctx) -> Result<Reply<DirectDownloadAnswer>, Fault> {
        self.0.fetch(Source::Nfs, ctx).await
    }
}
