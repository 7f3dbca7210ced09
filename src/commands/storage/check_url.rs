//! `org.apache.cloudstack.agent.directdownload.CheckUrlCommand`: is a template there, and how large is
//! it? Sent to one host when a template for direct download is registered.
//!
//! The Java agent lets an image pass whose header is not qcow2, with size 0, and fails at its first
//! use; here the registration fails, with the reason.

use super::direct_download::{deadline, format, temporary, timeout};
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::errors::chain;
use crate::storage::download::{HttpSettings, Source, UrlCheck};
use crate::wire::lenient;
use std::collections::BTreeMap;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckUrlCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    format: String,
    /// May hold credentials.
    #[serde(default, deserialize_with = "lenient::or_default")]
    url: String,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    connect_timeout: Option<i64>,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    socket_timeout: Option<i64>,
    #[serde(default, deserialize_with = "lenient::flag")]
    follow_redirects: bool,
}

impl std::fmt::Debug for CheckUrlCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckUrlCommand").field("format", &self.format).finish_non_exhaustive()
    }
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckUrlAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    template_size: Option<u64>,
}

fn source(url: &str) -> Source {
    let url = url.trim().to_ascii_lowercase();
    match url {
        url if url.starts_with("nfs:") => Source::Nfs,
        url if url.split(['?', '#']).next().is_some_and(|path| path.ends_with(".metalink")) => {
            Source::Metalink
        }
        _ => Source::Http,
    }
}

impl Command for CheckUrlCommand {
    type Answer = CheckUrlAnswer;
    const ANSWER: &'static str = "org.apache.cloudstack.agent.directdownload.CheckUrlAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<CheckUrlAnswer>, Fault> {
        let check = UrlCheck {
            source: source(&self.url),
            http: HttpSettings {
                connect_timeout: timeout(self.connect_timeout),
                read_timeout: timeout(self.socket_timeout),
                follow_redirects: self.follow_redirects,
                headers: BTreeMap::new(),
            },
            url: self.url,
            format: format(&self.format),
            temporary: temporary(&ctx)?,
            deadline: deadline(&ctx),
        };
        match ctx.services.downloads.check_url(check).await {
            Ok(size) => Ok(Reply::ok(CheckUrlAnswer { template_size: Some(size) })),
            Err(error) => {
                let text = chain(&*error);
                tracing::warn!("URL of a template is refused: {text}");
                Ok(Reply::failed(CheckUrlAnswer { template_size: None }, Fault::new(text).text()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[test]
    fn the_kind_of_url_is_seen_from_both_ends() {
        assert_eq!(source("NFS://h/x.metalink"), Source::Nfs);
        assert_eq!(source("https://h/x.metalink?a"), Source::Metalink);
        assert_eq!(source("https://h/x.qcow2?a=.metalink"), Source::Http);
    }

    #[tokio::test]
    async fn a_url_that_leads_nowhere_is_refused_with_the_reason() {
        let mut bench = Bench::disconnected().await;
        let class = "org.apache.cloudstack.agent.directdownload.CheckUrlCommand";
        for (url, reason) in [("http://127.0.0.1:1/x", "127.0.0.1:1 cannot be reached"), ("x", "URL")] {
            let (answer, fields) = bench.answer(class, json!({"format": "QCOW2", "url": url})).await;
            assert_eq!(answer, "org.apache.cloudstack.agent.directdownload.CheckUrlAnswer");
            assert_eq!(fields["result"], false);
            assert!(fields["details"].as_str().unwrap().contains(reason), "{fields}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        let command: CheckUrlCommand = serde_json::from_value(json!({"url": "http://u:canary@h/x"})).unwrap();
        assert!(!format!("{command:?}").contains("canary"));
    }
}
