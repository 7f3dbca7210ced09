//! Guests and storage on libvirt's own test driver: life, documents, snapshots, waits, gates.

use super::tests::{Node, node};
use super::*;

const START: Duration = Duration::from_secs(60);

fn xml(name: &str) -> String {
    format!(
        "<domain type='test'><name>{name}</name><memory>65536</memory><vcpu>1</vcpu>\
         <os><type>hvm</type></os><devices>\
         <disk type='file' device='disk'><source file='/pool/{name}'/><target dev='vda' bus='virtio'/></disk>\
         </devices></domain>"
    )
}

async fn state(node: &Node, name: &str) -> Option<(DomainState, bool)> {
    node.hypervisor.state(name).await.unwrap()
}

#[tokio::test]
async fn a_guest_starts_transient_and_leaves_nothing() {
    let node = node().await;
    let hypervisor = &node.hypervisor;
    hypervisor.start_domain("i-2-9-VM", &xml("i-2-9-VM"), START).await.unwrap();
    assert_eq!(state(&node, "i-2-9-VM").await, Some((DomainState::Running, false)));
    let again = hypervisor.start_domain("i-2-9-VM", &xml("i-2-9-VM"), START).await.unwrap_err();
    assert!(matches!(&again, HypervisorError::AlreadyRunning { name } if name == "i-2-9-VM"), "{again}");

    assert_eq!(hypervisor.destroy("i-2-9-VM").await.unwrap(), Existence::Done);
    assert_eq!(state(&node, "i-2-9-VM").await, None);
    assert_eq!(hypervisor.destroy("i-2-9-VM").await.unwrap(), Existence::Absent);
    assert_eq!(hypervisor.shutdown("i-2-9-VM").await.unwrap(), Existence::Absent);
    assert_eq!(hypervisor.undefine("i-2-9-VM").await.unwrap(), Existence::Absent);
}

#[tokio::test]
async fn a_definition_that_does_not_run_gives_way() {
    let node = node().await;
    assert_eq!(state(&node, "i-2-4-VM").await, Some((DomainState::Shutoff, true)));
    node.hypervisor.start_domain("i-2-4-VM", &xml("i-2-4-VM"), START).await.unwrap();
    assert_eq!(state(&node, "i-2-4-VM").await, Some((DomainState::Running, false)));
}

#[tokio::test]
async fn definitions_come_and_go() {
    let node = node().await;
    node.hypervisor.define_domain(&xml("i-2-9-VM")).await.unwrap();
    assert_eq!(state(&node, "i-2-9-VM").await, Some((DomainState::Shutoff, true)));
    assert_eq!(node.hypervisor.destroy("i-2-9-VM").await.unwrap(), Existence::Absent);
    assert_eq!(node.hypervisor.undefine("i-2-9-VM").await.unwrap(), Existence::Done);
    assert_eq!(state(&node, "i-2-9-VM").await, None);
    let broken = node.hypervisor.define_domain("<domain/>").await.unwrap_err();
    assert!(matches!(broken, HypervisorError::Libvirt { operation: "defining the guest", .. }), "{broken}");
}

#[tokio::test]
async fn a_guest_is_paused_once_and_goes_on_once() {
    let node = node().await;
    for _ in 0..2 {
        node.hypervisor.suspend("i-2-3-VM").await.unwrap();
        assert_eq!(state(&node, "i-2-3-VM").await, Some((DomainState::Paused, true)));
    }
    for _ in 0..2 {
        node.hypervisor.resume("i-2-3-VM").await.unwrap();
        assert_eq!(state(&node, "i-2-3-VM").await, Some((DomainState::Running, true)));
    }
    let missing = node.hypervisor.suspend("i-9-9-VM").await.unwrap_err();
    assert!(missing.is_not_found(Object::Guest), "{missing}");
}

#[tokio::test]
async fn the_end_of_a_guest_is_waited_for() {
    let node = node().await;
    let stays = node.hypervisor.wait_until_stopped("i-2-3-VM", Duration::from_millis(50)).await.unwrap();
    assert_eq!(stays, Waited::TimedOut);
    let waiting = tokio::spawn({
        let hypervisor = node.hypervisor.clone();
        async move { hypervisor.wait_until_stopped("i-2-3-VM", START).await }
    });
    assert_eq!(node.hypervisor.shutdown("i-2-3-VM").await.unwrap(), Existence::Done);
    assert_eq!(waiting.await.unwrap().unwrap(), Waited::Reached);
    let gone = node.hypervisor.wait_until_stopped("i-9-9-VM", START).await.unwrap();
    assert_eq!(gone, Waited::Reached);
}

