//! Carries out what the journal says: undoes or finishes steps of commands.

use crate::errors::chain;
use crate::hypervisor::{Deletion, DomainState, Hypervisor, HypervisorError, Object};
use crate::journal::{Action, Execute};
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
            other => Err(format!("cannot {other}")),
        }
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
