//! `com.cloud.agent.api.storage.MergeDiskOnlyVmSnapshotCommand` (4.21): a snapshot of disks is given up.
//! What the file over it has goes into its own file, which takes its place.
//!
//! An interrupted merge can be done again from its beginning: until the upper file is deleted, it has
//! everything that it had.

use super::files;
use super::layers::{self, Layer};
use super::overlays;
use crate::commands::to::Data;
use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply, place};
use crate::hypervisor::{BlockCommit, xml::DiskDescription};
use crate::journal::{Action, Work};
use crate::storage::qemu_img::ImageFormat;
use crate::wire::lenient;
use std::path::Path;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MergeDiskOnlyVmSnapshotCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    snapshot_merge_tree_to_list: Vec<SnapshotMergeTreeTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
    /// A `VirtualMachine.State`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_state: String,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SnapshotMergeTreeTo {
    /// Takes the child in.
    parent: Option<Data>,
    /// A snapshot, or the volume itself.
    child: Option<Data>,
    /// All that is over the child.
    #[serde(deserialize_with = "lenient::or_default")]
    grand_children: Vec<Data>,
}

impl Command for MergeDiskOnlyVmSnapshotCommand {
    type Answer = NoFields;

    fn claims(&self) -> Claims {
        let trees = self.snapshot_merge_tree_to_list.iter();
        let all = trees.flat_map(|tree| tree.parent.iter().chain(&tree.child).chain(&tree.grand_children));
        all.map(place::exclusive).fold(Claims::from(Key::Guest(self.vm_name.clone())), Claims::and)
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let guest = &self.vm_name;
        let runs = layers::runs_here(&ctx, guest, &self.vm_state).await?;
        let mut trees = Vec::new();
        for tree in &self.snapshot_merge_tree_to_list {
            let mut grandchildren = Vec::new();
            for data in &tree.grand_children {
                grandchildren.push(Layer::of(&ctx, Some(data)).await?);
            }
            let (parent, child) = (tree.parent.as_ref(), tree.child.as_ref());
            let (parent, child) = (Layer::of(&ctx, parent).await?, Layer::of(&ctx, child).await?);
            trees.push(Tree { parent, child, grandchildren });
        }
        let mut work = ctx.services.journal.begin("merge layers of disks", guest, &ctx.logid).await;
        let result = async {
            for tree in &trees {
                let disks = if runs { overlays::disks(&ctx, guest).await? } else { Vec::new() };
                tree.merge(&ctx, &mut work, guest, &disks).await?;
            }
            Ok::<(), Fault>(())
        };
        let result = result.await;
        work.settle(result).await?;
        tracing::info!(guest, disks = trees.len(), "Snapshot of the guest's disks is merged");
        Ok(Reply::done())
    }
}

struct Tree {
    parent: Layer,
    child: Layer,
    grandchildren: Vec<Layer>,
}

/// Where the guest that runs has a layer.
enum Seat<'a> {
    /// It writes to it.
    Top(&'a DiskDescription),
    /// It reads it through others.
    Below(&'a DiskDescription),
    Nowhere,
}

fn seat<'a>(disks: &'a [DiskDescription], layer: &Layer) -> Seat<'a> {
    let is = |text: &String| Path::new(text) == layer.path;
    if let Some(disk) = disks.iter().find(|disk| disk.source.as_ref().is_some_and(is)) {
        return Seat::Top(disk);
    }
    match disks.iter().find(|disk| disk.backing.iter().any(is)) {
        Some(disk) => Seat::Below(disk),
        None => Seat::Nowhere,
    }
}

impl Tree {
    async fn merge(
        &self,
        ctx: &Ctx,
        work: &mut Work,
        guest: &str,
        disks: &[DiskDescription],
    ) -> Result<(), Fault> {
        match (seat(disks, &self.child), seat(disks, &self.parent)) {
            (Seat::Top(disk), _) => {
                let give_up = self.prepared(ctx, work, guest, disk).await?;
                let (base, deadline) = (self.parent.path.to_string_lossy(), files::deadline(ctx));
                let hypervisor = &ctx.services.hypervisor;
                hypervisor.commit_and_pivot(guest, &disk.target, &base, false, deadline).await?;
                // From here on it is older than its parent: nobody may start from it.
                ctx.services.storage.disks.delete(&self.child.path).await?;
                Ok(work.forget(&give_up).await?)
            }
            (Seat::Below(disk), _) => {
                let give_up = self.prepared(ctx, work, guest, disk).await?;
                let commit = BlockCommit {
                    disk: disk.target.clone(),
                    base: self.parent.path.to_string_lossy().into_owned(),
                    top: Some(self.child.path.to_string_lossy().into_owned()),
                    delete: false,
                };
                ctx.services.hypervisor.commit_and_wait(guest, commit, files::deadline(ctx)).await?;
                work.forget(&give_up).await?;
                self.finish(ctx, work, Some(disk)).await
            }
            (Seat::Nowhere, Seat::Top(disk) | Seat::Below(disk)) if self.is_merged(ctx).await? => {
                self.finish(ctx, work, Some(disk)).await
            }
            (Seat::Nowhere, Seat::Top(_) | Seat::Below(_)) => Err(Fault::new(format!(
                "{} is read by {guest}, which runs and does not use {}: stop the guest before they are merged",
                self.parent.path.display(),
                self.child.path.display()
            ))),
            (Seat::Nowhere, Seat::Nowhere) => self.merge_at_rest(ctx, work).await,
        }
    }

