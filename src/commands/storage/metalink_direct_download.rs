//! `org.apache.cloudstack.agent.directdownload.MetalinkDirectDownloadCommand`: a template of which a metalink
//! file names mirrors and checksums.

use super::direct_download::{ANSWER, DirectDownload, DirectDownloadAnswer};
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::storage::download::Source;

#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub struct MetalinkDirectDownloadCommand(DirectDownload);

impl Command for MetalinkDirectDownloadCommand {
    type Answer = DirectDownloadAnswer;
    const ANSWER: &'static str = ANSWER;

    async fn handle(self, ctx: Ctx) -> Result<Reply<DirectDownloadAnswer>, Fault> {
        self.0.fetch(Source::Metalink, ctx).await
    }
}
