//! `com.cloud.agent.api.GetVolumeStatsCommand`: sizes of volumes of one pool.
//!
//! A missing volume is named in the details and left out; the reference agent then leaves out all.

use crate::commands::{Command, Ctx, Fault, Reply};
use crate::wire::lenient;
use std::collections::BTreeMap;

/// Missing volumes that the details name.
const NAMED: usize = 5;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVolumeStatsCommand {
    /// In truth paths, which for files are the names of the volumes.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub volume_uuids: Vec<String>,
    #[serde(default)]
    pub pool_type: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub pool_uuid: String,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVolumeStatsAnswer {
    pool_uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_type: Option<String>,
    /// By the names as they came.
    volume_stats: BTreeMap<String, VolumeStatsEntry>,
}

/// `com.cloud.agent.api.VolumeStatsEntry`, in bytes.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct VolumeStatsEntry {
    volume_uuid: String,
    /// What the volume takes on disk. The name is spelled so.
    physicalsize: u64,
    /// What the guest sees.
    virtual_size: u64,
}

fn details(missing: &[&str], pool: &str) -> String {
    let named = missing.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match missing.len() {
        0 => String::new(),
        count if count > NAMED => format!("Pool {pool} lacks {count} volumes, among them {named}"),
        _ => format!("Pool {pool} lacks volume {named}"),
    }
}

impl Command for GetVolumeStatsCommand {
    type Answer = GetVolumeStatsAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetVolumeStatsAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetVolumeStatsAnswer>, Fault> {
        let found = ctx.services.hypervisor.volumes(&self.pool_uuid, &self.volume_uuids).await?;
        let missing: Vec<&str> =
            self.volume_uuids.iter().filter(|name| !found.contains_key(*name)).map(String::as_str).collect();
        let details = details(&missing, &self.pool_uuid);
        let volume_stats = found
            .into_iter()
            .map(|(name, facts)| {
                let entry = VolumeStatsEntry {
                    volume_uuid: name.clone(),
                    physicalsize: facts.allocation,
                    virtual_size: facts.capacity,
                };
                (name, entry)
            })
            .collect();
        let answer =
            GetVolumeStatsAnswer { pool_uuid: self.pool_uuid, pool_type: self.pool_type, volume_stats };
        Ok(Reply::ok(answer).details(details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::json;

    const NODE: &str = "<node><cpu><mhz>1</mhz><model>x86_64</model><active>1</active><nodes>1</nodes>
        <sockets>1</sockets><cores>1</cores><threads>1</threads></cpu><memory>1024</memory>
        <pool type='dir'><name>images</name><uuid>5f8a1c1e-9d2b-4d6f-8a83-0c1d2e3f4a5b</uuid>
          <target><path>/images</path></target>
          <volume type='file'><name>vol-1</name><capacity>67108864</capacity><allocation>204800</allocation></volume>
        </pool></node>";

    #[tokio::test]
    async fn volumes_that_exist_have_sizes_and_others_are_named() {
        let mut bench = Bench::with_node(NODE).await;
        let command = json!({"volumeUuids": ["vol-1", "vol-2"], "poolType": "Filesystem",
            "poolUuid": "5f8a1c1e-9d2b-4d6f-8a83-0c1d2e3f4a5b"});
        let (class, fields) = bench.answer("com.cloud.agent.api.GetVolumeStatsCommand", command).await;
        assert_eq!(class, "com.cloud.agent.api.GetVolumeStatsAnswer");
        assert_eq!((&fields["result"], &fields["poolType"]), (&json!(true), &json!("Filesystem")));
        let expected =
            json!({"vol-1": {"volumeUuid": "vol-1", "physicalsize": 204800, "virtualSize": 67108864}});
        assert_eq!(fields["volumeStats"], expected);
        assert!(fields["details"].as_str().unwrap().contains("vol-2"));
    }

    #[test]
    fn many_missing_volumes_are_counted() {
        assert_eq!(details(&[], "p"), "");
        assert_eq!(details(&["a", "b"], "p"), "Pool p lacks volume a, b");
        let many = ["a"; 7];
        assert_eq!(details(&many, "p"), "Pool p lacks 7 volumes, among them a, a, a, a, a");
    }
}