#[tokio::test]
async fn a_guest_is_described() {
    let node = node().await;
    let guest = node.hypervisor.describe("i-2-3-VM", Passwords::LeftOut).await.unwrap().unwrap();
    assert_eq!((guest.state, guest.persistent), (DomainState::Running, true));
    let description = guest.description;
    assert_eq!((description.name.as_str(), description.vcpus), ("i-2-3-VM", 2));
    assert_eq!((description.memory_kib, description.max_memory_kib), (262_144, 524_288));
    assert!(description.uuid.is_some());
    assert_eq!(description.disks.len(), 2);
    assert_eq!(node.hypervisor.describe("i-9-9-VM", Passwords::LeftOut).await.unwrap(), None);
    assert_eq!(node.hypervisor.max_memory("i-2-3-VM").await.unwrap(), 524_288);
    assert_eq!(node.hypervisor.vcpus("i-2-3-VM").await.unwrap(), 2);
}

#[tokio::test]
async fn all_documents_are_read() {
    let node = node().await;
    let mut all = node.hypervisor.documents(Flavour::Inactive).await.unwrap();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let read: Vec<_> = all.iter().map(|d| (d.name.as_str(), d.state, d.persistent)).collect();
    assert_eq!(read, [("i-2-3-VM", DomainState::Running, true), ("i-2-4-VM", DomainState::Shutoff, true)]);
    assert!(all.iter().all(|document| document.xml.contains(&document.name)));
    assert!(!format!("{all:?}").contains("<domain"), "{all:?}");
    let one = node.hypervisor.domain_xml("i-2-3-VM", Flavour::Live).await.unwrap().unwrap();
    assert!(one.starts_with("<domain"));
    assert_eq!(node.hypervisor.domain_xml("i-9-9-VM", Flavour::Live).await.unwrap(), None);
}

#[tokio::test]
async fn devices_that_are_gone_are_not_waited_for() {
    let node = node().await;
    let hypervisor = &node.hypervisor;
    let short = Duration::from_millis(1);
    let present = hypervisor.wait_disk_gone("i-2-3-VM", "/pool/vol-1", short).await.unwrap();
    assert_eq!(present, Waited::TimedOut);
    let present = hypervisor.wait_interface_gone("i-2-3-VM", "02:00:4C:9B:00:01", short).await.unwrap();
    assert_eq!(present, Waited::TimedOut);
    assert_eq!(hypervisor.wait_disk_gone("i-2-3-VM", "/pool/other", START).await.unwrap(), Waited::Reached);
    assert_eq!(hypervisor.wait_disk_gone("i-9-9-VM", "/pool/vol-1", START).await.unwrap(), Waited::Reached);
    let hostile = hypervisor.wait_disk_gone("i-2-3-VM", "/pool/\0", START).await.unwrap_err();
    assert!(matches!(hostile, HypervisorError::InvalidText { .. }), "{hostile}");
}

#[tokio::test]
async fn snapshots_are_taken_listed_forgotten_and_remembered() {
    let node = node().await;
    let hypervisor = &node.hypervisor;
    for name in ["first", "second"] {
        let text = format!("<domainsnapshot><name>{name}</name></domainsnapshot>");
        hypervisor.create_snapshot("i-2-3-VM", &text, SnapshotOptions::default(), START).await.unwrap();
    }
    let known = hypervisor.forget_snapshots("i-2-3-VM").await.unwrap();
    let summary: Vec<_> = known.iter().map(|s| (s.name.as_str(), s.parent.as_deref(), s.current)).collect();
    assert_eq!(summary, [("first", None, false), ("second", Some("first"), true)]);
    assert!(known.iter().all(|snapshot| snapshot.creation_time.is_some()));
    assert_eq!(hypervisor.snapshots("i-2-3-VM").await.unwrap(), []);

    hypervisor.remember_snapshots("i-2-3-VM", known).await.unwrap();
    assert_eq!(hypervisor.snapshots("i-2-3-VM").await.unwrap().len(), 2);
    hypervisor.revert_to_snapshot("i-2-3-VM", "first", START).await.unwrap();
    let delete =
        |name: &'static str| hypervisor.delete_snapshot("i-2-3-VM", name, Deletion::Everything, START);
    assert_eq!(delete("second").await.unwrap(), Existence::Done);
    assert_eq!(delete("second").await.unwrap(), Existence::Absent);
    let gone = hypervisor.revert_to_snapshot("i-2-3-VM", "second", START).await.unwrap_err();
    assert!(gone.is_not_found(Object::Snapshot), "{gone}");
}

