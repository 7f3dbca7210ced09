//! `org.apache.cloudstack.storage.command.AttachCommand`: plugs a volume into a running guest, or puts an
//! ISO image into its CD-ROM drive. Attached already is a success.

use super::{hotplug, iso};
use crate::commands::registry::PLAIN_ANSWER;
use crate::commands::to::{Data, DiskTo, Echo};
use crate::commands::{Claims, Command, Ctx, Fault, Reply};
use crate::wire::lenient;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachCommand {
    #[serde(default)]
    disk: Option<Echo<DiskTo>>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
    /// Opens a drive that the guest has locked.
    #[serde(default, deserialize_with = "lenient::flag")]
    forced: bool,
}

#[derive(Debug, serde::Serialize)]
pub struct AttachAnswer {
    /// As the command has it; not with ISO images.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Echo<DiskTo>>,
}

impl Command for AttachCommand {
    type Answer = AttachAnswer;
    const ANSWER: &'static str = "org.apache.cloudstack.storage.command.AttachAnswer";

    fn answer_class(&self) -> &'static str {
        if hotplug::is_iso(self.disk.as_ref()) { PLAIN_ANSWER } else { Self::ANSWER }
    }

    fn claims(&self) -> Claims {
        hotplug::claims(&self.vm_name, self.disk.as_ref())
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<AttachAnswer>, Fault> {
        let disk = hotplug::given(self.disk)?;
        match &disk.value.data {
            Some(Data::Template(template)) if disk.value.is_iso() => {
                let image = iso::of_template(&ctx, template).await?;
                let drive =
                    iso::Drive { guest: &self.vm_name, number: disk.value.disk_seq, force: self.forced };
                drive.insert(&ctx, image).await?;
                Ok(Reply::ok(AttachAnswer { disk: None }))
            }
            Some(Data::Volume(volume)) if !disk.value.is_iso() => {
                hotplug::attach(&ctx, &self.vm_name, &disk.value, volume).await?;
                Ok(Reply::ok(AttachAnswer { disk: Some(disk) }))
            }
            _ => Err(Fault::new("Only volumes and ISO images can be attached")),
        }
    }
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
