use super::*;
use crate::config::InvalidValue;
use crate::config::keys::{KEYS, Reload};

const PATH: &str = "/etc/cloudstack/agent/agent.properties";
const UUID_A: &str = "11111111-2222-4333-8444-555555555555";
const UUID_B: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

fn properties(text: &str) -> Properties {
    Properties::parse(text.as_bytes()).expect("small enough")
}

fn read(text: &str) -> Config {
    Config::from_properties(Path::new(PATH), &properties(text)).expect("valid")
}

fn problems(text: &str) -> Vec<InvalidValue> {
    match Config::from_properties(Path::new(PATH), &properties(text)) {
        Err(ConfigError::Invalid { values, .. }) => values,
        other => panic!("{other:?}"),
    }
}

#[test]
fn guests_can_be_emulated_in_software() {
    assert_eq!(read("hypervisor.type=QEMU\n").hypervisor_type, "qemu");
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = read("");
    assert_eq!(config.missing(), ["guid"]);
    assert_eq!(config.resource_guid(), None);
    assert_eq!(
        (config.zone.as_str(), config.pod.as_str(), config.cluster.as_str()),
        ("default", "default", "default")
    );
    assert_eq!(
        (config.host.as_str(), config.servers.hosts.as_slice()),
        ("localhost", &["localhost".to_owned()][..])
    );
    assert_eq!((config.port, config.workers, config.ping_retries), (8250, 5, 5));
    assert_eq!((config.host_lb_check_interval, config.backoff_seconds), (None, None));
    assert_eq!(config.public_network_device, "cloudbr0");
    assert_eq!(
        (config.private_network_device.as_str(), config.guest_network_device.as_str()),
        ("cloudbr1", "cloudbr1")
    );
    assert_eq!((config.private_bridge.as_str(), config.control_cidr.as_str()), ("cloud0", "169.254.0.0/16"));
    assert_eq!(config.local_storage, [LocalStorage { path: "/var/lib/libvirt/images".into(), uuid: None }]);
    assert_eq!(config.mount_path, Path::new("/mnt"));
    assert_eq!((config.hypervisor_type.as_str(), config.hypervisor_uri.as_str()), ("kvm", "qemu:///system"));
    assert_eq!((config.host_reserved_mem_mb, config.host_overcommit_mem_mb), (1024, 0));
    assert_eq!((config.host_reserved_cpu_count, config.host_cpu_manual_speed_mhz), (0, 0));
    assert_eq!(config.ssl_handshake_timeout, Duration::from_secs(30));
    assert_eq!(
        (config.cmds_timeout, config.agent_script_timeout),
        (Duration::from_secs(7200), Duration::from_secs(60))
    );
    assert_eq!(config.stop_script_timeout, Duration::from_secs(120));
    assert_eq!((config.vm_migrate_wait, config.router_aggregation_timeout), (None, None));
    assert!(!config.libvirt_events_enabled && !config.rolling_maintenance_executor_disabled);
    assert_eq!(
        (config.health_check_script.as_ref(), config.rolling_maintenance_hooks_dir.as_ref()),
        (None, None)
    );
    assert_eq!((config.host_id, config.host_uuid.as_ref(), config.host_name.as_ref()), (None, None, None));
    assert_eq!(config.metrics_listen(), None);
    assert!(config.resource.ends_with(RESOURCE) && config.host_tags.is_empty() && config.pool.is_none());
    assert_eq!((config.keystore_passphrase.as_ref(), config.warnings.as_slice()), (None, &[][..]));
    assert_eq!(config.dir(), Path::new("/etc/cloudstack/agent"));
}

#[test]
fn blank_values_mean_the_default() {
    let blank: String = KEYS.iter().map(|key| format!("{}=  \n", key.name)).collect();
    assert_eq!(read(&blank), read(""));
}

