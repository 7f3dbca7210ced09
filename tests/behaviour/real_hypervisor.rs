//! The hypervisor module against a real libvirtd and QEMU: life, devices, disks, snapshots, secrets.

use crate::harness::LIMIT;
use crate::real::cage::Cage;
use crate::real::guest::Guest;
use crate::real::{beside_libvirt, beside_two_libvirts};
use cloudstack_agent::hypervisor::{
    AddressSource, BlockCommit, Deletion, DiskCopy, DomainState, Existence, Flavour, Hypervisor,
    HypervisorError, Migration, Object, Passwords, SnapshotOptions, Waited,
};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// The handle reaches libvirtd by its socket, as this process sees it.
async fn connected(cage: &Cage) -> Hypervisor {
    let socket = cage.file("/run/libvirt/libvirt-sock");
    let hypervisor = Hypervisor::spawn(&format!("qemu+unix:///system?socket={}", socket.display()));
    tokio::time::timeout(LIMIT, hypervisor.connected()).await.expect("no connection to libvirtd");
    hypervisor
}

/// Makes an empty image.
async fn image(cage: &Cage, path: &Path, size: &str) {
    cage.run(&["qemu-img", "create", "-q", "-f", "qcow2", text(path), size]).await.unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn state(hypervisor: &Hypervisor, name: &str) -> Option<(DomainState, bool)> {
    hypervisor.state(name).await.unwrap()
}

/// Source of the guest's first disk.
async fn source(hypervisor: &Hypervisor, name: &str) -> String {
    let guest = hypervisor.describe(name, Passwords::LeftOut).await.unwrap().unwrap();
    guest.description.disks[0].source.clone().unwrap()
}

#[test]
fn a_guest_lives_from_start_to_shutdown() {
    beside_libvirt(async |cage| {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = connected(cage).await;
        let guest = Guest::new(cage, directory.path()).await;
        let name = guest.name.as_str();
        // A definition left over from elsewhere gives way.
        hypervisor.define_domain(&guest.xml()).await.unwrap();
        assert_eq!(state(&hypervisor, name).await, Some((DomainState::Shutoff, true)));
        hypervisor.start_domain(name, &guest.xml(), LIMIT).await.unwrap();
        assert_eq!(state(&hypervisor, name).await, Some((DomainState::Running, false)));
        let again = hypervisor.start_domain(name, &guest.xml(), LIMIT).await.unwrap_err();
        assert!(matches!(again, HypervisorError::AlreadyRunning { .. }), "{again}");
        guest.boots().await;

        let described = hypervisor.describe(name, Passwords::LeftOut).await.unwrap().unwrap().description;
        assert_eq!(described.interfaces[0].target.as_deref(), Some(guest.tap.as_str()));
        assert_eq!(described.disks[0].source.as_deref(), Some(text(&guest.disk)));
        assert!(described.vnc_port.is_some_and(|port| port >= 5900));
        let documents = hypervisor.documents(Flavour::Secure).await.unwrap();
        assert!(documents.iter().any(|document| document.name == name && !document.persistent));

        hypervisor.suspend(name).await.unwrap();
        assert_eq!(state(&hypervisor, name).await, Some((DomainState::Paused, false)));
        hypervisor.resume(name).await.unwrap();
        let stays = hypervisor.wait_until_stopped(name, Duration::from_millis(100)).await.unwrap();
        assert_eq!(stays, Waited::TimedOut);
        assert_eq!(hypervisor.shutdown(name).await.unwrap(), Existence::Done);
        assert_eq!(hypervisor.wait_until_stopped(name, LIMIT).await.unwrap(), Waited::Reached);
        assert_eq!(hypervisor.destroy(name).await.unwrap(), Existence::Absent);

        hypervisor.start_domain(name, &guest.xml(), LIMIT).await.unwrap();
        assert_eq!(hypervisor.destroy(name).await.unwrap(), Existence::Done);
        assert_eq!(state(&hypervisor, name).await, None);
        let gone = hypervisor.reboot(name).await.unwrap_err();
        assert!(gone.is_not_found(Object::Guest), "{gone}");
    });
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    beside_libvirt(async |cage| {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = connected(cage).await;
        let guest = Guest::new(cage, directory.path()).await;
        std::fs::remove_file(&guest.disk).unwrap();
        let error = hypervisor.start_domain(&guest.name, &guest.xml(), LIMIT).await.unwrap_err();
        assert!(error.fault().is_some_and(|fault| fault.message.contains(text(&guest.disk))), "{error:?}");
        assert_eq!(state(&hypervisor, &guest.name).await, None);
    });
}

#[test]
fn devices_come_and_go() {
    beside_libvirt(async |cage| {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = connected(cage).await;
        let guest = Guest::new(cage, directory.path()).await;
        let name = guest.name.as_str();
        hypervisor.start_domain(name, &guest.xml(), LIMIT).await.unwrap();
        guest.boots().await;

        let data = directory.path().join("data");
        image(cage, &data, "8M").await;
        let disk = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='vdb' bus='virtio'/></disk>",
            data.display()
        );
        hypervisor.attach_device(name, &disk).await.unwrap();
        assert_eq!(hypervisor.block_info(name, "vdb").await.unwrap().capacity, 8 << 20);
        hypervisor.block_resize(name, "vdb", 12 << 20).await.unwrap();
        assert_eq!(hypervisor.block_info(name, "vdb").await.unwrap().capacity, 12 << 20);

        let mac = "02:00:4c:7e:00:01";
        let nic = format!(
            "<interface type='ethernet'><mac address='{mac}'/><target dev='{}b'/><model type='rtl8139'/></interface>",
            guest.tap
        );
        hypervisor.attach_device(name, &nic).await.unwrap();
        let described = hypervisor.describe(name, Passwords::LeftOut).await.unwrap().unwrap().description;
        assert_eq!((described.disks.len(), described.interfaces.len()), (2, 2));
        assert!(described.interfaces[1].pci.is_some_and(|pci| pci.slot > 0));
        let down = nic.replace("<model", "<link state='down'/><model");
        hypervisor.update_device(name, &down).await.unwrap();
        let described = hypervisor.describe(name, Passwords::LeftOut).await.unwrap().unwrap().description;
        assert_eq!(described.interfaces[1].link_up, Some(false));

        assert_eq!(hypervisor.detach_device(name, &disk).await.unwrap(), Existence::Done);
        assert_eq!(hypervisor.wait_disk_gone(name, text(&data), LIMIT).await.unwrap(), Waited::Reached);
        assert_eq!(hypervisor.detach_device(name, &down).await.unwrap(), Existence::Done);
        assert_eq!(hypervisor.wait_interface_gone(name, mac, LIMIT).await.unwrap(), Waited::Reached);
        assert_eq!(hypervisor.detach_device(name, &disk).await.unwrap(), Existence::Absent);
        assert_eq!(hypervisor.detach_device(name, &nic).await.unwrap(), Existence::Absent);

        let shown = hypervisor
            .monitor_command(name, &serde_json::json!({"execute": "query-block"}), LIMIT)
            .await
            .unwrap();
        assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
        let odd = hypervisor.monitor_command(name, &serde_json::json!({"execute": "no-such"}), LIMIT).await;
        assert!(matches!(odd, Err(HypervisorError::CommandRefused { peer: "QEMU", .. })), "{odd:?}");
        let status = serde_json::json!({"execute": "guest-fsfreeze-status"});
        let agent = hypervisor.agent_command(name, &status, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(agent, HypervisorError::AgentUnresponsive { .. }), "{agent:?}");
    });
}

