//! `org.apache.cloudstack.storage.command.DettachCommand` (so spelled): takes a volume from a running
//! guest, or the disc out of its CD-ROM drive. Not attached is a success.

use super::{hotplug, iso};
use crate::commands::registry::PLAIN_ANSWER;
use crate::commands::to::{Data, DiskTo, Echo};
use crate::commands::{Claims, Command, Ctx, Fault, Reply};
use crate::wire::lenient;
use std::time::Duration;

/// If the server does not say how long the guest may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DettachCommand {
    #[serde(default)]
    disk: Option<Echo<DiskTo>>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
    /// Opens a drive that the guest has locked.
    #[serde(default, deserialize_with = "lenient::flag")]
    forced: bool,
    /// Milliseconds that the guest may take.
    #[serde(default, deserialize_with = "lenient::int")]
    wait_detach_device: i64,
}

#[derive(Debug, serde::Serialize)]
pub struct DettachAnswer {
    /// As the command has it; not with ISO images.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Echo<DiskTo>>,
}

impl DettachCommand {
    fn patience(&self) -> Duration {
        let asked = u64::try_from(self.wait_detach_device).ok().filter(|milliseconds| *milliseconds > 0);
        asked.map_or(PATIENCE, Duration::from_millis)
    }
}

impl Command for DettachCommand {
    type Answer = DettachAnswer;
    const ANSWER: &'static str = "org.apache.cloudstack.storage.command.DettachAnswer";

    fn answer_class(&self) -> &'static str {
        if hotplug::is_iso(self.disk.as_ref()) { PLAIN_ANSWER } else { Self::ANSWER }
    }

    fn claims(&self) -> Claims {
        hotplug::claims(&self.vm_name, self.disk.as_ref())
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<DettachAnswer>, Fault> {
        let patience = self.patience();
        let disk = hotplug::given(self.disk)?;
        if disk.value.is_iso() {
            let drive = iso::Drive { guest: &self.vm_name, number: disk.value.disk_seq, force: self.forced };
            drive.eject(&ctx).await?;
            return Ok(Reply::ok(DettachAnswer { disk: None }));
        }
        let Some(Data::Volume(volume)) = &disk.value.data else {
            return Err(Fault::new("Only volumes and ISO images can be detached"));
        };
        hotplug::detach(&ctx, &self.vm_name, volume, patience).await?;
        Ok(Reply::ok(DettachAnswer { disk: Some(disk) }))
    }
}
