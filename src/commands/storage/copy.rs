//! `org.apache.cloudstack.storage.command.CopyCommand`: templates, volumes and snapshots from one store
//! to another. What is copied where decides how; the steps are in the files beside this one.

use super::{copy_snapshot, copy_template, copy_volume, private_template};
use crate::commands::to::{Data, Store};
use crate::commands::{Claims, Command, Ctx, Fault, Reply, place};
use crate::wire::{Element, lenient};
use std::collections::BTreeMap;

/// Of `CopyCommand`; may have the secrets of managed storage, so it is never shown.
pub type Options = BTreeMap<String, Option<String>>;

#[derive(serde::Deserialize)]
pub struct CopyCommand {
    #[serde(default, rename = "srcTO")]
    source: Option<Data>,
    #[serde(default, rename = "destTO")]
    dest: Option<Data>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    options: Options,
    #[serde(default, deserialize_with = "lenient::or_default")]
    options2: Options,
}

impl std::fmt::Debug for CopyCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("CopyCommand");
        shown.field("source", &self.source).field("dest", &self.dest).finish_non_exhaustive()
    }
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyCmdAnswer {
    new_data: Element,
}

impl CopyCmdAnswer {
    pub fn new(new_data: Element) -> CopyCmdAnswer {
        CopyCmdAnswer { new_data }
    }
}

fn is_primary(data: &Data) -> bool {
    matches!(data.store(), Some(Store::Primary(_)))
}

impl Command for CopyCommand {
    type Answer = CopyCmdAnswer;
    const ANSWER: &'static str = "org.apache.cloudstack.storage.command.CopyCmdAnswer";

    fn claims(&self) -> Claims {
        let source = self.source.as_ref().map_or_else(Claims::none, place::shared);
        let dest = self.dest.as_ref().map_or_else(Claims::none, |dest| match dest {
            // Has no path yet: it is named by its uuid.
            Data::Template(template) => match dest.store().and_then(Store::primary) {
                Some(pool) => place::key(&pool.uuid, copy_template::name(template)).into(),
                None => Claims::none(),
            },
            other => place::exclusive(other),
        });
        source.and(dest)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<CopyCmdAnswer>, Fault> {
        let (Some(source), Some(dest)) = (&self.source, &self.dest) else {
            return Err(Fault::new("The command does not say what to copy, and where to"));
        };
        if let Some(key) = ["iqn", "path"]
            .iter()
            .find(|key| [&self.options, &self.options2].iter().any(|options| options.contains_key(**key)))
        {
            let text = format!("Option {key} is of managed storage, which this agent does not support");
            return Err(Fault::new(text));
        }
        let new_data = match (source, dest) {
            (Data::Template(template), dest) if !is_primary(source) && is_primary(dest) => {
                copy_template::to_primary(&ctx, template, dest).await?
            }
            (Data::Template(template), Data::Volume(volume)) if is_primary(source) && is_primary(dest) => {
                copy_template::clone(&ctx, template, volume).await?
            }
            (Data::Volume(from), Data::Volume(to)) => match (is_primary(source), is_primary(dest)) {
                (false, _) => copy_volume::from_secondary(&ctx, from, to).await?,
                (true, true) => copy_volume::between_pools(&ctx, from, to).await?,
                (true, false) => copy_volume::to_secondary(&ctx, from, to).await?,
            },
            (Data::Volume(volume), Data::Template(template)) if is_primary(source) => {
                private_template::from_volume(&ctx, volume, template).await?
            }
            (Data::Snapshot(snapshot), dest) => {
                return copy_snapshot::copy(&ctx, snapshot, dest, &self.options).await;
            }
            _ => return Err(Fault::new("A copy from this kind of store to that one is not supported")),
        };
        Ok(Reply::ok(CopyCmdAnswer { new_data }))
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
