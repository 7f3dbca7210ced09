//! Carries out what the journal says: undoes or finishes steps of commands.

use crate::errors::chain;
use crate::hypervisor::Hypervisor;
use crate::journal::{Action, Execute};
use std::future::Future;
use std::io::ErrorKind;
use std::path::Path;
use std::pin::Pin;

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
            other => Err(format!("cannot {other}")),
        }
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
