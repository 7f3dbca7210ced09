//! `com.cloud.agent.api.AttachIsoCommand`: the older way to put an ISO image on secondary storage into the
//! CD-ROM drive of a running guest, or to take it out.

use super::iso;
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply};
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachIsoCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
    /// URL of the image.
    #[serde(default, deserialize_with = "lenient::or_default")]
    iso_path: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    attach: bool,
    /// 3 is the CD-ROM, 4 the config drive.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    device_key: Option<i64>,
    /// Opens a drive that the guest has locked.
    #[serde(default, deserialize_with = "lenient::flag")]
    force: bool,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachIsoAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    device_key: Option<i64>,
}

impl Command for AttachIsoCommand {
    type Answer = AttachIsoAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.AttachIsoAnswer";

    fn claims(&self) -> Claims {
        Key::Guest(self.vm_name.clone()).into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<AttachIsoAnswer>, Fault> {
        let drive = iso::Drive { guest: &self.vm_name, number: self.device_key, force: self.force };
        if self.attach {
            drive.insert(&ctx, iso::by_url(&ctx, &self.iso_path).await?).await?;
        } else {
            drive.eject(&ctx).await?;
        }
        Ok(Reply::ok(AttachIsoAnswer { device_key: self.device_key }))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn what_cannot_be_is_refused_in_words() {
        let mut bench = Bench::with_node(super::super::iso::NODE).await;
        let class = "com.cloud.agent.api.AttachIsoCommand";
        for (vm, path, words) in [
            ("i-2-9-VM", "", "No guest named i-2-9-VM"),
            ("i-2-4-VM", "", "has no CD-ROM drive"),
            ("i-2-3-VM", "x.iso", "is no URL of an ISO image"),
            ("i-2-3-VM", "cifs://h/e/x.iso", "secondary storage has to be nfs"),
            ("i-2-3-VM", "nfs://h/e/..", "is not a path inside"),
        ] {
            let fields = json!({"vmName": vm, "isoPath": path, "attach": !path.is_empty(), "deviceKey": 3});
            let (answer, fields) = bench.answer(class, fields).await;
            assert_eq!(answer, "com.cloud.agent.api.AttachIsoAnswer");
            assert!(fields["details"].as_str().unwrap().contains(words), "{words}: {fields}");
        }
        // Nothing to take out.
        let fields = json!({"vmName": "i-2-3-VM", "attach": false, "deviceKey": 3});
        let (_, fields) = bench.answer(class, fields).await;
        assert_eq!((&fields["result"], &fields["deviceKey"]), (&json!(true), &json!(3)));
    }
}
