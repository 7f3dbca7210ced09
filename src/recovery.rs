//! Carries out what the journal says: undoes or finishes steps of commands.

use crate::errors::chain;
use crate::hypervisor::{Deletion, DomainState, Hypervisor, HypervisorError, Object, PowerState};
use crate::journal::{Action, Execute};
use crate::network::Bridges;
use crate::storage::Storage;
use std::future::Future;
use std::io::ErrorKind;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use uuid::Uuid;

/// For what moves data; nobody waits for it.
const LONG: Duration = Duration::from_secs(3600);

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
            Action::RemoveFile { path } => absent_is_fine(tokio::fs::remove_file(path).await),
            Action::RemoveDirectory { path } => remove_if_empty(path).await,
            Action::MoveBack { from, to } => absent_is_fine(tokio::fs::rename(from, to).await),
            Action::DestroyGuest { guest } => told(self.hypervisor.destroy(guest).await),
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
            Action::MergeOverlay { guest, device, base, overlay } => {
                self.merge(guest, device, base, overlay).await
            }
            Action::Unplug { bridge, delete } => {
                self.bridges.unplug(bridge, *delete).await.map(drop).map_err(|error| chain(&error))
            }
        }
    }

    /// Nothing that the guest has written may be lost, whether it still runs or not.
    async fn merge(&self, guest: &str, device: &str, base: &Path, overlay: &Path) -> Result<(), String> {
        let state = self.hypervisor.state(guest).await.map_err(|error| chain(&error))?;
        let runs = state.is_some_and(|(state, _)| state.power() == PowerState::On);
        if runs {
            let base = base.to_string_lossy();
            let merge = self.hypervisor.commit_and_pivot(guest, device, &base, false, LONG);
            merge.await.map_err(|error| chain(&error))?;
        } else if tokio::fs::try_exists(overlay).await.unwrap_or(true) {
            let merge = self.storage.images.commit(overlay, base, LONG);
            merge.await.map_err(|error| chain(&error))?;
        }
        absent_is_fine(tokio::fs::remove_file(overlay).await)
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

/// A guest that is gone has nothing left to undo.
fn absent_guest_is_fine(result: Result<(), HypervisorError>) -> Result<(), String> {
    match result {
        Err(error) if !error.is_not_found(Object::Guest) => Err(chain(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn absent_is_fine(result: std::io::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(chain(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn remove_if_empty(path: &Path) -> Result<(), String> {
    match tokio::fs::remove_dir(path).await {
        // Somebody else's files are in it by now.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        result => absent_is_fine(result),
    }
}
