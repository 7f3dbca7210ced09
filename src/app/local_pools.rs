//! Makes the local pools that the configuration names known to the storage commands, and clears away
//! what earlier lives of the agent have left unfinished in them. Nothing waits for this.

use crate::commands::Services;
use crate::config::{Config, FileState};
use crate::errors::chain;
use crate::storage::disk::DEADLINE;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Does so once libvirt answers. Pools that have no id yet get one with the registration, which changes
/// the file; other changes of local pools wait for a restart.
pub async fn follow(services: Arc<Services>) {
    services.hypervisor.connected().await;
    let mut file = services.config.subscribe();
    let mut known = BTreeSet::new();
    loop {
        let current = file.borrow_and_update().clone();
        if let FileState::Loaded(config) = &*current {
            let new: Vec<_> = pools(config).filter(|pool| known.insert(pool.clone())).collect();
            for (uuid, path) in &new {
                services.storage.pools.remember_local(*uuid, path);
            }
            for (_, path) in &new {
                clear(&services, path).await;
            }
        }
        if file.changed().await.is_err() {
            return;
        }
    }
}

fn pools(config: &Config) -> impl Iterator<Item = (Uuid, PathBuf)> {
    config.local_storage.iter().filter_map(|pool| Some((pool.uuid?, pool.path.clone())))
}

async fn clear(services: &Services, pool: &Path) {
    if let Err(error) = services.storage.volumes.sweep(pool).await {
        tracing::warn!("{}", chain(&error));
    }
    let downloads = services.downloads.clone();
    let cleared =
        services.storage.disks.run("looking for unfinished downloads in", pool, DEADLINE, move |pool| {
            downloads.clear(pool);
            Ok(())
        });
    if let Err(error) = cleared.await {
        tracing::warn!("{}", chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use crate::config::Change;
    use crate::storage::pools::PoolRef;
    use crate::storage::testing::until_gone;
    use crate::storage::volumes::testing::{leftover, unfinished};

    const FIRST: &str = "9572a059-c161-4d90-8fb4-2cc51dcc2325";
    const SECOND: &str = "3a9b1a62-6e7d-4e8c-9b79-2e3a7d2fa0c2";

    /// A directory with a volume, one that this agent works on, and one that a dead one worked on.
    fn filled() -> tempfile::TempDir {
        let pool = tempfile::tempdir().unwrap();
        std::fs::create_dir(pool.path().join("snapshots")).unwrap();
        for file in ["v".into(), unfinished("v"), leftover("v"), format!("snapshots/{}", leftover("s"))] {
            std::fs::write(pool.path().join(file), "x").unwrap();
        }
        pool
    }

    async fn cleared(pool: &Path) {
        until_gone(&pool.join(leftover("v"))).await;
        until_gone(&pool.join("snapshots").join(leftover("s"))).await;
        let entries = std::fs::read_dir(pool).unwrap().map(Result::unwrap);
        let names: BTreeSet<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert_eq!(names, ["v".into(), unfinished("v"), "snapshots".into()].into());
    }

    #[tokio::test]
    async fn what_a_dead_agent_left_goes_and_what_is_in_work_stays() {
        let (first, second) = (filled(), filled());
        let lines = format!(
            "local.storage.path={},{}\nlocal.storage.uuid={FIRST},{SECOND}\n",
            first.path().display(),
            second.path().display()
        );
        let bench = Bench::with_properties(&lines).await;
        let task = tokio::spawn(follow(bench.ctx.services.clone()));
        cleared(first.path()).await;
        cleared(second.path()).await;
        // libvirt does not know it, and the command does not say where it is.
        let reference = PoolRef { uuid: SECOND, ..PoolRef::default() };
        let found = bench.ctx.services.storage.pools.get(reference).await.unwrap();
        assert_eq!(found.local_path, second.path());
        task.abort();
    }

    #[tokio::test]
    async fn a_pool_that_gets_its_id_later_is_cleared_then() {
        let pool = filled();
        let bench = Bench::with_properties(&format!("local.storage.path={}\n", pool.path().display())).await;
        let task = tokio::spawn(follow(bench.ctx.services.clone()));
        let change = Change { key: "local.storage.uuid", value: Some(FIRST.to_owned()) };
        bench.ctx.services.config.persist(vec![change]).await.unwrap();
        cleared(pool.path()).await;
        task.abort();
    }
}
