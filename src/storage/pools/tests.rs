//! On libvirt's test driver, with a tmpfs in the place of NFS.

use super::*;
use crate::storage::disk::Disks;
use crate::storage::mounts::{MountError, Programs, Timing};
use crate::storage::testing::Nfs;

const UUID: &str = "6f1c8c5e-30d1-4b57-9a52-3a0d4c0f9e01";

/// Pools on a fresh hypervisor.
async fn pools(directory: &Path, mounts: Mounts) -> Pools {
    let properties = directory.join("agent.properties");
    let text = format!("guid=g\nhost=127.0.0.1\nmount.path={}\n", directory.join("mnt").display());
    std::fs::write(&properties, text).unwrap();
    let config = ConfigStore::spawn(properties);
    // A node of its own: the default one is shared by all tests of the process.
    let node = directory.join("node.xml");
    std::fs::write(&node, "<node/>").unwrap();
    let hypervisor = Hypervisor::spawn(&format!("test://{}", node.display()));
    hypervisor.connected().await;
    Pools::new(config, hypervisor, mounts, Disks::default())
}

fn no_mounts() -> Mounts {
    Mounts::spawn(Programs { mount: None, umount: None }, Timing::default(), Disks::default())
}

fn local<'a>(path: &'a str) -> PoolRef<'a> {
    PoolRef { uuid: UUID, kind: Some("Filesystem"), host: Some("localhost"), path: Some(path), options: None }
}

fn nfs_pool<'a>() -> PoolRef<'a> {
    PoolRef { kind: Some("NetworkFilesystem"), host: Some("10.0.0.1"), ..local("/export/primary") }
}

#[tokio::test]
async fn a_local_pool_is_made_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let pools = pools(directory.path(), no_mounts()).await;
    let made = pools.create(local("/tmp/")).await.unwrap();
    assert_eq!(made.pool.local_path, Path::new("/tmp"));
    assert!(made.capacity > 0);
    // By UUID alone, as commands about volumes name pools.
    let known = PoolRef { uuid: UUID, ..PoolRef::default() };
    assert_eq!(pools.get(known).await.unwrap(), made.pool);
    let shared = PoolRef { kind: Some("SharedMountPoint"), ..known };
    assert_eq!(pools.get(shared).await.unwrap().kind, PoolKind::SharedMountPoint);
}

#[tokio::test]
async fn a_pool_whose_directory_is_gone_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let pools = pools(directory.path(), no_mounts()).await;
    let gone = directory.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let reference = local(gone.to_str().unwrap());
    pools.create(reference).await.unwrap();
    pools.get(reference).await.unwrap();
    std::fs::remove_dir(&gone).unwrap();
    let error = pools.get(reference).await.unwrap_err().to_string();
    assert!(error.contains(gone.to_str().unwrap()) && error.contains("does not exist"), "{error}");
}

#[tokio::test]
async fn a_pool_that_libvirt_forgot_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let pools = pools(directory.path(), no_mounts()).await;
    let known = PoolRef { uuid: UUID, ..PoolRef::default() };
    let error = pools.get(known).await.unwrap_err();
    assert!(error.to_string().contains("not found"), "{error}");
    // What the command says is enough.
    let from_command = pools.get(local("/tmp")).await.unwrap();
    pools.hypervisor.destroy_pool(UUID).await.unwrap();
    // So is what an earlier one has said.
    assert_eq!(pools.get(known).await.unwrap(), from_command);
    pools.hypervisor.destroy_pool(UUID).await.unwrap();
    pools.remove(Uuid::try_parse(UUID).unwrap()).await.unwrap();
    assert!(matches!(pools.get(known).await.unwrap_err(), PoolError::Unknown { .. }));
}

#[tokio::test]
async fn without_libvirt_known_files_can_be_worked_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut pools = pools(directory.path(), no_mounts()).await;
    let made = pools.create(local("/tmp")).await.unwrap();
    pools.hypervisor = Hypervisor::spawn("test:///no/such/file.xml");
    assert_eq!(pools.get(local("/tmp")).await.unwrap(), made.pool);
    let other = PoolRef { uuid: "6f1c8c5e-30d1-4b57-9a52-3a0d4c0f9e02", ..PoolRef::default() };
    assert!(matches!(pools.get(other).await.unwrap_err(), PoolError::Libvirt { .. }));
}

