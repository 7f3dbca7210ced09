//! Against libvirt's test driver; real guests are in `tests/behaviour/real_unmanaged.rs`.

use crate::commands::testing::Bench;
use crate::commands::vm::testing;
use crate::hypervisor::{DomainState, Passwords};
use serde_json::{Value, json};

const LIST: &str = "com.cloud.agent.api.GetUnmanagedInstancesCommand";
const UNMANAGE: &str = "com.cloud.agent.api.UnmanageInstanceCommand";

const NODE: &str = "<node><cpu><mhz>2600</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>\
    <sockets>1</sockets><cores>4</cores><threads>1</threads></cpu><memory>8388608</memory>\
    <domain type='test'><name>legacy</name><memory>524288</memory><vcpu>2</vcpu><cputune><shares>1000</shares></cputune>\
    <os><type>hvm</type></os><cpu><topology sockets='1' cores='2' threads='1'/></cpu><devices>\
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/images/root.qcow2'/>\
    <target dev='vda' bus='virtio'/></disk>\
    <disk type='network' device='disk'><source protocol='rbd' name='pool/data'><host name='mon1' port='6789'/></source>\
    <target dev='vdb' bus='virtio'/></disk>\
    <disk type='file' device='cdrom'><source file='/cache/configdrive/legacy.iso'/><target dev='hdc' bus='ide'/></disk>\
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='breth0-100'/><target dev='vnet9'/>\
    <model type='virtio'/><address type='pci' domain='0x0000' bus='0x00' slot='0x1a' function='0x0'/></interface>\
    <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='cloudbr0'/></interface>\
    <graphics type='vnc' port='5901' passwd='canary'/></devices></domain>\
    <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><test:runstate>5</test:runstate>\
    <name>stopped</name><memory>262144</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>\
    <domain type='test'><name>i-2-3-VM</name><memory>262144</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain></node>";

async fn list(bench: &mut Bench, name: Option<&str>) -> Value {
    let fields = json!({"instanceName": name, "managedInstancesNames": ["i-2-3-VM"]});
    let (class, fields) = bench.answer(LIST, fields).await;
    assert_eq!(class, "com.cloud.agent.api.GetUnmanagedInstancesAnswer");
    fields
}

#[tokio::test]
async fn a_guest_is_told_as_servers_know_it() {
    let mut bench = Bench::with_node(NODE).await;
    let fields = list(&mut bench, None).await;
    assert_eq!((&fields["result"], &fields["details"]), (&json!(true), &json!("OK")));
    let all = fields["unmanagedInstances"].as_object().unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["legacy", "stopped"]);
    assert_eq!((&all["stopped"]["powerState"], &all["stopped"]["memory"]), (&json!("PowerOff"), &json!(256)));

    let mut guest = all["legacy"].clone();
    let password = guest["vncPassword"].take();
    let password = password.as_str().unwrap();
    assert!(password.starts_with("canary") && password.len() == 22, "{password}");
    guest.as_object_mut().unwrap().remove("vncPassword");
    // The test driver makes up names of interfaces.
    for nic in guest["nics"].as_array_mut().unwrap() {
        assert!(nic.as_object_mut().unwrap().remove("network").unwrap().is_string());
    }
    for disk in guest["disks"].as_array_mut().unwrap() {
        disk.as_object_mut().unwrap().remove("capacity");
    }
    let expected = json!({"name": "legacy", "powerState": "PowerOn", "cpuCores": 2, "cpuCoresPerSocket": 2, "cpuSpeed": 500,
        "memory": 512, "bootType": "BIOS", "bootMode": "LEGACY",
        "disks": [{"diskId": "0", "position": 0, "label": "vda", "fileBaseName": "root.qcow2", "imagePath": "/images/root.qcow2",
            "controller": "virtio", "datastoreHost": "10.99.0.2", "datastorePath": "/images", "datastoreName": "/images",
            "datastorePort": 0, "datastoreType": "file"},
            {"diskId": "1", "position": 1, "label": "vdb", "fileBaseName": "data", "imagePath": "pool/data", "controller": "virtio",
            "datastoreHost": "mon1", "datastorePath": "pool/data", "datastoreName": "pool/data", "datastorePort": 6789,
            "datastoreType": "network"}],
        "nics": [{"nicId": "0", "macAddress": "52:54:00:00:00:01", "adapterType": "virtio", "vlan": 100,
            "pciSlot": "26"},
            {"nicId": "1", "macAddress": "52:54:00:00:00:02", "vlan": -1}]});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&guest[name], value, "{name}");
    }
}