#[test]
fn a_guest_grows_and_tells_of_itself() {
    beside_libvirt(async |cage| {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = connected(cage).await;
        let guest = Guest::new(cage, directory.path()).await;
        let name = guest.name.as_str();
        let xml = guest.xml().replace("<vcpu>1<", "<vcpu current='1'>2<");
        hypervisor.start_domain(name, &xml, LIMIT).await.unwrap();
        assert_eq!(hypervisor.vcpus(name).await.unwrap(), 1);
        hypervisor.set_vcpus(name, 2).await.unwrap();
        assert_eq!(hypervisor.vcpus(name).await.unwrap(), 2);
        assert!(hypervisor.set_vcpus(name, 3).await.is_err());
        assert_eq!(hypervisor.max_memory(name).await.unwrap(), 16 << 10);
        // The cage has no control groups.
        assert_eq!(hypervisor.cpu_shares(name).await.unwrap(), None);
        let agent = hypervisor.interface_addresses(name, AddressSource::Agent).await.unwrap_err();
        assert!(matches!(agent, HypervisorError::AgentUnresponsive { .. }), "{agent:?}");
        let quiet = SnapshotOptions { disk_only: true, quiesce: true, ..SnapshotOptions::default() };
        let snapshot = "<domainsnapshot><name>quiet</name></domainsnapshot>";
        let agent = hypervisor.create_snapshot(name, snapshot, quiet, LIMIT).await.unwrap_err();
        assert!(matches!(agent, HypervisorError::AgentUnresponsive { .. }), "{agent:?}");
        assert_eq!(source(&hypervisor, name).await, text(&guest.disk));
    });
}

