//! Tests on libvirt's own test driver, each with a node of its own: `test:///file` is private to
//! the connection, unlike `test:///default`.

use super::libvirt::link::Lease;
use super::*;
use uuid::Uuid;

const NODE: &str = r#"<node>
  <cpu><mhz>2600</mhz><model>x86_64</model><active>4</active><nodes>2</nodes><sockets>1</sockets>
    <cores>2</cores><threads>1</threads></cpu>
  <memory>8388608</memory>
  <domain type='test'>
    <name>i-2-3-VM</name><memory>524288</memory><currentMemory>262144</currentMemory><vcpu>2</vcpu>
    <os><type>hvm</type></os>
    <devices>
      <disk type='file' device='disk'><source file='/pool/vol-1'/><target dev='vda'/></disk>
      <disk type='file' device='cdrom'><target dev='hdc'/><readonly/></disk>
      <interface type='bridge'><mac address='02:00:4C:9B:00:01'/><source bridge='br0'/><target dev='vtap7'/></interface>
      <graphics type='vnc' port='5907'/>
    </devices>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <test:runstate>5</test:runstate>
    <name>i-2-4-VM</name><memory>524288</memory><vcpu>1</vcpu><os><type>hvm</type></os>
  </domain>
  <pool type='dir'><name>images</name><uuid>5f8a1c1e-9d2b-4d6f-8a83-0c1d2e3f4a5b</uuid>
    <target><path>/images</path></target></pool>
  <pool type='netfs'><name>nfs</name><uuid>1d4ad0b0-3c7e-4a5e-9a52-6f7a8b9c0d1e</uuid>
    <source><host name='nfs1'/><dir path='/export'/></source><target><path>/mnt/nfs</path></target></pool>
</node>"#;

pub(super) struct Node {
    pub hypervisor: Hypervisor,
    _directory: tempfile::TempDir,
}

pub(super) async fn node() -> Node {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.xml");
    std::fs::write(&file, NODE).unwrap();
    let hypervisor = Hypervisor::spawn(&format!("test://{}", file.display()));
    hypervisor.connected().await;
    Node { hypervisor, _directory: directory }
}

const OURS: Uuid = Uuid::from_u128(0x2f8a_0f51_5d6c_4d7b_8a68_1d2f_6c1e_9b10);

#[tokio::test]
async fn the_node_is_described() {
    let node = node().await;
    let facts = node.hypervisor.node_facts().await.unwrap();
    assert_eq!((facts.cpus, facts.cpu_sockets, facts.numa_nodes, facts.mhz), (4, 1, 2, 2600));
    assert_eq!(facts.memory_kib, 8_388_608);
    assert_eq!(facts.capabilities, CapabilitiesState::Known);
    assert!(facts.supports_hvm);
    assert!(!facts.hostname.is_empty());
    assert_eq!(facts.libvirt_version.split('.').count(), 3);
    assert_eq!(facts.tsc_hz, None);
}

#[tokio::test]
async fn the_status_tells_versions_and_kind() {
    let node = node().await;
    let mut status = node.hypervisor.status();
    let known = |status: &LibvirtStatus| matches!(&status.connection, Connection::Connected { hypervisor_version, .. } if hypervisor_version != "unknown");
    let status = status.wait_for(known).await.unwrap().clone();
    let Connection::Connected { libvirt_version, hypervisor_kind, .. } = status.connection else {
        panic!("not connected");
    };
    assert_eq!(hypervisor_kind, HypervisorKind::Test);
    assert_ne!(libvirt_version, "");
    assert!(status.calls >= 1);
    assert_eq!(status.deadline_misses, 0);
}

#[tokio::test]
async fn all_domains_have_a_power_state() {
    let node = node().await;
    let mut states = node.hypervisor.power_states().await.unwrap();
    states.sort_by(|a, b| a.name.cmp(&b.name));
    let states: Vec<_> = states.iter().map(|s| (s.name.as_str(), s.state.power())).collect();
    assert_eq!(states, [("i-2-3-VM", PowerState::On), ("i-2-4-VM", PowerState::Off)]);
}

