//! `com.cloud.agent.api.GetVmDiskStatsCommand`: counters of the disks of guests.
//!
//! The server finds the volume by `path`. The reference agent takes a fixed component of the file
//! name, which is wrong for local storage; here it is the last one.

use super::GuestNames;
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::hypervisor::{DiskSample, DomainSample};
use std::collections::BTreeMap;

#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub struct GetVmDiskStatsCommand(GuestNames);

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVmDiskStatsAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<String>,
    vm_disk_stats_map: BTreeMap<String, Vec<VmDiskStatsEntry>>,
}

/// `com.cloud.agent.api.VmDiskStatsEntry`: counters since the start of the guest. The server
/// computes the differences itself and ignores those in here.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct VmDiskStatsEntry {
    vm_name: String,
    path: String,
    io_read: u64,
    io_write: u64,
    bytes_write: u64,
    bytes_read: u64,
    delta_io_read: u64,
    delta_io_write: u64,
    delta_bytes_write: u64,
    delta_bytes_read: u64,
}

/// Disks without a source have no volume to be counted for.
fn entry(vm_name: &str, disk: &DiskSample) -> Option<VmDiskStatsEntry> {
    let path = disk.source.as_deref()?.rsplit('/').next().filter(|name| !name.is_empty())?;
    Some(VmDiskStatsEntry {
        vm_name: vm_name.to_owned(),
        path: path.to_owned(),
        io_read: disk.read_requests,
        io_write: disk.write_requests,
        bytes_write: disk.write_bytes,
        bytes_read: disk.read_bytes,
        delta_io_read: 0,
        delta_io_write: 0,
        delta_bytes_write: 0,
        delta_bytes_read: 0,
    })
}

fn entries(name: &str, sample: &DomainSample) -> Vec<VmDiskStatsEntry> {
    sample.disks.iter().filter_map(|disk| entry(name, disk)).collect()
}

impl Command for GetVmDiskStatsCommand {
    type Answer = GetVmDiskStatsAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.GetVmDiskStatsAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<GetVmDiskStatsAnswer>, Fault> {
        let samples = ctx.services.hypervisor.domain_samples(&self.0.vm_names).await?;
        let vm_disk_stats_map =
            samples.iter().map(|(name, now)| (name.clone(), entries(name, now))).collect();
        Ok(Reply::ok(GetVmDiskStatsAnswer { host_name: self.0.host_name, vm_disk_stats_map }).details(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn the_path_is_the_name_of_the_volume() {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        let names = json!({"vmNames": ["i-2-3-VM", "gone"], "hostGuid": "g", "hostName": "vm"});
        let (class, fields) = bench.answer("com.cloud.agent.api.GetVmDiskStatsCommand", names).await;
        assert_eq!(class, "com.cloud.agent.api.GetVmDiskStatsAnswer");
        assert_eq!((&fields["hostName"], &fields["details"]), (&json!("vm"), &json!("")));
        assert_eq!(fields["vmDiskStatsMap"].as_object().unwrap().len(), 1);
        let disks = fields["vmDiskStatsMap"]["i-2-3-VM"].as_array().unwrap();
        assert_eq!(disks.len(), 1, "the empty CD-ROM does not count");
        assert_eq!((&disks[0]["vmName"], &disks[0]["path"]), (&json!("i-2-3-VM"), &json!("vol-1")));
    }

    #[test]
    fn counters_keep_their_direction() {
        let disk = DiskSample {
            device: "vda".into(),
            source: Some("pool/image".into()),
            read_requests: 1,
            read_bytes: 2,
            write_requests: 3,
            write_bytes: 4,
        };
        let entry = entry("i", &disk).unwrap();
        assert_eq!(entry.path, "image");
        assert_eq!((entry.io_read, entry.bytes_read, entry.io_write, entry.bytes_write), (1, 2, 3, 4));
        assert!(super::entry("i", &DiskSample { source: None, ..disk.clone() }).is_none());
        assert!(super::entry("i", &DiskSample { source: Some("/a/".into()), ..disk }).is_none());
    }
}