#[test]
fn a_disk_is_snapshot_live_and_merged_back() {
    beside_libvirt(async |cage| {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = connected(cage).await;
        let guest = Guest::new(cage, directory.path()).await;
        let (name, base) = (guest.name.as_str(), text(&guest.disk).to_owned());
        hypervisor.start_domain(name, &guest.xml(), LIMIT).await.unwrap();
        guest.boots().await;
        let options = SnapshotOptions {
            disk_only: true,
            atomic: true,
            no_metadata: true,
            ..SnapshotOptions::default()
        };
        let overlay = |number: u8| directory.path().join(format!("overlay-{number}"));
        for number in 1..=3 {
            let snapshot = format!(
                "<domainsnapshot><name>s{number}</name><memory snapshot='no'/><disks>\
                 <disk name='vda' snapshot='external'><source file='{}'/></disk></disks></domainsnapshot>",
                overlay(number).display()
            );
            hypervisor.create_snapshot(name, &snapshot, options, LIMIT).await.unwrap();
        }
        assert_eq!(source(&hypervisor, name).await, text(&overlay(3)));
        let guest_now = hypervisor.describe(name, Passwords::LeftOut).await.unwrap().unwrap();
        assert_eq!(guest_now.description.disks[0].backing, [text(&overlay(2)), text(&overlay(1)), &base]);
        assert_eq!(hypervisor.snapshots(name).await.unwrap(), []);

        // A layer in the middle, then the one that is written to.
        let middle = BlockCommit {
            disk: "vda".to_owned(),
            base: text(&overlay(1)).to_owned(),
            top: Some(text(&overlay(2)).to_owned()),
            delete: true,
        };
        hypervisor.commit_and_wait(name, middle, LIMIT).await.unwrap();
        assert!(!overlay(2).exists());
        hypervisor.commit_and_pivot(name, "vda", &base, true, LIMIT).await.unwrap();
        assert_eq!(source(&hypervisor, name).await, base);
        assert_eq!(hypervisor.block_job(name, "vda").await.unwrap(), None);
        assert!(!overlay(1).exists() && !overlay(3).exists());
        // Once more there is nothing to do; what cannot be done is told.
        hypervisor.commit_and_pivot(name, "vda", &base, true, LIMIT).await.unwrap();
        let odd = hypervisor.commit_and_pivot(name, "vda", "/no/such/layer", false, LIMIT).await.unwrap_err();
        assert!(matches!(odd, HypervisorError::NotMerged { .. }), "{odd}");
    });
}

#[test]
fn a_guest_goes_back_to_a_snapshot_of_memory_and_disk() {
    beside_libvirt(async |cage| {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = connected(cage).await;
        let guest = Guest::new(cage, directory.path()).await;
        let name = guest.name.as_str();
        // Going back may start QEMU anew, before the kernel has let go of a tap that has a name of ours.
        let xml = guest.xml();
        let (before, card) = xml.split_once("<interface").unwrap();
        let xml = [before, card.split_once("</interface>").unwrap().1].concat();
        hypervisor.start_domain(name, &xml, LIMIT).await.unwrap();
        guest.boots().await;
        let snapshot = "<domainsnapshot><name>before</name><memory snapshot='internal'/></domainsnapshot>";
        hypervisor.create_snapshot(name, snapshot, SnapshotOptions::default(), LIMIT).await.unwrap();
        let known = hypervisor.forget_snapshots(name).await.unwrap();
        assert_eq!((known.len(), known[0].name.as_str(), known[0].current), (1, "before", true));
        hypervisor.remember_snapshots(name, known).await.unwrap();

        hypervisor.revert_to_snapshot(name, "before", LIMIT).await.unwrap();
        assert_eq!(state(&hypervisor, name).await, Some((DomainState::Running, false)));
        let delete = || hypervisor.delete_snapshot(name, "before", Deletion::Everything, LIMIT);
        assert_eq!(delete().await.unwrap(), Existence::Done);
        assert_eq!(delete().await.unwrap(), Existence::Absent);
        let listed = cage.run(&["qemu-img", "snapshot", "-U", "-l", text(&guest.disk)]).await.unwrap();
        assert_eq!(listed, "");
    });
}

