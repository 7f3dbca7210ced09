//! On libvirt's test driver, which takes every sound domain.

use crate::commands::testing::{Bench, script};
use crate::commands::vm::testing::{
    NAME, UUID, disc, document, exists, not_started, prepare, records, start, started, vm,
};
use crate::journal::faults::{Fault, Faults};
use crate::storage::testing::Nfs;
use serde_json::{Value, json};

const VOLUME: &str = "org.apache.cloudstack.storage.to.VolumeObjectTO";

async fn host() -> Bench {
    let bench = Bench::with_pool().await;
    prepare(&bench).await;
    bench
}

async fn set(bench: &Bench, line: &str) {
    std::fs::write(bench.dir().join("agent.properties"), format!("{}{line}\n", bench.properties())).unwrap();
    bench.ctx.services.config.reload().await;
}

#[tokio::test]
async fn a_guest_starts_once() {
    let mut bench = host().await;
    let wanted = vm(&bench);
    for _ in 0..2 {
        let answer = start(&mut bench, &wanted).await;
        assert_eq!((&answer["result"], &answer["details"]), (&json!(true), &Value::Null), "{answer}");
        assert_eq!(answer["vm"]["vncAddr"], "10.99.0.2");
        let xml = document(&bench).await;
        assert_eq!(xml.text_at("uuid").unwrap(), UUID);
        assert_eq!(xml.attribute_at("devices/interface/source", "bridge").unwrap(), "cloudbr0");
        let source = xml.attribute_at("devices/disk/source", "file").unwrap();
        assert_eq!(source, bench.pool_dir().join("root").to_str().unwrap());
        assert_eq!(xml.attribute_at("devices/graphics", "listen").unwrap(), "10.99.0.2");
        // VNC knows no longer ones.
        assert_eq!(xml.attribute_at("devices/graphics", "passwd").unwrap(), "canaryse");
        assert_eq!(records(&bench), 0);
    }
}

#[tokio::test]
async fn another_guest_of_that_name_is_left_alone() {
    let mut bench = host().await;
    let mut wanted = vm(&bench);
    started(&mut bench, &wanted).await;
    wanted["uuid"] = json!("11111111-2222-3333-4444-555555555555");
    let details = not_started(&mut bench, &wanted).await;
    assert!(details.contains(UUID) && details.contains("virsh destroy"), "{details}");
    assert_eq!(document(&bench).await.text_at("uuid").unwrap(), UUID);
    // Another name with an id that is taken.
    let mut twin = vm(&bench);
    twin["name"] = json!("i-2-4-VM");
    let details = not_started(&mut bench, &twin).await;
    assert!(details.contains("has the name or the id of i-2-4-VM"), "{details}");
    assert_eq!(records(&bench), 0);
}

#[tokio::test]
async fn what_is_missing_is_named_and_nothing_is_left() {
    let mut bench = host().await;
    let wanted = vm(&bench);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut vm = wanted.clone();
        change(&mut vm);
        vm
    };
    let volume = |member: &'static str, value: Value| {
        changed(&move |vm| vm["disks"][0]["data"][VOLUME][member] = value.clone())
    };
    let iso = |template: Value| changed(&move |vm| vm["disks"][1] = disc(3, &template));
    let store = bench.store();
    for (vm, words) in [
        (volume("path", json!("gone")), "Disk 0 of guest i-2-3-VM cannot be used: Volume"),
        (volume("path", json!("..")), "cannot name a volume"),
        (volume("format", json!("VMDK")), "cannot be of the format"),
        (volume("dataStore", Value::Null), "has no data store"),
        (iso(json!({"path": "gone.iso", "imageDataStore": store})), "ISO image"),
        (iso(json!({"path": "../x.iso", "imageDataStore": store})), "is not a path inside"),
        (iso(json!({"path": "x.iso", "imageDataStore": {"x.S3TO": {}}})), "unsupported protocol"),
        (changed(&|vm| vm["nics"][0]["name"] = json!("br9")), "Network card 0 of guest i-2-3-VM: Bridge br9"),
        (changed(&|vm| vm["nics"][0]["type"] = json!("Vpn")), "\"Vpn\""),
        (changed(&|vm| vm["nics"][0]["mac"] = json!("x")), "is no hardware address"),
        (changed(&|vm| vm["cpus"] = json!(0)), "vCPUs"),
        (changed(&|vm| vm["name"] = json!("a/b")), "name of a guest"),
        (changed(&|vm| vm["extraConfig"] = json!({"extraconfig-1": "<a>"})), "extraconfig-1"),
        (changed(&|vm| vm["disks"][0]["data"] = json!({"x.Y": {}})), "neither a volume nor an ISO"),
    ] {
        let details = not_started(&mut bench, &vm).await;
        assert!(details.contains(words), "{words}: {details}");
        assert!(!exists(&bench).await);
        assert_eq!(records(&bench), 0);
    }
    let (_, answer) = bench.answer("com.cloud.agent.api.StartCommand", json!({})).await;
    assert!(answer["details"].as_str().unwrap().contains("which guest"), "{answer}");
}

