//! Snapshots of guests, and what libvirt remembers of them.

use std::time::Duration;

use super::error::{Object, Result};
use super::libvirt::snapshots;
use super::{Existence, Hypervisor, QUERY_DEADLINE, checked};

/// How a snapshot is taken; the default is one of memory and disks, inside the disk images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotOptions {
    pub disk_only: bool,
    /// All disks or none.
    pub atomic: bool,
    /// libvirt forgets it at once, so that it is in nobody's way.
    pub no_metadata: bool,
    /// The guest agent brings the file systems into a sound state before.
    pub quiesce: bool,
    /// Only tells libvirt of a snapshot that exists.
    pub redefine: bool,
    /// What is redefined becomes the current one.
    pub current: bool,
}

/// A snapshot that libvirt remembers.
#[derive(Clone, PartialEq, Eq)]
pub struct SnapshotFacts {
    pub name: String,
    /// With all that a redefinition needs, passwords included.
    pub xml: String,
    pub current: bool,
    pub parent: Option<String>,
    /// Seconds since 1970.
    pub creation_time: Option<u64>,
}

impl std::fmt::Debug for SnapshotFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotFacts")
            .field("name", &self.name)
            .field("current", &self.current)
            .field("parent", &self.parent)
            .finish_non_exhaustive()
    }
}

/// What is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The snapshot and what libvirt knows of it.
    Everything,
    /// What libvirt knows of it.
    MetadataOnly,
}

impl Hypervisor {
    pub async fn create_snapshot(
        &self,
        name: &str,
        xml: &str,
        options: SnapshotOptions,
        deadline: Duration,
    ) -> Result<()> {
        let (name, xml) = (checked(Object::Guest, name)?, xml.to_owned());
        let create = move |link: &_| snapshots::create(link, &name, &xml, options);
        self.change_within("taking a snapshot", deadline, create).await
    }

    /// `Absent` without that snapshot; a guest that is missing is an error.
    pub async fn delete_snapshot(
        &self,
        name: &str,
        snapshot: &str,
        what: Deletion,
        deadline: Duration,
    ) -> Result<Existence> {
        let (name, snapshot) = (checked(Object::Guest, name)?, checked(Object::Snapshot, snapshot)?);
        let delete = move |link: &_| snapshots::delete(link, &name, &snapshot, what);
        self.change_within("deleting a snapshot", deadline, delete).await
    }

    pub async fn revert_to_snapshot(&self, name: &str, snapshot: &str, deadline: Duration) -> Result<()> {
        let (name, snapshot) = (checked(Object::Guest, name)?, checked(Object::Snapshot, snapshot)?);
        let revert = move |link: &_| snapshots::revert(link, &name, &snapshot);
        self.change_within("reverting to a snapshot", deadline, revert).await
    }

    /// What libvirt remembers, parents before their children.
    pub async fn snapshots(&self, name: &str) -> Result<Vec<SnapshotFacts>> {
        let name = checked(Object::Guest, name)?;
        self.call("listing snapshots", QUERY_DEADLINE, move |link| snapshots::list(link, &name)).await
    }

    /// Makes libvirt forget all snapshots of a guest, which would keep it from migrating; gives what
    /// [`Hypervisor::remember_snapshots`] needs.
    pub async fn forget_snapshots(&self, name: &str) -> Result<Vec<SnapshotFacts>> {
        let name = checked(Object::Guest, name)?;
        self.change("forgetting snapshots", move |link| snapshots::forget(link, &name)).await
    }

    pub async fn remember_snapshots(&self, name: &str, known: Vec<SnapshotFacts>) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        self.change("redefining snapshots", move |link| snapshots::remember(link, &name, &known)).await
    }
}