#[test]
fn reads_every_field_from_a_file_of_the_java_agent() {
    let config = read(&format!(
        "#Storage\n#Sat Jul 04 10:11:12 UTC 2026\nguid=8f337c97-3339-3d70-9388-3bd28ddb6588\nzone=1\npod=2\n\
         cluster=3\nhost=10.0.0.5,10.0.0.6@shuffle\nport=8251\nhost.lb.check.interval=60\nworkers=12\n\
         public.network.device=br0\nprivate.network.device=br1\nguest.network.device=br2\nprivate.bridge.name=ll0\n\
         control.cidr=10.1.0.0/16\nlocal.storage.path=/a/, /b\nlocal.storage.uuid={UUID_A},{UUID_B}\n\
         mount.path=/srv\nhypervisor.type=KVM\nhypervisor.uri=qemu\\:///session\nlibvirt.events.enabled=Yes\n\
         host.reserved.mem.mb=2048\nhost.overcommit.mem.mb=1\nhost.reserved.cpu.count=2\n\
         host.cpu.manual.speed.mhz=2400\nhost.tags=ssd, ,gpu\nagent.health.check.script.path=/h.sh\n\
         ping.retries=7\nssl.handshake.timeout=9\nbackoff.seconds=3\nkeystore.passphrase=canary-7c1\n\
         rolling.maintenance.hooks.dir=/hooks\nrolling.maintenance.service.executor.disabled=1\n\
         cmds.timeout=10\nagent.script.timeout=11\nstop.script.timeout=12\nvm.migrate.wait=13\n\
         router.aggregation.command.each.timeout=14\nmetrics.listen=127.0.0.1\\:9250\npool=p\nLibvirtComputingResource.id=42\n\
         LibvirtComputingResource.uuid={UUID_B}\nLibvirtComputingResource.name=kvm1\n\
         guest.cpu.mode=host-model\nvm.rng.enable=on\nvm.video.ram=16\n"
    ));
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(
        config.resource_guid().as_deref(),
        Some("8f337c97-3339-3d70-9388-3bd28ddb6588-LibvirtComputingResource")
    );
    assert!(config.missing().is_empty());
    assert_eq!((config.zone.as_str(), config.pod.as_str(), config.cluster.as_str()), ("1", "2", "3"));
    assert_eq!(config.host, "10.0.0.5,10.0.0.6@shuffle");
    assert_eq!((config.servers.hosts.len(), config.servers.algorithm.as_deref()), (2, Some("shuffle")));
    assert_eq!((config.port, config.host_lb_check_interval), (8251, Some(Duration::from_secs(60))));
    assert_eq!((config.workers, config.ping_retries, config.backoff_seconds), (12, 7, Some(3)));
    let devices =
        [&config.public_network_device, &config.private_network_device, &config.guest_network_device];
    assert_eq!(devices, ["br0", "br1", "br2"]);
    assert_eq!((config.private_bridge.as_str(), config.control_cidr.as_str()), ("ll0", "10.1.0.0/16"));
    let pools: Vec<_> = config
        .local_storage
        .iter()
        .map(|pool| (pool.path.to_str(), pool.uuid.map(|id| id.to_string())))
        .collect();
    assert_eq!(pools, [(Some("/a"), Some(UUID_A.to_owned())), (Some("/b"), Some(UUID_B.to_owned()))]);
    assert_eq!(config.mount_path, Path::new("/srv"));
    assert_eq!((config.hypervisor_type.as_str(), config.hypervisor_uri.as_str()), ("kvm", "qemu:///session"));
    assert!(config.libvirt_events_enabled && config.rolling_maintenance_executor_disabled);
    assert_eq!(config.metrics_listen(), "127.0.0.1:9250".parse().ok());
    assert_eq!((config.host_reserved_mem_mb, config.host_overcommit_mem_mb), (2048, 1));
    assert_eq!((config.host_reserved_cpu_count, config.host_cpu_manual_speed_mhz), (2, 2400));
    assert_eq!(config.host_tags, ["ssd", "gpu"]);
    assert_eq!(config.health_check_script.as_deref(), Some(Path::new("/h.sh")));
    assert_eq!(config.rolling_maintenance_hooks_dir.as_deref(), Some(Path::new("/hooks")));
    let times = [
        config.ssl_handshake_timeout,
        config.cmds_timeout,
        config.agent_script_timeout,
        config.stop_script_timeout,
    ];
    assert_eq!(times.map(|time| time.as_secs()), [9, 10, 11, 12]);
    assert_eq!(config.vm_migrate_wait, Some(Duration::from_secs(13)));
    assert_eq!(config.router_aggregation_timeout, Some(Duration::from_secs(14)));
    assert_eq!(config.keystore_passphrase.as_ref().map(Secret::expose), Some("canary-7c1"));
    assert_eq!(
        (config.host_id, config.pool.as_deref(), config.host_name.as_deref()),
        (Some(42), Some("p"), Some("kvm1"))
    );
    assert_eq!(config.host_uuid.as_deref(), Some(UUID_B));
    assert_eq!(
        (config.text("guest.cpu.mode"), config.text("vm.watchdog.model")),
        (Some("host-model"), Some("i6300esb"))
    );
    assert_eq!((config.boolean("vm.rng.enable"), config.number("vm.video.ram")), (Some(true), Some(16)));
    assert_eq!(
        (config.number("kvm.heartbeat.update.frequency"), config.number("no.such.key")),
        (Some(60000), None)
    );
}