#[tokio::test]
async fn a_domain_is_summed_up() {
    let node = node().await;
    let running = node.hypervisor.domain("i-2-3-VM").await.unwrap().unwrap();
    assert_eq!(running, DomainSummary { state: DomainState::Running, vnc_port: Some(5907), vcpus: 2 });
    let stopped = node.hypervisor.domain("i-2-4-VM").await.unwrap().unwrap();
    assert_eq!(stopped, DomainSummary { state: DomainState::Shutoff, vnc_port: None, vcpus: 1 });
    assert_eq!(node.hypervisor.domain("i-2-5-VM").await.unwrap(), None);
}

#[tokio::test]
async fn samples_leave_out_what_does_not_run() {
    let node = node().await;
    let names = ["i-2-3-VM", "i-2-4-VM", "no-such-guest", "../bad/name"].map(str::to_owned);
    let samples = node.hypervisor.domain_samples(&names).await.unwrap();
    assert_eq!(samples.keys().collect::<Vec<_>>(), ["i-2-3-VM"]);
    let sample = &samples["i-2-3-VM"];
    assert_eq!((sample.vcpus, sample.max_memory_kib), (2, 524_288));
    assert_eq!(sample.disks.len(), 1, "no CD-ROM: {:?}", sample.disks);
    assert_eq!(sample.disks[0].device, "vda");
    assert_eq!(sample.disks[0].source.as_deref(), Some("/pool/vol-1"));
    assert_eq!(sample.nics.len(), 1);
    assert_eq!(sample.nics[0].mac, "02:00:4c:9b:00:01");
}

#[tokio::test]
async fn a_pool_is_created_reused_and_found() {
    let node = node().await;
    let created = node.hypervisor.ensure_dir_pool(OURS, "/local/storage/").await.unwrap();
    assert_eq!(created.name, OURS.to_string());
    assert_eq!(created.path.as_deref(), Some("/local/storage"));
    assert_eq!((created.kind.clone(), created.state), (PoolKind::Dir, PoolState::Active));
    assert_eq!(created.capacity, created.allocation + created.available);

    let again = node.hypervisor.ensure_dir_pool(OURS, "/local/storage").await.unwrap();
    assert_eq!(again, created);
    assert_eq!(node.hypervisor.pool(&OURS.to_string(), Refresh::Yes).await.unwrap(), created);
    assert_eq!(node.hypervisor.pools().await.unwrap().len(), 3);

    let moved = node.hypervisor.ensure_dir_pool(OURS, "/elsewhere").await.unwrap_err();
    assert!(matches!(moved, HypervisorError::PoolElsewhere { .. }), "{moved}");
}

#[tokio::test]
async fn another_pool_on_the_same_directory_gives_way() {
    let node = node().await;
    assert!(node.hypervisor.pool("images", Refresh::No).await.is_ok());
    let ours = node.hypervisor.ensure_dir_pool(OURS, "/images").await.unwrap();
    assert_eq!(ours.uuid, OURS);
    let gone = node.hypervisor.pool("images", Refresh::No).await.unwrap_err();
    assert!(matches!(gone, HypervisorError::NotFound { what: Object::StoragePool, .. }), "{gone}");
    assert_eq!(node.hypervisor.pools().await.unwrap().len(), 2);
}

#[tokio::test]
async fn network_pools_have_their_source() {
    let node = node().await;
    let pools = node.hypervisor.net_pools().await.unwrap();
    assert_eq!(pools.len(), 1);
    assert_eq!((pools[0].source_host.as_str(), pools[0].source_dir.as_str()), ("nfs1", "/export"));
    assert_eq!(pools[0].path, "/mnt/nfs");
}

