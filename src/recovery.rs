//! Carries out what the journal says: undoes or finishes steps of commands.

use crate::errors::chain;
use crate::hypervisor::{
    Deletion, Detached, DomainState, Hypervisor, HypervisorError, JobEnd, Object, Passwords, PowerState,
};
use crate::journal::{Action, Execute};
use crate::network::Bridges;
use crate::storage::Storage;
use crate::storage::disk::DEADLINE;
use crate::storage::names::RelativePath;
use crate::storage::volumes::VolumeError;
use std::future::Future;
use std::io::ErrorKind;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use uuid::Uuid;

/// For what moves data; nobody waits for it.
const LONG: Duration = Duration::from_secs(3600);
/// For a guest to give a device up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has a handle to everything that actions touch.
#[derive(Debug, Clone)]
pub struct Recovery {
    pub hypervisor: Hypervisor,
    pub storage: Storage,
    pub bridges: Bridges,
}

impl Execute for Recovery {
    fn execute<'a>(
        &'a self,
        action: &'a Action,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(self.perform(action))
    }
}

impl Recovery {
    async fn perform(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::RemoveFile { path } => self.delete(path).await,
            Action::RemoveDirectory { path } => self.remove_if_empty(path).await,
            Action::RemoveStored { url, path, directory } => self.remove_stored(url, path, *directory).await,
            Action::MoveBack { from, to } => self.move_back(from, to).await,
            Action::DestroyGuest { guest } => told(self.hypervisor.destroy(guest).await),
            Action::CancelMerge { guest, device, base, overlay } => {
                self.cancel_merge(guest, device, base, overlay).await
            }
            Action::ResumeGuest { guest } => self.resume(guest).await,
            Action::UndefineSecret { uuid } => match Uuid::try_parse(uuid) {
                Ok(uuid) => told(self.hypervisor.undefine_secret(uuid).await),
                Err(error) => Err(chain(&error)),
            },
            Action::DeleteGuestSnapshot { guest, snapshot } => {
                let delete =
                    self.hypervisor.delete_snapshot(guest, snapshot, Deletion::Everything, LONG).await;
                absent_guest_is_fine(delete.map(drop))
            }
            Action::DetachDisk { guest, source } => {
                taken(action, self.hypervisor.detach_disk(guest, source, PATIENCE).await)
            }
            Action::DetachInterface { guest, mac } => {
                taken(action, self.hypervisor.detach_interface(guest, mac, PATIENCE).await)
            }
            Action::MoveInterface { guest, mac, bridge } => {
                let moved = self.hypervisor.move_interface(guest, mac, bridge).await;
                if let Err(error) = absent_guest_is_fine(moved.map(drop)) {
                    // Its old bridge has gone with the last card; where it is now the guest has a network.
                    tracing::warn!("Cannot {action}, it stays where it is: {error}");
                }
                Ok(())
            }
            Action::MergeOverlay { guest, device, base, overlay } => {
                self.merge(guest, device, base, overlay).await
            }
            Action::EndCopy { guest, device, target, may_be_moved } => {
                self.end_copy(guest, device, target, *may_be_moved).await
            }
            Action::Unplug { bridge, delete } => {
                self.bridges.unplug(bridge, *delete).await.map(drop).map_err(|error| chain(&error))
            }
        }
    }

    async fn remove_stored(&self, url: &str, path: &str, directory: bool) -> Result<(), String> {
        let path = RelativePath::new(path).map_err(|error| chain(&error))?;
        let mounted = self.storage.pools.secondary(url).await.map_err(|error| chain(&error))?;
        let path = path.under(mounted.path());
        let removed = if directory {
            self.remove_if_empty(&path).await
        } else {
            if let Some(beside) = path.parent()
                && let Err(error) = self.storage.volumes.sweep(beside).await
            {
                tracing::warn!("{}", chain(&error));
            }
            self.delete(&path).await
        };
        if let Err(error) = mounted.release().await {
            tracing::warn!("{}", chain(&error));
        }
        removed
    }

    /// As everything here that touches storage: a dead server must not hold up the rest of the journal.
    async fn delete(&self, path: &Path) -> Result<(), String> {
        self.storage.disks.delete(path).await.map_err(|error| chain(&error))
    }

    async fn remove_if_empty(&self, path: &Path) -> Result<(), String> {
        let remove = |path: &Path| match std::fs::remove_dir(path) {
            // Somebody else's files are in it by now.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            result => absent_is_fine(result),
        };
        let removed = self.storage.disks.run("removing", path, DEADLINE, remove);
        removed.await.map_err(|error| chain(&error))
    }

    async fn move_back(&self, from: &Path, to: &Path) -> Result<(), String> {
        let from = from.to_owned();
        let rename = move |to: &Path| absent_is_fine(std::fs::rename(&from, to));
        let moved = self.storage.disks.run("moving back", to, DEADLINE, rename);
        moved.await.map_err(|error| chain(&error))
    }

    /// Nothing that the guest has written may be lost, whether it still runs or not.
    async fn merge(&self, guest: &str, device: &str, base: &Path, overlay: &Path) -> Result<(), String> {
        if self.runs(guest).await? {
            let base = base.to_string_lossy();
            let merge = self.hypervisor.commit_and_pivot(guest, device, &base, false, LONG);
            merge.await.map_err(|error| chain(&error))?;
        } else if self.storage.disks.exists(overlay).await.unwrap_or(true) {
            let merge = self.storage.images.commit(overlay, base, LONG);
            merge.await.map_err(|error| chain(&error))?;
        }
        self.delete(overlay).await
    }

    /// The target must not go if the guest writes to it, or may have done so before it ended.
    async fn end_copy(&self, guest: &str, device: &str, target: &Path, moved: bool) -> Result<(), String> {
        let path = target.to_string_lossy();
        let on_target = self.hypervisor.is_disk_on(guest, device, &path).await;
        match on_target.map_err(|error| chain(&error))? {
            Some(true) => {
                tracing::warn!(guest, device, target = %path, "The guest's disk has moved, although the server was not told so");
                return Ok(());
            }
            Some(false) => {
                self.hypervisor.cancel_copy(guest, device).await.map_err(|error| chain(&error))?;
            }
            None if moved => {
                tracing::warn!(guest, device, target = %path, "The guest has ended, and its last writes may be in the target of a move: the file is kept");
                return Ok(());
            }
            None => {}
        }
        self.delete(target).await
    }

    async fn cancel_merge(
        &self,
        guest: &str,
        device: &str,
        base: &Path,
        overlay: &Path,
    ) -> Result<(), String> {
        if !self.runs(guest).await? {
            return Ok(());
        }
        if self.hypervisor.block_job(guest, device).await.map_err(|error| chain(&error))?.is_some() {
            let cancelled = self.hypervisor.end_block_job(guest, device, JobEnd::Cancel).await;
            cancelled.map_err(|error| chain(&error))?;
        }
        let found = self.hypervisor.describe(guest, Passwords::LeftOut).await;
        let found = found.map_err(|error| chain(&error))?;
        let disk = found.iter().flat_map(|guest| &guest.description.disks).find(|disk| disk.target == device);
        let has = |file: &Path| {
            disk.is_some_and(|disk| {
                disk.source.iter().chain(&disk.backing).any(|layer| Path::new(layer) == file)
            })
        };
        if !has(base) || has(overlay) {
            return Ok(());
        }
        // Others may still be based on it; the next attempt to merge finds them.
        let directory = overlay.parent().unwrap_or(overlay);
        match self.storage.volumes.delete(directory, overlay).await {
            Ok(()) | Err(VolumeError::InUse { .. }) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn runs(&self, guest: &str) -> Result<bool, String> {
        let state = self.hypervisor.state(guest).await.map_err(|error| chain(&error))?;
        Ok(state.is_some_and(|(state, _)| state.power() == PowerState::On))
    }

    async fn resume(&self, guest: &str) -> Result<(), String> {
        match self.hypervisor.state(guest).await {
            Ok(Some((DomainState::Paused, _))) => absent_guest_is_fine(self.hypervisor.resume(guest).await),
            Ok(_) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }
}

fn told<T>(result: Result<T, HypervisorError>) -> Result<(), String> {
    result.map(drop).map_err(|error| chain(&error))
}

/// A guest that does not give the device up is not asked again: by the next start of the agent the server
/// may have plugged it in anew, and would lose it.
fn taken<T>(action: &Action, result: Result<Detached<T>, HypervisorError>) -> Result<(), String> {
    match result {
        Ok(Detached::Kept(_)) => {
            tracing::warn!("The guest does not react, it was to {action}: detach it with virsh");
            Ok(())
        }
        Ok(Detached::Absent | Detached::Gone(_)) | Err(HypervisorError::NotRunning { .. }) => Ok(()),
        Err(error) => absent_guest_is_fine(Err(error)),
    }
}

/// A guest that is gone has nothing left to undo.
fn absent_guest_is_fine(result: Result<(), HypervisorError>) -> Result<(), String> {
    match result {
        Err(error) if !error.is_not_found(Object::Guest) => Err(chain(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