#[tokio::test]
async fn one_guest_is_told_alone() {
    let mut bench = Bench::with_node(NODE).await;
    let fields = list(&mut bench, Some("stopped")).await;
    assert_eq!(fields["instanceName"], "stopped");
    assert_eq!(fields["unmanagedInstances"].as_object().unwrap().len(), 1);
    for (name, why) in [
        ("gone", "gone does not exist"),
        ("i-2-3-VM", "i-2-3-VM is managed already"),
        ("../x", "name of a guest"),
    ] {
        let fields = list(&mut bench, Some(name)).await;
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().contains(why), "{fields}");
    }
}

#[tokio::test]
async fn only_guests_that_are_here_can_be_given_up() {
    let mut bench = Bench::with_node(NODE).await;
    let prepare = "com.cloud.agent.api.PrepareUnmanageVMInstanceCommand";
    for (name, result) in [("legacy", true), ("stopped", true), ("gone", false), ("../x", false)] {
        let (class, fields) = bench.answer(prepare, json!({"instanceName": name})).await;
        assert_eq!(class, "com.cloud.agent.api.PrepareUnmanageVMInstanceAnswer");
        assert_eq!(fields["result"], result, "{fields}");
    }
    for (fields, why) in [
        (json!({"instanceName": "gone"}), "does not run on this host"),
        (json!({"instanceName": "gone", "vm": {"name": "other"}}), "does not run on this host"),
        (json!({"instanceName": "gone", "vm": {"name": "gone"}}), "0 vCPUs"),
        (json!({}), "name of a guest"),
    ] {
        let (class, fields) = bench.answer(UNMANAGE, fields).await;
        assert_eq!(class, "com.cloud.agent.api.UnmanageInstanceAnswer");
        assert_eq!(fields["result"], false);
        assert!(fields["details"].as_str().unwrap().contains(why), "{fields}");
    }
}

#[tokio::test]
async fn a_guest_is_left_without_its_config_drive() {
    let mut bench = Bench::with_node(NODE).await;
    for _ in 0..2 {
        let fields = json!({"instanceName": "legacy", "isConfigDriveAttached": true});
        let (_, fields) = bench.answer(UNMANAGE, fields).await;
        assert_eq!((&fields["result"], &fields["details"]), (&json!(true), &json!("Successfully unmanaged")));
    }
    let kept = crate::hypervisor::Flavour::Inactive;
    let document = bench.ctx.services.hypervisor.domain_xml("legacy", kept).await.unwrap().unwrap();
    assert!(!document.contains("legacy.iso") && document.contains("passwd='canary'"), "{document}");
}

#[tokio::test]
async fn a_remote_host_that_does_not_answer_is_a_plain_failure() {
    let mut bench = Bench::new().await;
    for (ip, why) in [
        (
            "127.0.0.1",
            "Unable to connect to remote host 127.0.0.1, please check the libvirtd tcp connectivity and retry",
        ),
        ("kvm.example", "not named by an IP address"),
        ("", "not named by an IP address"),
    ] {
        let fields = json!({"remoteIp": ip, "username": "root", "password": "canary"});
        let (class, fields) = bench.answer("com.cloud.agent.api.GetRemoteVmsCommand", fields).await;
        assert_eq!((class.as_str(), &fields["result"]), ("com.cloud.agent.api.Answer", &json!(false)));
        assert!(fields["details"].as_str().unwrap().contains(why), "{fields}");
    }
}

#[tokio::test]
async fn a_stopped_guest_is_defined_as_it_would_start() {
    let mut bench = Bench::with_pool().await;
    let unmanage =
        json!({"instanceName": testing::NAME, "vm": testing::vm(&bench), "isConfigDriveAttached": false});
    let (_, fields) = bench.answer(UNMANAGE, unmanage.clone()).await;
    assert!(fields["details"].as_str().unwrap().contains("was not found"), "there is no volume: {fields}");
    testing::prepare(&bench).await;
    for _ in 0..2 {
        let (_, fields) = bench.answer(UNMANAGE, unmanage.clone()).await;
        assert_eq!(fields["result"], true, "{fields}");
        let guest = bench.ctx.services.hypervisor.describe(testing::NAME, Passwords::LeftOut).await.unwrap();
        let guest = guest.unwrap();
        assert_eq!((guest.state, guest.persistent), (DomainState::Shutoff, true));
        assert!(guest.description.disks[0].source.as_deref().unwrap().ends_with("/root"));
        assert_eq!(guest.description.interfaces[0].source.as_deref(), Some("cloudbr0"));
    }
}
