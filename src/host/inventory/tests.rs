use super::*;

const POOL: Uuid = Uuid::from_u128(0x8d0c_3f6e_4a57_4c0e_b1d7_3c2f_2f6c_2b11);
const NODE: &str = "<node><cpu><mhz>2100</mhz><model>x86_64</model><active>8</active><nodes>2</nodes>\
    <sockets>1</sockets><cores>4</cores><threads>1</threads></cpu><memory>8388608</memory></node>";

fn settings(pools: &[(Uuid, &str)]) -> Settings {
    let local_pools =
        pools.iter().map(|(uuid, path)| LocalPoolSetting { uuid: *uuid, path: (*path).to_owned() });
    Settings {
        private_device: "lo".to_owned(),
        public_device: "no-such-nic".to_owned(),
        reserved_cpus: 2,
        manual_speed_mhz: 2500,
        local_pools: local_pools.collect(),
        certificate: "/no/such/cloud.crt".into(),
        uefi_properties: "/no/such/uefi.properties".into(),
        ..Settings::default()
    }
}

async fn hypervisor() -> (Hypervisor, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.xml");
    std::fs::write(&file, NODE).unwrap();
    let hypervisor = Hypervisor::spawn(&format!("test://{}", file.display()));
    hypervisor.connected().await;
    (hypervisor, directory)
}

#[tokio::test]
async fn the_inventory_is_complete() {
    let (hypervisor, _directory) = hypervisor().await;
    let settings = settings(&[(POOL, "/srv/local/"), (Uuid::nil(), "not-absolute")]);
    let constants = ConstantFacts::collect(&settings);
    let inventory = gather(&settings, &hypervisor, &constants).await.unwrap();

    assert_eq!(inventory.cpus, 6);
    assert_eq!(inventory.cpu_sockets, 2);
    assert_eq!(inventory.speed_mhz, 2500);
    assert!([0, 6 * 2500].contains(&inventory.cpu_capacity_mhz));
    let total = MemoryFacts::read(Path::new("/")).unwrap().total;
    assert_eq!(inventory.memory + inventory.reserved_memory, total);
    assert_eq!(inventory.private.ipv4, Ipv4Addr::LOCALHOST);
    assert_eq!(inventory.storage, inventory.private);
    assert_eq!(inventory.public, None);
    assert!(!inventory.secured && inventory.health.is_none());
    assert!(!inventory.os.name.is_empty() && !inventory.hostname.is_empty());

    assert_eq!(inventory.pools.len(), 1);
    assert_eq!((inventory.pools[0].uuid, inventory.pools[0].path.as_str()), (POOL, "/srv/local"));
    assert!(inventory.pools[0].capacity >= inventory.pools[0].available);
    let subjects: Vec<_> = inventory.problems.iter().map(|problem| problem.subject.as_str()).collect();
    assert_eq!(subjects[0], "no-such-nic");
    assert!(subjects[1].ends_with("at not-absolute"), "{subjects:?}");
    assert_eq!(subjects.len(), 2);

    let again = gather(&settings, &hypervisor, &constants).await.unwrap();
    assert_eq!(Inventory { capabilities: inventory.capabilities.clone(), ..again }, inventory);
}

#[tokio::test]
async fn the_inventory_can_be_shown_as_json() {
    let (hypervisor, _directory) = hypervisor().await;
    let settings = settings(&[(POOL, "/srv/json")]);
    let inventory = gather(&settings, &hypervisor, &ConstantFacts::collect(&settings)).await.unwrap();
    let json = serde_json::to_value(&inventory).unwrap();
    assert_eq!(json["pools"][0]["uuid"], POOL.to_string());
    assert_eq!(json["private"]["ipv4"], "127.0.0.1");
}

#[tokio::test]
async fn without_libvirt_there_is_no_inventory() {
    let hypervisor = Hypervisor::spawn("test:///no/such/file.xml");
    let settings = settings(&[]);
    let error = gather(&settings, &hypervisor, &ConstantFacts::collect(&settings)).await.unwrap_err();
    assert!(matches!(error, InventoryError::Node(HypervisorError::NotConnected { .. })), "{error}");
}

#[tokio::test]
async fn a_missing_private_device_gives_way_to_another_or_fails() {
    let root = tempfile::tempdir().unwrap();
    let settings = Settings { root: root.path().to_owned(), ..settings(&[]) };
    let Err(error) = network(&settings, &mut Vec::new()) else { panic!("there is no interface") };
    assert!(matches!(error, InventoryError::NoPrivateAddress { device } if device == "lo"));
}

#[test]
fn a_pool_problem_has_cause_and_remedy() {
    let setting = LocalPoolSetting { uuid: POOL, path: "/gone".to_owned() };
    let error = HypervisorError::MissingDirectory { path: "/gone".to_owned() };
    let problem = pool_problem(&setting, &error);
    assert_eq!(problem.message, "Storage directory /gone does not exist");
    assert_eq!(problem.remedy, "create it, or correct local.storage.path in agent.properties");
}
