//! `org.apache.cloudstack.storage.command.CreateObjectCommand`: a new volume, or a snapshot of one.

use super::{create_volume, take_snapshot};
use crate::commands::to::Data;
use crate::commands::{Claims, Command, Ctx, Fault, Key, Reply, place};
use crate::wire::Element;

#[derive(Debug, serde::Deserialize)]
pub struct CreateObjectCommand {
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Debug, serde::Serialize)]
pub struct CreateObjectAnswer {
    data: Element,
}

impl CreateObjectAnswer {
    pub fn new(data: Element) -> CreateObjectAnswer {
        CreateObjectAnswer { data }
    }
}

impl Command for CreateObjectCommand {
    type Answer = CreateObjectAnswer;
    const ANSWER: &'static str = "org.apache.cloudstack.storage.command.CreateObjectAnswer";

    fn claims(&self) -> Claims {
        match &self.data {
            Some(Data::Snapshot(snapshot)) => {
                let volume = snapshot.volume.clone().map(|volume| Data::Volume(Box::new(volume)));
                let of_volume = || snapshot.volume.as_ref().and_then(|volume| volume.vm_name.clone());
                let guest = snapshot.vm_name.clone().or_else(of_volume).map(Key::Guest);
                volume
                    .map_or_else(Claims::none, |volume| place::exclusive(&volume))
                    .and(guest.map_or_else(Claims::none, Claims::from))
            }
            Some(data) => place::exclusive(data),
            None => Claims::none(),
        }
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<CreateObjectAnswer>, Fault> {
        match &self.data {
            Some(Data::Volume(volume)) => {
                Ok(Reply::ok(CreateObjectAnswer { data: create_volume::create(&ctx, volume).await? }))
            }
            Some(Data::Snapshot(snapshot)) => take_snapshot::take(&ctx, snapshot).await,
            Some(Data::Template(_) | Data::Other { .. }) | None => {
                Err(Fault::new("Only volumes and snapshots can be created: unsupported type"))
            }
        }
    }
}

#[cfg(test)]
#[path = "create_object_tests.rs"]
mod tests;