#[tokio::test]
async fn missing_volumes_are_left_out() {
    let node = node().await;
    let names = ["no-such-volume".to_owned()];
    assert!(node.hypervisor.volumes("images", &names).await.unwrap().is_empty());
    let error = node.hypervisor.volumes("no-such-pool", &names).await.unwrap_err();
    assert!(matches!(error, HypervisorError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn hostile_names_do_not_reach_libvirt() {
    let node = node().await;
    let long = "x".repeat(256);
    for name in ["", "a\0b", "a\nb", "a/b", long.as_str()] {
        let error = node.hypervisor.domain(name).await.unwrap_err();
        assert!(
            matches!(error, HypervisorError::InvalidName { what: Object::Guest, .. }),
            "{name:?}: {error}"
        );
    }
    for path in ["relative", "", "/a\0b"] {
        let error = node.hypervisor.ensure_dir_pool(OURS, path).await.unwrap_err();
        assert!(matches!(error, HypervisorError::RelativePath { .. }), "{path:?}: {error}");
    }
}

#[tokio::test]
async fn an_unreachable_daemon_is_reported_and_calls_fail_at_once() {
    let hypervisor = Hypervisor::spawn("test:///no/such/file.xml");
    let mut status = hypervisor.status();
    let failed =
        |s: &LibvirtStatus| matches!(&s.connection, Connection::Connecting { last_error: Some(_), .. });
    status.wait_for(failed).await.unwrap();
    let error = hypervisor.power_states().await.unwrap_err();
    let HypervisorError::NotConnected { uri, last_error } = &error else { panic!("{error}") };
    assert_eq!(uri, "test:///no/such/file.xml");
    assert!(last_error.is_some());
    assert!(error.to_string().contains("virsh -c"), "{error}");
}

#[tokio::test]
async fn a_lost_connection_comes_back() {
    let node = node().await;
    let before = node.hypervisor.link().unwrap().generation;
    let obituary = Obituary { generation: before, error: "reported by a call".to_owned() };
    node.hypervisor.inner.obituaries.send(obituary).await.unwrap();
    let mut status = node.hypervisor.status();
    status.wait_for(|s| matches!(s.connection, Connection::Lost { .. })).await.unwrap();
    status.wait_for(|s| s.connection.is_connected()).await.unwrap();
    assert!(node.hypervisor.link().unwrap().generation > before);
    assert!(node.hypervisor.power_states().await.is_ok());
}

#[tokio::test]
async fn guest_events_arrive() {
    let node = node().await;
    let mut events = node.hypervisor.events();
    let act = |link: &Lease| {
        let domain = link.connect()?.lookup_domain_by_name("i-2-4-VM");
        let domain = domain.map_err(libvirt::refused("looking up", "i-2-4-VM"))?;
        domain.create().map_err(libvirt::refused("starting", "i-2-4-VM"))?;
        domain.destroy().map_err(libvirt::refused("destroying", "i-2-4-VM"))
    };
    node.hypervisor.call("a test", QUERY_DEADLINE, act).await.unwrap();
    let started = events.recv().await.unwrap();
    assert_eq!(started, DomainEvent { name: "i-2-4-VM".to_owned(), kind: DomainEventKind::Started });
    let stopped = events.recv().await.unwrap();
    assert_eq!(stopped.kind, DomainEventKind::Stopped { reason: StopReason::Destroyed });
}

#[tokio::test]
async fn an_operation_past_its_deadline_names_itself() {
    let node = node().await;
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let deadline = Duration::from_millis(10);
    let hang = move |_: &Lease| {
        let _ = wait.recv();
        Ok(())
    };
    let error = node.hypervisor.call("a hanging test", deadline, hang).await.unwrap_err();
    let HypervisorError::Deadline { operation, after } = error else { panic!("{error}") };
    assert_eq!((operation, after), ("a hanging test", deadline));
    assert!(node.hypervisor.power_states().await.is_ok());
    drop(release);
}