#[tokio::test]
async fn a_guest_that_would_be_open_to_all_is_refused() {
    let mut bench = host().await;
    let mut wanted = vm(&bench);
    wanted["nics"][0]["isSecurityGroupEnabled"] = json!(true);
    let details = not_started(&mut bench, &wanted).await;
    assert!(details.contains("security groups, which this agent cannot apply"), "{details}");
    assert_eq!(records(&bench), 0);
}

#[tokio::test]
async fn an_interrupted_start_is_none() {
    // Steps of the journal: the guest, the end.
    for at in 1..=2 {
        for fault in [Fault::Error { at }, Fault::Crash { at }] {
            let mut bench = Bench::with_pool_and_faults(Faults::new(fault)).await;
            prepare(&bench).await;
            let wanted = vm(&bench);
            not_started(&mut bench, &wanted).await;
            bench.ctx.services.journal.recover().await;
            assert!(!exists(&bench).await, "{fault:?}");
            assert_eq!(records(&bench), 0, "{fault:?}");
            started(&mut bench, &wanted).await;
        }
    }
}

#[tokio::test]
async fn config_drives_are_found_where_the_server_says() {
    let mut bench = host().await;
    let cache = bench.dir().join("cache");
    set(&bench, &format!("host.cache.location={}", cache.display())).await;
    let path = "configdrive/i-2-3-VM.iso";
    let mut wanted = vm(&bench);
    wanted["disks"][1] = disc(4, &json!({"path": path, "imageDataStore": bench.store()}));
    let mut on_host = wanted.clone();
    on_host["configDriveLocation"] = json!("HOST");
    for (vm, base) in [(wanted, bench.pool_dir().to_owned()), (on_host, cache.join("config"))] {
        let file = base.join(path);
        assert!(not_started(&mut bench, &vm).await.contains(file.to_str().unwrap()));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "iso").unwrap();
        started(&mut bench, &vm).await;
        let xml = document(&bench).await;
        let drive = xml.at("devices").unwrap().all("disk").nth(1).unwrap();
        assert_eq!(drive.attribute_at("source", "file").unwrap(), file.to_str().unwrap());
        assert_eq!(drive.attribute_at("target", "dev").unwrap(), "hdd");
        bench.ctx.services.hypervisor.destroy(NAME).await.unwrap();
    }
}

#[tokio::test]
async fn an_iso_on_secondary_storage_is_mounted_for_the_guest_alone() {
    let Some(nfs) = Nfs::with("/bin/mount --bind \"${5#*:}\" \"$6\"", "exec /bin/umount \"$@\"").await else {
        return;
    };
    let export = nfs.directory.path().join("export");
    std::fs::create_dir_all(export.join("template/9")).unwrap();
    std::fs::write(export.join("template/9/x.iso"), "iso").unwrap();
    let mut bench = Bench::with_pool_and_nfs(&nfs).await;
    prepare(&bench).await;
    let store =
        json!({"com.cloud.agent.api.to.NfsTO": {"_url": format!("nfs://10.0.0.9{}", export.display())}});
    let mut wanted = vm(&bench);
    wanted["disks"][1] = disc(3, &json!({"path": "template/9/gone.iso", "imageDataStore": store}));
    assert!(not_started(&mut bench, &wanted).await.contains("gone.iso was not found"));
    wanted["disks"][1] = disc(3, &json!({"path": "template/9/x.iso", "imageDataStore": store}));
    started(&mut bench, &wanted).await;
    let xml = document(&bench).await;
    let drive = xml.at("devices").unwrap().all("disk").nth(1).unwrap();
    let source = drive.attribute_at("source", "file").unwrap();
    assert!(source.starts_with(nfs.root().to_str().unwrap()) && source.ends_with("/x.iso"), "{source}");
    assert_eq!(std::fs::read_to_string(source).unwrap(), "iso");
}

#[tokio::test]
async fn the_hook_has_the_last_word_on_the_xml_and_hears_of_the_start() {
    let mut bench = host().await;
    let hooks = bench.dir().join("hooks");
    std::fs::create_dir(&hooks).unwrap();
    set(&bench, &format!("agent.hooks.basedir={}", hooks.display())).await;
    script(&hooks, "libvirt-vm-xml-transformer.sh", "echo \"$2\" | sed 's/<pae/<hap\\/><pae/'").await;
    let log = hooks.join("log");
    script(&hooks, "libvirt-vm-state-change.sh", &format!("echo \"$@\" >> {}", log.display())).await;
    let wanted = vm(&bench);
    started(&mut bench, &wanted).await;
    assert!(document(&bench).await.at("features/hap").is_some());
    assert_eq!(std::fs::read_to_string(log).unwrap(), format!("onStart {NAME}\n"));
}