#[test]
fn secrets_are_kept_and_forgotten() {
    beside_libvirt(async |cage| {
        let hypervisor = connected(cage).await;
        let (id, path) = (Uuid::new_v4(), format!("/volumes/{}", Uuid::new_v4()));
        for value in ["first", "second"] {
            hypervisor.define_secret(id, &path, value.as_bytes().to_vec()).await.unwrap();
        }
        assert!(hypervisor.secrets().await.unwrap().contains(&(id, path)));
        let told = cage.run(&["virsh", "-c", "qemu:///system", "secret-get-value", &id.to_string()]).await;
        assert!(told.unwrap_err().contains("private"));
        assert_eq!(hypervisor.undefine_secret(id).await.unwrap(), Existence::Done);
        assert_eq!(hypervisor.undefine_secret(id).await.unwrap(), Existence::Absent);
    });
}

#[test]
fn a_pool_lists_its_volumes_and_goes() {
    beside_libvirt(async |cage| {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = connected(cage).await;
        let id = Uuid::new_v4();
        hypervisor.ensure_dir_pool(id, text(directory.path())).await.unwrap();
        image(cage, &directory.path().join("volume"), "1M").await;
        let id = id.to_string();
        hypervisor.refresh_pool(&id).await.unwrap();
        let volumes = hypervisor.list_volumes(&id).await.unwrap();
        assert_eq!(volumes.len(), 1);
        assert_eq!((volumes[0].name.as_str(), volumes[0].capacity), ("volume", 1 << 20));
        assert_eq!(volumes[0].format.as_deref(), Some("qcow2"));
        assert_eq!(hypervisor.destroy_pool(&id).await.unwrap(), Existence::Done);
        assert_eq!(hypervisor.destroy_pool(&id).await.unwrap(), Existence::Absent);
        assert!(directory.path().join("volume").exists());
    });
}

#[test]
fn a_migration_that_cannot_begin_is_told_and_changes_nothing() {
    beside_libvirt(async |cage| {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = connected(cage).await;
        let guest = Guest::new(cage, directory.path()).await;
        hypervisor.start_domain(&guest.name, &guest.xml(), LIMIT).await.unwrap();
        let migration = Migration {
            destination: "qemu+unix:///system?socket=/no/such/socket".to_owned(),
            copy: DiskCopy::Full,
            ..Migration::default()
        };
        let error = hypervisor.migrate(&guest.name, migration, LIMIT).await.unwrap_err();
        assert!(matches!(error, HypervisorError::DestinationUnreachable { .. }), "{error:?}");
        hypervisor.set_max_downtime(&guest.name, Duration::from_millis(300)).await.unwrap();
        let nothing = hypervisor.abort_job(&guest.name).await.unwrap_err();
        assert!(matches!(nothing, HypervisorError::Invalid { .. }), "{nothing:?}");
        let progress = hypervisor.job_progress(&guest.name).await.unwrap().unwrap();
        assert!(!progress.running);
        assert_eq!(state(&hypervisor, &guest.name).await, Some((DomainState::Running, false)));
    });
}

#[test]
fn a_guest_moves_to_another_host() {
    beside_two_libvirts(async |here, there| {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (connected(here).await, connected(there).await);
        let guest = Guest::new(here, directory.path()).await;
        let name = guest.name.as_str();
        from.start_domain(name, &guest.xml(), LIMIT).await.unwrap();
        guest.boots().await;
        let copy = directory.path().join("copy");
        image(there, &copy, "4M").await;
        let xml = from.domain_xml(name, Flavour::Migratable).await.unwrap().unwrap();
        let socket = |name: &str| Some(format!("unix://{}", directory.path().join(name).display()));
        let migration = Migration {
            destination: to.uri().to_owned(),
            xml: Some(xml.replace(text(&guest.disk), text(&copy))),
            // The two have no network between them.
            uri: socket("memory"),
            disks_uri: socket("disks"),
            disks: vec!["vda".to_owned()],
            copy: DiskCopy::Full,
            auto_converge: true,
            ..Migration::default()
        };
        from.migrate(name, migration, LIMIT).await.unwrap();
        assert_eq!(state(&from, name).await, None);
        assert_eq!(state(&to, name).await, Some((DomainState::Running, false)));
        assert_eq!(source(&to, name).await, text(&copy));
        assert_eq!(to.shutdown(name).await.unwrap(), Existence::Done);
        assert_eq!(to.wait_until_stopped(name, LIMIT).await.unwrap(), Waited::Reached);
    });
}