#[test]
fn all_invalid_values_are_reported_with_line_key_value_and_what_is_expected() {
    let found = problems(&format!(
        "# c\nport=80a\nhost=@MSHOST@\nhost.reserved.mem.mb=-1\nlocal.storage.uuid=nonsense\n\
         libvirt.events.enabled=maybe\nhypervisor.type=lxc\nprivate.network.device=a/b\nguid=a b\n\
         workers={}\ncontrol.cidr=1.2.3.4\nvm.migrate.wait=soon\ncmds.timeout=0\n",
        "9".repeat(300)
    ));
    let mut places: Vec<_> =
        found.iter().map(|value| (value.line.expect("line"), value.key.as_str())).collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            (2, "port"),
            (3, "host"),
            (4, "host.reserved.mem.mb"),
            (5, "local.storage.uuid"),
            (6, "libvirt.events.enabled"),
            (7, "hypervisor.type"),
            (8, "private.network.device"),
            (9, "guid"),
            (10, "workers"),
            (11, "control.cidr"),
            (12, "vm.migrate.wait"),
            (13, "cmds.timeout"),
        ]
    );
    let port = found.iter().find(|value| value.key == "port").expect("reported");
    assert_eq!(port.to_string(), "line 2: port is \"80a\", expected a whole number from 1 to 65535");
    assert!(found.iter().all(|value| value.found.len() <= 80));
    let error = ConfigError::Invalid { path: PATH.into(), values: vec![port.clone()] };
    assert_eq!(error.to_string(), format!("{PATH}: {port}; correct it, a blank value means the default"));
}

#[test]
fn local_storage_pairs_need_equal_lengths_unless_there_are_no_uuids() {
    let values = problems(&format!("local.storage.path=/a,/b\nlocal.storage.uuid={UUID_A}\n"));
    assert_eq!(values[0].key, "local.storage.uuid");
    assert_eq!(values[0].expected, "as many UUIDs as local.storage.path has directories (2)");
    assert_eq!(problems("local.storage.path=/a,,/b\n")[0].key, "local.storage.path");
    assert_eq!(problems(&format!("local.storage.path=/a,/b\nlocal.storage.uuid={UUID_A},,\n")).len(), 1);
    let config = read("local.storage.path=/, data//,/b/,\nlocal.storage.uuid=\n");
    let paths: Vec<_> = config.local_storage.iter().map(|pool| pool.path.to_str()).collect();
    assert_eq!(paths, [Some("/"), Some("/data"), Some("/b")]);
    assert!(config.local_storage.iter().all(|pool| pool.uuid.is_none()));
    let config = read(&format!("local.storage.path=/a,/a/\nlocal.storage.uuid={UUID_A},{UUID_A}\n"));
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
}

