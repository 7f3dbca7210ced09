//! `com.cloud.agent.api.CheckConvertInstanceCommand`: can this host convert guests of other
//! hypervisors? Answered from what was found out when the agent started.

use crate::commands::{Command, Ctx, Fault, Reply};
use crate::host::capabilities::has_windows_drivers;
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckConvertInstanceCommand {
    /// Guests that run Windows, which need drivers on top.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub check_windows_guest_conversion_support: bool,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckConvertInstanceAnswer {
    ovf_export_supported: bool,
}

impl Command for CheckConvertInstanceCommand {
    type Answer = CheckConvertInstanceAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.CheckConvertInstanceAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<CheckConvertInstanceAnswer>, Fault> {
        let facts = ctx.services.capabilities.known().await;
        if !facts.instance_conversion {
            return Err(Fault::new("virt-v2v is not usable on this host: install virt-v2v and nbdkit"));
        }
        if self.check_windows_guest_conversion_support && !has_windows_drivers().await {
            return Err(Fault::new(
                "Package virtio-win is not installed on this host: Windows guests need it",
            ));
        }
        Ok(Reply::ok(CheckConvertInstanceAnswer { ovf_export_supported: facts.ovftool_version.is_some() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn the_answer_is_what_the_host_can_do() {
        let class = "com.cloud.agent.api.CheckConvertInstanceCommand";
        let mut bench = Bench::new().await;
        let facts = bench.ctx.services.capabilities.known().await;
        for windows in [false, true] {
            let fields = json!({"checkWindowsGuestConversionSupport": windows});
            let (answer, fields) = bench.answer(class, fields).await;
            assert_eq!(answer, "com.cloud.agent.api.CheckConvertInstanceAnswer");
            let able = facts.instance_conversion && (!windows || has_windows_drivers().await);
            assert_eq!(fields["result"], able, "{fields}");
            assert_eq!(fields["ovfExportSupported"].is_boolean(), able);
        }
    }
}