#[tokio::test]
async fn a_network_pool_is_made_listed_and_destroyed() {
    let node = node().await;
    let uuid = uuid::Uuid::from_u128(0x77);
    let pool = NetfsPool {
        uuid,
        host: "nfs2".to_owned(),
        export: "/export/primary".to_owned(),
        target: format!("/mnt/{uuid}"),
        options: vec!["vers=4.1".to_owned()],
    };
    let made = node.hypervisor.ensure_netfs_pool(pool.clone()).await.unwrap();
    assert_eq!((made.kind, made.state), (PoolKind::NetFs, PoolState::Active));
    assert_eq!(node.hypervisor.ensure_netfs_pool(pool).await.unwrap().uuid, uuid);
    let id = uuid.to_string();
    assert_eq!(node.hypervisor.list_volumes(&id).await.unwrap(), []);
    node.hypervisor.refresh_pool(&id).await.unwrap();
    assert_eq!(node.hypervisor.destroy_pool(&id).await.unwrap(), Existence::Done);
    assert_eq!(node.hypervisor.destroy_pool(&id).await.unwrap(), Existence::Absent);
    let gone = node.hypervisor.list_volumes(&id).await.unwrap_err();
    assert!(gone.is_not_found(Object::StoragePool), "{gone}");
}

#[tokio::test]
async fn a_pool_that_hangs_costs_one_thread_and_hurts_nobody_else() {
    let node = node().await;
    let hypervisor = &node.hypervisor;
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let short = Duration::from_millis(10);
    let hang = move |_: &libvirt::link::Lease| {
        let _ = wait.recv();
        Ok(())
    };
    let error = hypervisor.storage_call_within("a test", "dead", short, hang).await.unwrap_err();
    assert!(matches!(error, HypervisorError::Deadline { .. }), "{error}");
    for _ in 0..20 {
        let error = hypervisor.storage_call("a test", "dead", |_| Ok(())).await.unwrap_err();
        assert!(matches!(&error, HypervisorError::PoolHung { id } if id == "dead"), "{error}");
    }
    assert_eq!(hypervisor.inner.calls.storage.counters().stuck, 1);
    assert!(hypervisor.pool("images", Refresh::Yes).await.is_ok());

    drop(release);
    let recovered = async {
        while hypervisor.storage_call("a test", "dead", |_| Ok(())).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(START, recovered).await.expect("the pool stays hung");
}

#[tokio::test]
async fn what_the_driver_cannot_do_is_unsupported() {
    let node = node().await;
    let error = node.hypervisor.secrets().await.unwrap_err();
    assert!(matches!(error, HypervisorError::Unsupported { .. }), "{error}");
    let migration = Migration { destination: "test:///no/such/file.xml".to_owned(), ..Default::default() };
    let error = node.hypervisor.migrate("i-2-3-VM", migration, START).await.unwrap_err();
    assert!(matches!(error, HypervisorError::DestinationUnreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_destination_that_says_nothing_is_given_up() {
    let node = node().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("libvirt-sock");
    let silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let destination = format!("qemu+unix:///system?socket={}", socket.display());
    let migration = Migration { destination, ..Default::default() };
    let short = Duration::from_millis(200);
    let error = node.hypervisor.migrate_connecting("i-2-3-VM", migration, short, START).await.unwrap_err();
    assert!(matches!(error, HypervisorError::DestinationSilent { .. }), "{error}");
    assert_eq!(node.hypervisor.inner.calls.migrations.counters().stuck, 1);
    drop(silent);
    let over = async {
        while node.hypervisor.inner.calls.migrations.counters().stuck > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(START, over).await.expect("the connection attempt does not end");
    assert!(node.hypervisor.power_states().await.is_ok());
}