#[test]
fn a_useless_host_id_is_none() {
    for (id, warnings) in [("0", 0), ("-1", 0), ("garbage", 1), ("9223372036854775808", 1)] {
        let config = read(&format!("LibvirtComputingResource.id={id}\n"));
        assert_eq!((config.host_id, config.warnings.len()), (None, warnings), "{id}");
    }
}

#[test]
fn harmless_oddities_are_warnings() {
    let config = read(
        "vm.rng.rate.bytes=lots\nworkers=0\nresource=com.example.Other\nhsot=a\nzone=@ZONE@\nport=1\nport=2\n",
    );
    assert_eq!((config.workers, config.zone.as_str(), config.port), (5, "default", 2));
    assert_eq!(config.number("vm.rng.rate.bytes"), Some(2048));
    assert_eq!(
        config.warnings,
        [
            "line 2: workers is less than 1: the default (5) is used",
            "line 3: resource does not name LibvirtComputingResource, the only one that this agent is",
            "line 1: vm.rng.rate.bytes is \"lots\", expected a whole number from -2147483648 to 2147483647; \
             the default (2048) is used",
            "line 7: port is given more than once: this last value counts, remove the others",
            "line 4: hsot is not a known key and has no effect: check the spelling",
        ]
    );
    let many: String = (0..30).map(|number| format!("x{number}=1\n")).collect();
    assert_eq!(read(&many).warnings.len(), 21);
}

#[test]
fn several_resources_may_be_named() {
    let config =
        read("resource=com.example.Other|com.cloud.hypervisor.kvm.resource.LibvirtComputingResource\n");
    assert!(config.warnings.is_empty());
}

#[test]
fn the_passphrase_stays_out_of_debug_output_and_is_not_trimmed() {
    let config = read("keystore.passphrase=canary-7c1 \n");
    assert_eq!(config.keystore_passphrase.as_ref().map(Secret::expose), Some("canary-7c1 "));
    assert_eq!(config.text("keystore.passphrase"), None);
    assert!(!format!("{config:?}").contains("canary"));
}

#[test]
fn pinned_keys_keep_their_value_and_others_follow() {
    let start = properties(&format!("guid=a\nlocal.storage.uuid={UUID_A}\nworkers=3\nzone=1\n"));
    let now = properties(&format!("guid=b\nlocal.storage.uuid={UUID_B}\nzone=2\nhypervisor.uri=x\n"));
    let mut pins = Pins::of(&start);
    let config = Config::with_pins(Path::new(PATH), &now, &pins).expect("valid");
    let wanted = properties(&format!("guid=a\nlocal.storage.uuid={UUID_A}\nworkers=3\nzone=2\n"));
    assert_eq!(config, Config::from_properties(Path::new(PATH), &wanted).expect("valid"));
    assert_eq!(pins.differing(&now), ["guid", "hypervisor.uri", "local.storage.uuid", "workers"]);
    pins.update("guid", Some("b"));
    pins.update("zone", Some("9"));
    assert_eq!(pins.differing(&now), ["hypervisor.uri", "local.storage.uuid", "workers"]);
    assert!(KEYS.iter().filter(|key| key.reload == Reload::Restart).count() > 7);
}

#[test]
fn a_wrong_address_for_metrics_is_no_reason_not_to_start() {
    for wrong in ["9250", "localhost:9250", "127.0.0.1:0", "10.0.0.1:99999"] {
        let config = read(&format!("metrics.listen={wrong}\n"));
        assert_eq!(config.metrics_listen(), None, "{wrong}");
        assert!(config.warnings.iter().any(|warning| warning.contains("metrics.listen")), "{wrong}");
    }
}