    /// Writes down how a merge in a guest that runs is given up.
    async fn prepared(
        &self,
        ctx: &Ctx,
        work: &mut Work,
        guest: &str,
        disk: &DiskDescription,
    ) -> Result<Action, Fault> {
        self.only_grandchildren(ctx, Some(disk)).await?;
        let (guest, device) = (guest.to_owned(), disk.target.clone());
        let (base, overlay) = (self.parent.path.clone(), self.child.path.clone());
        let give_up = Action::CancelMerge { guest, device, base, overlay };
        work.before(give_up.clone()).await?;
        Ok(give_up)
    }

    async fn merge_at_rest(&self, ctx: &Ctx, work: &mut Work) -> Result<(), Fault> {
        if self.child.exists(ctx).await? {
            files::not_in_use(ctx, &self.child.path).await?;
            files::not_in_use(ctx, &self.parent.path).await?;
            self.only_grandchildren(ctx, None).await?;
            let images = &ctx.services.storage.images;
            images.commit(&self.child.path, &self.parent.path, files::deadline(ctx)).await?;
        } else if !self.is_merged(ctx).await? {
            return Err(Fault::new(format!("{} was not found", self.child.path.display())));
        }
        self.finish(ctx, work, None).await
    }

    /// Once the parent has all that the child has.
    async fn finish(&self, ctx: &Ctx, work: &mut Work, disk: Option<&DiskDescription>) -> Result<(), Fault> {
        for grandchild in &self.grandchildren {
            // QEMU does it itself with those that a guest has open.
            if !uses(disk, &grandchild.path)
                && grandchild.backing(ctx).await?.as_ref() == Some(&self.child.path)
            {
                let images = &ctx.services.storage.images;
                images.rebase_unsafe(&grandchild.path, &self.parent.path, ImageFormat::Qcow2).await?;
            }
        }
        Ok(work.after_commit(Action::RemoveFile { path: self.child.path.clone() }).await?)
    }

    /// Whether an earlier attempt got so far that the parent has all that the child has.
    async fn is_merged(&self, ctx: &Ctx) -> Result<bool, Fault> {
        for grandchild in &self.grandchildren {
            if grandchild.backing(ctx).await?.as_ref() == Some(&self.parent.path) {
                return Ok(true);
            }
        }
        Ok(!self.child.exists(ctx).await? && self.parent.exists(ctx).await?)
    }

    /// What is based on the parent changes with it, and what is based on the child loses it: no image
    /// may be that the server has not named and that the guest does not use.
    async fn only_grandchildren(&self, ctx: &Ctx, disk: Option<&DiskDescription>) -> Result<(), Fault> {
        let (parent, child) = (self.parent.path.display(), self.child.path.display());
        let known = |path: &Path| {
            path == self.child.path
                || uses(disk, path)
                || self.grandchildren.iter().any(|one| one.path == path)
        };
        let volumes = &ctx.services.storage.volumes;
        let mut over_parent = volumes.based_on(&self.parent.pool.local_path, &self.parent.path).await?;
        if !over_parent.contains(&self.child.path) {
            return Err(Fault::new(format!("{child} is not based on {parent}")));
        }
        over_parent.retain(|path| !known(path));
        if let Some(other) = over_parent.first() {
            let other = other.display();
            return Err(Fault::new(format!("{other} is based on {parent} too, which must not change")));
        }
        let over_child = volumes.based_on(&self.child.pool.local_path, &self.child.path).await?;
        match over_child.iter().find(|path| !known(path)) {
            Some(other) => Err(Fault::new(format!(
                "{} is based on {child}, of which the server says nothing",
                other.display()
            ))),
            None => Ok(()),
        }
    }
}

/// Whether the disk of a guest that runs is on that file, or reads it through others.
fn uses(disk: Option<&DiskDescription>, path: &Path) -> bool {
    disk.is_some_and(|disk| disk.source.iter().chain(&disk.backing).any(|layer| Path::new(layer) == path))
}
