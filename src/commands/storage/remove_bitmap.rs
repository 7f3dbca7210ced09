//! `com.cloud.agent.api.RemoveBitmapCommand` (4.21): an incremental snapshot is gone, and so must be the
//! bitmap in its volume that the next one would have started from. One that is gone already is a success.
//! Agents that take such snapshots made it.

use super::layers::Layer;
use crate::commands::to::{Data, SnapshotObject, VolumeObject};
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply, place};
use crate::hypervisor::HypervisorError;
use crate::storage::names::VolumeName;
use crate::wire::lenient;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveBitmapCommand {
    #[serde(default, rename = "snapshotObjectTO", deserialize_with = "lenient::or_default")]
    snapshot: SnapshotObject,
    #[serde(default, deserialize_with = "lenient::flag")]
    is_vm_running: bool,
}

impl RemoveBitmapCommand {
    fn volume(&self) -> Option<Data> {
        self.snapshot.volume.clone().map(|volume| Data::Volume(Box::new(volume)))
    }

    fn guest(&self) -> Option<String> {
        let of_volume = |volume: &VolumeObject| volume.vm_name.clone();
        self.snapshot.vm_name.clone().or_else(|| self.snapshot.volume.as_ref().and_then(of_volume))
    }
}

impl Command for RemoveBitmapCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        let volume = self.volume().as_ref().map_or_else(Claims::none, place::exclusive);
        volume.and(self.guest().map(Key::Guest).map_or_else(Claims::none, Claims::from))
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let name = VolumeName::last_of(self.snapshot.path.as_deref().unwrap_or_default())?;
        let layer = Layer::of(&ctx, self.volume().as_ref()).await?;
        if self.is_vm_running {
            let guest = self.guest().ok_or_else(|| Fault::new("The command does not say of which guest"))?;
            remove_running(&ctx, &guest, &layer.path, name.as_str()).await?;
        } else {
            ctx.services.storage.images.remove_bitmap(&layer.path, name.as_str()).await?;
        }
        tracing::info!(volume = %layer.path.display(), bitmap = %name, "Bitmap is removed");
        Ok(Reply::done())
    }
}

async fn remove_running(ctx: &Ctx, guest: &str, path: &Path, name: &str) -> Result<(), Fault> {
    let hypervisor = &ctx.services.hypervisor;
    let blocks = hypervisor.monitor_command(guest, &json!({"execute": "query-block"}), ctx.deadline).await?;
    let node =
        node_of(&blocks, path).ok_or_else(|| Fault::new("Failed to get node-name to remove the bitmap."))?;
    let arguments = json!({"node": node, "name": name});
    let remove = json!({"execute": "block-dirty-bitmap-remove", "arguments": arguments});
    match hypervisor.monitor_command(guest, &remove, ctx.deadline).await {
        Err(HypervisorError::CommandRefused { answer, .. }) if answer.contains("not found") => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

/// QEMU's name of the image that is in use from that file.
fn node_of<'a>(blocks: &'a Value, path: &Path) -> Option<&'a str> {
    let inserted = blocks.as_array()?.iter().map(|block| &block["inserted"]);
    let is = |image: &&Value| image["file"].as_str().is_some_and(|file| Path::new(file) == path);
    inserted.into_iter().find(is)?["node-name"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use crate::storage::testing::{qemu_img, run};

    async fn ask(bench: &mut Bench, fields: Value) -> Value {
        let (class, answer) = bench.answer("com.cloud.agent.api.RemoveBitmapCommand", fields).await;
        assert_eq!(class, "com.cloud.agent.api.Answer");
        answer
    }

    #[tokio::test]
    async fn a_bitmap_of_a_volume_at_rest_goes_once() {
        let Some(images) = qemu_img() else { return };
        let mut bench = Bench::with_pool().await;
        let path = bench.pool_dir().join("v");
        let text = path.to_str().unwrap();
        run(&["qemu-img", "create", "-q", "-f", "qcow2", text, "1M"]).await.unwrap();
        for name in ["s", "other"] {
            run(&["qemu-img", "bitmap", "--add", text, name]).await.unwrap();
        }
        let volume = bench.volume("v")["org.apache.cloudstack.storage.to.VolumeObjectTO"].clone();
        let mut snapshot = json!({"path": "snapshots/1/5/s", "volume": volume, "vmName": "i-2-3-VM"});
        for _ in 0..2 {
            let answer = ask(&mut bench, json!({"snapshotObjectTO": snapshot, "isVmRunning": false})).await;
            assert_eq!(answer["result"], true, "{answer}");
        }
        assert!(images.remove_bitmap(&path, "other").await.unwrap());
        assert!(!images.remove_bitmap(&path, "s").await.unwrap());
        let running = ask(&mut bench, json!({"snapshotObjectTO": snapshot, "isVmRunning": true})).await;
        assert_eq!(running["result"], false);
        snapshot["path"] = json!("a/..");
        assert_eq!(ask(&mut bench, json!({"snapshotObjectTO": snapshot})).await["result"], false);
    }

    #[test]
    fn the_node_is_that_of_the_file() {
        let blocks = json!([{"device": "", "qdev": "ide0"},
            {"inserted": {"file": "/p/v2", "node-name": "no"}}, {"inserted": {"file": "/p/v", "node-name": "yes"}}]);
        assert_eq!(node_of(&blocks, Path::new("/p/v")), Some("yes"));
        assert_eq!(node_of(&blocks, Path::new("/p")), None);
    }
}