#[tokio::test]
async fn pools_without_files_are_refused_before_libvirt_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let pools = pools(directory.path(), no_mounts()).await;
    for kind in ["RBD", "CLVM", "PowerFlex"] {
        let error = pools.get(PoolRef { kind: Some(kind), ..local("/x") }).await.unwrap_err();
        assert!(error.to_string().contains(kind), "{error}");
    }
}

#[tokio::test]
async fn an_nfs_pool_is_mounted_by_the_agent_and_shown_to_libvirt() {
    let Some(nfs) = Nfs::new().await else { return };
    let pools = pools(nfs.directory.path(), nfs.mounts.clone()).await;
    let made = pools.create(nfs_pool()).await.unwrap();
    let path = nfs.root().join(UUID);
    assert_eq!((made.pool.kind, &made.pool.local_path), (PoolKind::NetworkFilesystem, &path));
    assert_eq!(mounted_at(&path).unwrap().unwrap().source, "10.0.0.1:/export/primary");
    // Guests' disks wait for a server that is away.
    assert!(!nfs.log()[0].contains("soft"), "{:?}", nfs.log());
    let shown = pools.hypervisor.net_pools().await.unwrap();
    let shown = shown.iter().find(|pool| pool.uuid == made.pool.uuid).unwrap();
    assert_eq!((shown.source_host.as_str(), shown.source_dir.as_str()), ("10.0.0.1", "/export/primary"));
    // Servers repeat it with every connection.
    assert_eq!(pools.create(nfs_pool()).await.unwrap().pool, made.pool);
    assert_eq!(pools.get(nfs_pool()).await.unwrap(), made.pool);
    assert_eq!(nfs.log().len(), 1);
    // Unmounted by hand: mounted again before a file gets into the empty directory.
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(pools.get(nfs_pool()).await.unwrap(), made.pool);
    assert!(mounted_at(&path).unwrap().is_some());

    let uuid = made.pool.uuid;
    let open = std::fs::File::create(path.join("disk")).unwrap();
    let error = pools.remove(uuid).await.unwrap_err();
    assert!(matches!(error, PoolError::Mount(MountError::Busy { .. })), "{error}");
    assert_eq!(pools.get(nfs_pool()).await.unwrap(), made.pool);
    drop(open);
    pools.create(nfs_pool()).await.unwrap();
    pools.remove(uuid).await.unwrap();
    assert!(!path.exists());
    pools.remove(uuid).await.unwrap();
}

#[tokio::test]
async fn other_mount_options_mount_anew() {
    let Some(nfs) = Nfs::new().await else { return };
    let pools = pools(nfs.directory.path(), nfs.mounts.clone()).await;
    pools.create(nfs_pool()).await.unwrap();
    pools.create(PoolRef { options: Some("vers=4.1, nconnect=2"), ..nfs_pool() }).await.unwrap();
    let log = nfs.log();
    assert!(log.len() == 3 && log[1].starts_with("umount"), "{log:?}");
    assert!(log[2].contains("nconnect=2,vers=4.1"), "{log:?}");
}

#[tokio::test]
async fn pools_stay_mounted_when_the_agent_ends() {
    let Some(nfs) = Nfs::new().await else { return };
    let pools = pools(nfs.directory.path(), nfs.mounts.clone()).await;
    let made = pools.create(nfs_pool()).await.unwrap();
    drop(pools);
    // Whatever dropping has asked for comes before this.
    let url = "nfs://10.0.0.1/other";
    let next = super::tests::pools(nfs.directory.path(), nfs.mounts.clone()).await;
    next.secondary(url).await.unwrap().release().await.unwrap();
    assert!(mounted_at(&made.pool.local_path).unwrap().is_some());
}

#[tokio::test]
async fn secondary_storage_is_mounted_where_every_agent_mounts_it() {
    let Some(nfs) = Nfs::new().await else { return };
    let pools = pools(nfs.directory.path(), nfs.mounts.clone()).await;
    let secondary = pools.secondary("nfs://10.0.0.1/export//template/tmpl/1/3").await.unwrap();
    let name = name_uuid("10.0.0.1/export/template/tmpl/1/3").to_string();
    assert_eq!(secondary.path(), nfs.root().join(name));
    assert!(nfs.log()[0].contains("soft"));
    let path = secondary.path().to_owned();
    secondary.release().await.unwrap();
    assert!(!path.exists());
    let error = pools.secondary("http://10.0.0.1/x").await.unwrap_err();
    assert!(matches!(error, PoolError::Url { .. }), "{error}");
}
