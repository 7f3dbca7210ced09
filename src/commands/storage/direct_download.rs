//! What the four direct downloads share: fields, answer and the way into the pool. Mirrors
//! `org.apache.cloudstack.agent.directdownload.DirectDownloadCommand`.
//!
//! Two commands for one template and pool join into one download, so nothing is claimed here.

use crate::commands::{Ctx, Fault, Reply};
use crate::errors::chain;
use crate::hypervisor::Refresh;
use crate::storage::download::{Format, HttpSettings, Request, Source};
use crate::wire::lenient;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const ANSWER: &str = "org.apache.cloudstack.agent.directdownload.DirectDownloadAnswer";
const LOCATION: &str = "direct.download.temporary.download.location";
/// Milliseconds; that of the Java agent.
const DEFAULT_TIMEOUT: i64 = 5_000;
/// Before the dispatcher gives up, so that the answer says why, and where to try again.
const MARGIN: Duration = Duration::from_secs(5);

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectDownload {
    /// May hold credentials, as may the headers.
    #[serde(default, deserialize_with = "lenient::or_default")]
    url: String,
    #[serde(default, deserialize_with = "lenient::int")]
    template_id: i64,
    #[serde(default, deserialize_with = "lenient::or_default")]
    dest_pool: DestPool,
    #[serde(default, deserialize_with = "lenient::or_default")]
    checksum: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    connect_timeout: Option<i64>,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    so_timeout: Option<i64>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    format: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    follow_redirects: bool,
}

impl std::fmt::Debug for DirectDownload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectDownload")
            .field("template_id", &self.template_id)
            .field("dest_pool", &self.dest_pool)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// `org.apache.cloudstack.storage.to.PrimaryDataStoreTO`
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct DestPool {
    #[serde(default, deserialize_with = "lenient::or_default")]
    uuid: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pool_type: String,
}

#[derive(Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectDownloadAnswer {
    /// Servers unbox it without asking.
    template_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    install_path: Option<String>,
    retry_on_other_hosts: bool,
}

/// Milliseconds as they come, the default for none and nonsense.
pub(super) fn timeout(milliseconds: Option<i64>) -> Duration {
    let given = milliseconds.filter(|ms| *ms > 0).unwrap_or(DEFAULT_TIMEOUT);
    Duration::from_millis(given.unsigned_abs())
}

/// Everything that is neither raw nor an ISO image has to be qcow2 here.
pub(super) fn format(name: &str) -> Format {
    match name.trim().to_ascii_uppercase().as_str() {
        "ISO" => Format::Iso,
        "RAW" => Format::Raw,
        _ => Format::Qcow2,
    }
}

/// Directory for unfinished files.
pub(super) fn temporary(ctx: &Ctx) -> Result<PathBuf, Fault> {
    let location = ctx.config()?.text(LOCATION).map(PathBuf::from);
    location.ok_or_else(|| Fault::new(format!("{LOCATION} has no value")))
}

/// What remains of the command's time for the work itself.
pub(super) fn deadline(ctx: &Ctx) -> Duration {
    ctx.deadline - MARGIN.min(ctx.deadline / 10)
}

fn failed(text: impl Into<String>, retry_on_other_hosts: bool) -> Reply<DirectDownloadAnswer> {
    Reply::failed(DirectDownloadAnswer { retry_on_other_hosts, ..DirectDownloadAnswer::default() }, text)
}

impl DirectDownload {
    pub(super) async fn fetch(self, source: Source, ctx: Ctx) -> Result<Reply<DirectDownloadAnswer>, Fault> {
        let kind = self.dest_pool.pool_type.as_str();
        if !matches!(kind, "Filesystem" | "SharedMountPoint" | "NetworkFilesystem") {
            let text = format!(
                "This agent downloads templates into pools of files (Filesystem, SharedMountPoint, \
                 NetworkFilesystem), not into {kind:?}"
            );
            return Ok(failed(Fault::new(text).text(), false));
        }
        let Ok(template_id) = u64::try_from(self.template_id) else {
            return Ok(failed("Unable to create direct downloader: templateId is negative", false));
        };
        let pool = match ctx.services.hypervisor.pool(&self.dest_pool.uuid, Refresh::No).await {
            Ok(pool) => pool,
            Err(error) => return Ok(failed(Fault::from(error).text(), true)),
        };
        let Some(directory) = pool.path else {
            return Ok(failed(format!("Pool {} has no directory on this host", pool.uuid), true));
        };
        let request = Request {
            source,
            url: self.url,
            checksum: self.checksum,
            http: HttpSettings {
                connect_timeout: timeout(self.connect_timeout),
                read_timeout: timeout(self.so_timeout),
                follow_redirects: self.follow_redirects,
                headers: self.headers,
            },
            format: format(&self.format),
            template_id,
            temporary: temporary(&ctx)?,
            pool: directory.into(),
            deadline: deadline(&ctx),
        };
        match ctx.services.downloads.fetch(request).await {
            Ok(fetched) => {
                let size = fetched.virtual_size;
                ctx.services.touched.note(&fetched.name);
                tracing::info!(template_id, name = %fetched.name, size, "Template is downloaded into its pool");
                Ok(Reply::ok(DirectDownloadAnswer {
                    template_size: size,
                    install_path: Some(fetched.name),
                    retry_on_other_hosts: false,
                }))
            }
            Err(error) => {
                let text = chain(&*error);
                tracing::warn!(template_id, "Template is not downloaded: {text}");
                Ok(failed(Fault::new(text).text(), error.retry_on_other_hosts()))
            }
        }
    }
}

#[cfg(test)]
#[path = "direct_download_tests.rs"]
mod tests;
