//! Removes what was named, after looking again at everything, one finding after the other.

use super::{GatherError, Kind, Orphan, Tools};
use crate::hypervisor::HypervisorError;
use crate::network::{NetworkError, Unplugged};
use crate::storage::disk::DiskError;
use rustix::mount::UnmountFlags;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

const UNMOUNT: Duration = Duration::from_secs(30);

/// Why something was not removed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("It is not among the orphans now: it is used, was asked for, or is gone; list them again")]
    NotListed,
    #[error("{} is based on it: name that too", by.join(" and "))]
    Needed { by: Vec<String> },
    #[error("A process has it open for writing")]
    Locked,
    #[error("The guest runs now")]
    Running,
    #[error("The bridge has port {port}")]
    Plugged { port: String },
    #[error("The id in its name does not read")]
    Name { source: uuid::Error },
    #[error("What is in use is not known")]
    Gather { source: GatherError },
    #[error("libvirt refuses")]
    Hypervisor { source: HypervisorError },
    #[error("Its file system refuses")]
    Disk { source: DiskError },
    #[error("The bridge cannot be removed")]
    Bridge { source: NetworkError },
}

/// What became of one id.
#[derive(Debug)]
pub struct Outcome {
    pub id: String,
    pub result: Result<Orphan, Refused>,
}

impl Tools {
    /// Removes what is named, what is based on others first.
    pub async fn remove(&self, ids: &[String]) -> Vec<Outcome> {
        let mut waiting: Vec<String> = Vec::new();
        for id in ids.iter().filter(|id| !id.is_empty()) {
            if !waiting.contains(id) {
                waiting.push(id.clone());
            }
        }
        let mut outcomes = Vec::new();
        while !waiting.is_empty() {
            let orphans = match self.scan().await {
                Ok(found) => found.orphans,
                Err(source) => {
                    // The same for all of them, so the rest is told without asking again.
                    outcomes.push(Outcome { id: waiting.remove(0), result: Err(Refused::Gather { source }) });
                    continue;
                }
            };
            let find = |id: &String| orphans.iter().find(|orphan| orphan.id == *id);
            // The first that nothing needs which is still to be removed.
            let ready = |id: &String| {
                find(id).is_none_or(|orphan| !orphan.needed_by.iter().any(|above| waiting.contains(above)))
            };
            let next = waiting.iter().position(ready).unwrap_or(0);
            let id = waiting.remove(next);
            let result = match find(&id) {
                None => Err(Refused::NotListed),
                Some(orphan) => self.remove_one(orphan).await.map(|()| orphan.clone()),
            };
            log(&id, &result);
            outcomes.push(Outcome { id, result });
        }
        outcomes
    }

    async fn remove_one(&self, orphan: &Orphan) -> Result<(), Refused> {
        if !orphan.needed_by.is_empty() {
            return Err(Refused::Needed { by: orphan.needed_by.clone() });
        }
        let path = Path::new(&orphan.name);
        match orphan.kind {
            Kind::Domain => self.undefine(&orphan.name).await,
            Kind::Volume | Kind::Snapshot | Kind::ConfigDrive | Kind::Nvram | Kind::Unfinished => {
                // What is no image, or a damaged one, has no lock; that it is not open was seen already.
                if self.images.is_locked(path).await.unwrap_or(false) {
                    return Err(Refused::Locked);
                }
                self.disks.delete(path).await.map_err(|source| Refused::Disk { source })
            }
            Kind::Bridge => match self.bridges.unplug(&orphan.name, true).await {
                Ok(Unplugged::Removed | Unplugged::Absent) => Ok(()),
                Ok(Unplugged::InUse { port }) => Err(Refused::Plugged { port: port.unwrap_or_default() }),
                Ok(Unplugged::NotOurs | Unplugged::Persistent) => Err(Refused::NotListed),
                Err(source) => Err(Refused::Bridge { source }),
            },
            Kind::Mount => {
                let unmount = self.disks.run("unmounting", path, UNMOUNT, |path| {
                    // Fails if anyone uses it.
                    rustix::mount::unmount(path, UnmountFlags::empty())?;
                    // With something in it, it stays.
                    let _ = std::fs::remove_dir(path);
                    Ok(())
                });
                unmount.await.map_err(|source| Refused::Disk { source })
            }
            Kind::Secret => {
                let uuid = Uuid::try_parse(&orphan.name).map_err(|source| Refused::Name { source })?;
                let undefined = self.hypervisor.undefine_secret(uuid).await;
                undefined.map(drop).map_err(|source| Refused::Hypervisor { source })
            }
        }
    }

    async fn undefine(&self, guest: &str) -> Result<(), Refused> {
        let hypervisor = |source| Refused::Hypervisor { source };
        match self.hypervisor.state(guest).await.map_err(hypervisor)? {
            Some((state, _)) if state.power() != crate::hypervisor::PowerState::Off => Err(Refused::Running),
            // UEFI variables are a finding of their own then.
            Some(_) => self.hypervisor.undefine(guest).await.map(drop).map_err(hypervisor),
            None => Ok(()),
        }
    }
}

fn log(id: &str, result: &Result<Orphan, Refused>) {
    match result {
        Ok(orphan) => {
            let owner = orphan.owner.as_deref().unwrap_or("unknown");
            tracing::warn!(id, name = orphan.name, bytes = orphan.bytes, owner, "Orphan removed on request");
        }
        Err(error) => {
            let reason = crate::errors::chain(error);
            tracing::warn!(id, reason, "Orphan not removed");
        }
    }
}
