//! What a server of an edge zone (local storage, no secondary storage) asks of a host, worded as
//! 4.19 does: the commands of a guest's life, as values.

use serde_json::{Value, json};
use std::path::PathBuf;
use uuid::Uuid;

const API: &str = "com.cloud.agent.api";
const STORAGE: &str = "org.apache.cloudstack.storage.command";
const DOWNLOAD: &str = "org.apache.cloudstack.agent.directdownload";
const MIB: u64 = 1 << 20;

/// A command: its class and its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub class: String,
    pub fields: Value,
}

impl Request {
    fn new(package: &str, name: &str, fields: Value) -> Request {
        Request { class: format!("{package}.{name}"), fields }
    }
}

/// A volume as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub uuid: String,
    /// `ROOT` or `DATADISK`.
    pub kind: &'static str,
    pub device: i64,
    /// In bytes.
    pub size: u64,
}

impl Volume {
    pub fn root(size: u64) -> Volume {
        Volume { uuid: id(), kind: "ROOT", device: 0, size }
    }

    pub fn data(device: i64, size: u64) -> Volume {
        Volume { uuid: id(), kind: "DATADISK", device, size }
    }
}

/// What a guest is made of.
#[derive(Debug, Clone, Copy)]
pub struct GuestParts<'a> {
    pub name: &'a str,
    pub uuid: &'a str,
    pub volumes: &'a [Volume],
    /// Whether its config drive was made, in the host's cache.
    pub config_drive: bool,
    /// On the bridge of the zone.
    pub nics: u8,
    pub memory_mib: u64,
}

/// The zone's host, as the server sees it.
#[derive(Debug, Clone)]
pub struct EdgeZone {
    /// The local pool.
    pub pool: Uuid,
    pub directory: PathBuf,
    /// Traffic label of untagged guest traffic.
    pub bridge: String,
}

impl EdgeZone {
    pub fn pool_id(&self) -> String {
        self.pool.to_string()
    }

    /// `PrimaryDataStoreTO`, not wrapped.
    pub fn pool(&self) -> Value {
        let (pool, directory) = (self.pool_id(), self.directory.display());
        json!({"uuid": pool, "name": "vm-local", "id": 1, "poolType": "Filesystem", "host": "127.0.0.1",
            "path": self.directory, "port": 0, "isManaged": false,
            "url": format!("Filesystem://127.0.0.1{directory}/?ROLE=Primary&STOREUUID={pool}")})
    }

    pub fn store(&self) -> Value {
        json!({"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": self.pool()})
    }

    /// `StorageFilerTO`.
    pub fn filer(&self) -> Value {
        json!({"id": 1, "uuid": self.pool_id(), "host": "127.0.0.1", "path": self.directory, "port": 0,
            "type": "Filesystem"})
    }

    /// `TemplateObjectTO` of a downloaded template, wrapped.
    pub fn template(&self, path: &str) -> Value {
        json!({"org.apache.cloudstack.storage.to.TemplateObjectTO": {"path": path, "uuid": id(), "id": 202,
            "format": "QCOW2", "accountId": 1, "hvm": true, "imageDataStore": self.store(), "name": "202-1-x",
            "size": 64 * MIB, "hypervisorType": "KVM", "directDownload": true, "followRedirects": false}})
    }

    /// `VolumeObjectTO`, not wrapped.
    pub fn volume(&self, volume: &Volume, guest: &str) -> Value {
        json!({"uuid": volume.uuid, "volumeType": volume.kind, "dataStore": self.store(),
            "name": format!("{}-1", volume.kind), "size": volume.size, "path": volume.uuid, "volumeId": 2,
            "vmName": guest, "accountId": 1, "format": "QCOW2", "provisioningType": "THIN", "poolId": 1, "id": 2,
            "deviceId": volume.device, "bytesReadRate": 0, "bytesWriteRate": 0, "iopsReadRate": 0,
            "iopsWriteRate": 0, "hypervisorType": "KVM", "directDownload": true, "deployAsIs": false,
            "passphrase": [], "followRedirects": false})
    }

    pub fn wrapped_volume(&self, volume: &Volume, guest: &str) -> Value {
        json!({"org.apache.cloudstack.storage.to.VolumeObjectTO": self.volume(volume, guest)})
    }

    /// `DiskTO`.
    pub fn disk(&self, volume: &Volume, guest: &str) -> Value {
        json!({"data": self.wrapped_volume(volume, guest), "diskSeq": volume.device, "path": volume.uuid,
            "type": volume.kind, "_details": {"storageHost": "127.0.0.1", "managed": "false", "storagePort": "0",
            "storage.pool.disk.wait": "60", "volumeSize": volume.size.to_string()}})
    }

    /// `NicTO` on the untagged guest network.
    pub fn nic(&self, guest: &str, device: u8) -> Value {
        let number = guest.bytes().fold(device, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        json!({"deviceId": device, "networkRateMbps": 200, "defaultNic": device == 0, "pxeDisable": false,
            "nicUuid": id(), "uuid": id(), "ip": "10.99.0.100", "netmask": "255.255.255.0",
            "gateway": "10.99.0.1", "mac": format!("1e:00:dd:00:{device:02x}:{number:02x}"), "dns1": "9.9.9.9",
            "broadcastType": "Native", "type": "Guest", "broadcastUri": "vlan://untagged",
            "isolationUri": "vlan://untagged", "isSecurityGroupEnabled": false, "name": self.bridge})
    }

    /// `VirtualMachineTO` of a user VM with an empty CD-ROM drive.
    pub fn guest(&self, parts: GuestParts<'_>) -> Value {
        let GuestParts { name, uuid, volumes, config_drive, nics, memory_mib } = parts;
        let mut disks: Vec<Value> = volumes.iter().map(|volume| self.disk(volume, name)).collect();
        disks.push(
            json!({"data": {"org.apache.cloudstack.storage.to.TemplateObjectTO": {"id": 0, "format": "ISO",
                "accountId": 0, "hvm": false}}, "diskSeq": 3, "type": "ISO"}),
        );
        if config_drive {
            let drive = config_drive_file(name);
            disks.push(json!({"data": {"org.apache.cloudstack.storage.to.TemplateObjectTO": {"path": drive,
                "uuid": uuid, "id": 0, "format": "ISO", "accountId": 0, "hvm": false,
                "imageDataStore": self.store()}}, "diskSeq": 4, "path": drive, "type": "ISO"}));
        }
        let nics: Vec<Value> = (0..nics).map(|device| self.nic(name, device)).collect();
        let memory = memory_mib * MIB;
        json!({"id": 7, "name": name, "state": "Starting", "type": "User", "cpus": 1, "minSpeed": 500,
            "maxSpeed": 500, "minRam": memory, "maxRam": memory, "arch": "x86_64", "os": "Other Linux (64-bit)",
            "platformEmulator": "Other Linux", "bootArgs": "", "enableHA": false, "limitCpuUse": false,
            "enableDynamicallyScaleVm": false, "vncPassword": "secretsecret",
            "params": {"configDriveLocation": "HOST"}, "uuid": uuid, "enterHardwareSetup": false, "disks": disks,
            "nics": nics, "vcpuMaxLimit": 1, "configDriveLabel": "config-2", "configDriveLocation": "HOST",
            "guestOsDetails": {}, "extraConfig": {}})
    }

    /// Downloads a template of `size` virtual bytes.
    pub fn download(&self, url: &str, size: u64) -> Request {
        let fields = json!({"url": url, "templateId": 202, "destPool": self.pool(), "headers": {},
            "connectTimeout": 5000, "soTimeout": 5000, "templateSize": size, "format": "QCOW2",
            "followRedirects": false, "wait": 10800});
        Request::new(DOWNLOAD, "HttpDirectDownloadCommand", fields)
    }

    /// Makes a root volume from a template.
    pub fn clone_template(&self, template: &str, volume: &Volume, guest: &str) -> Request {
        let fields = json!({"srcTO": self.template(template), "destTO": self.wrapped_volume(volume, guest),
            "executeInSequence": true, "options": {}, "options2": {}, "wait": 10800});
        Request::new(STORAGE, "CopyCommand", fields)
    }

    pub fn create_volume(&self, volume: &Volume, guest: &str) -> Request {
        Request::new(STORAGE, "CreateObjectCommand", json!({"data": self.wrapped_volume(volume, guest)}))
    }

    pub fn delete_volume(&self, volume: &Volume, guest: &str) -> Request {
        Request::new(STORAGE, "DeleteCommand", json!({"data": self.wrapped_volume(volume, guest)}))
    }

    pub fn attach(&self, volume: &Volume, guest: &str) -> Request {
        let fields = json!({"disk": self.disk(volume, guest), "vmName": guest, "inSeq": false,
            "controllerInfo": {"rootDiskController": "virtio", "dataDiskController": "virtio"}});
        Request::new(STORAGE, "AttachCommand", fields)
    }

    pub fn detach(&self, volume: &Volume, guest: &str) -> Request {
        let fields = json!({"disk": self.disk(volume, guest), "vmName": guest, "isManaged": false,
            "storagePort": 0, "forced": false, "params": {}});
        Request::new(STORAGE, "DettachCommand", fields)
    }

    /// Gives the volume another size; `guest` is empty if none has it.
    pub fn resize(&self, volume: &Volume, new_size: u64, guest: &str) -> Request {
        let fields = json!({"path": volume.uuid, "pool": self.filer(), "vmInstance": guest, "newSize": new_size,
            "currentSize": volume.size, "shrinkOk": false, "contextParam": {}, "managed": false});
        Request::new(&format!("{API}.storage"), "ResizeVolumeCommand", fields)
    }

    /// Makes a config drive in the host's cache.
    pub fn make_config_drive(&self, guest: &str, base64: &str) -> Request {
        let mut request = self.drop_config_drive(guest);
        if let Some(fields) = request.fields.as_object_mut() {
            fields.insert("isoData".to_owned(), base64.into());
            fields.insert("create".to_owned(), true.into());
        }
        request
    }

    pub fn drop_config_drive(&self, guest: &str) -> Request {
        let fields = json!({"isoFile": config_drive_file(guest), "create": false, "destStore": self.store(),
            "useHostCacheOnUnsupportedPool": true, "preferHostCache": true});
        Request::new(API, "HandleConfigDriveIsoCommand", fields)
    }

    pub fn start(&self, vm: &Value) -> Request {
        let fields = json!({"vm": vm, "hostIp": "127.0.0.1", "executeInSequence": false});
        Request::new(API, "StartCommand", fields)
    }

    pub fn stop(&self, guest: &str, force: bool) -> Request {
        let fields = json!({"isProxy": false, "checkBeforeCleanup": false, "forceStop": force,
            "vlanToPersistenceMap": {"untagged": true}, "volumesToDisconnect": [], "vmName": guest,
            "executeInSequence": false});
        Request::new(API, "StopCommand", fields)
    }

    /// A button press: the guest is asked, and goes on running.
    pub fn reboot(&self, guest: &str) -> Request {
        Request::new(API, "RebootCommand", json!({"vmName": guest, "executeInSequence": false}))
    }

    /// `SnapshotObjectTO` of a volume, wrapped; `path` is empty before it is taken.
    fn snapshot(&self, volume: &Volume, guest: &str, name: &str, path: &str) -> Value {
        let mut snapshot = json!({"volume": self.volume(volume, guest), "dataStore": self.store(), "vmName": guest,
            "name": name, "hypervisorType": "KVM", "id": 1, "quiescevm": false, "physicalSize": 0, "accountId": 1,
            "followRedirects": false});
        if let (Some(fields), false) = (snapshot.as_object_mut(), path.is_empty()) {
            fields.insert("path".to_owned(), path.into());
        }
        json!({"org.apache.cloudstack.storage.to.SnapshotObjectTO": snapshot})
    }

    pub fn take_snapshot(&self, volume: &Volume, guest: &str, name: &str) -> Request {
        let fields = json!({"data": self.snapshot(volume, guest, name, "")});
        Request::new(STORAGE, "CreateObjectCommand", fields)
    }

    /// `path` is what the answer to the taking said.
    pub fn delete_snapshot(&self, volume: &Volume, guest: &str, name: &str, path: &str) -> Request {
        let fields = json!({"data": self.snapshot(volume, guest, name, path)});
        Request::new(STORAGE, "DeleteCommand", fields)
    }

    /// `CreateVMSnapshotCommand`, `RevertToVMSnapshotCommand` or `DeleteVMSnapshotCommand` of disks and
    /// memory.
    pub fn guest_snapshot(
        &self,
        command: &str,
        volumes: &[Volume],
        guest: &str,
        uuid: &str,
        name: &str,
    ) -> Request {
        let volumes: Vec<Value> = volumes.iter().map(|volume| self.volume(volume, guest)).collect();
        let fields = json!({"vmUuid": uuid, "volumeTOs": volumes, "vmName": guest, "reloadVm": false,
            "target": {"id": 1, "snapshotName": name, "type": "DiskAndMemory", "current": false, "quiescevm": false},
            "guestOSType": "Other Linux (64-bit)", "platformEmulator": "Other Linux", "wait": 1800});
        Request::new(API, command, fields)
    }

    /// Evicts a template.
    pub fn evict(&self, template: &str) -> Request {
        let fields = json!({"volume": {"id": 1, "mountPoint": self.directory, "path": template, "size": 200_704,
            "storagePoolType": "Filesystem", "storagePoolUuid": self.pool_id(), "deviceId": 0}});
        Request::new(&format!("{API}.storage"), "DestroyCommand", fields)
    }

    pub fn statistics(&self, guests: &[String]) -> Request {
        let fields = json!({"vmNames": guests, "hostGuid": "g", "hostName": "h"});
        Request::new(API, "GetVmStatsCommand", fields)
    }
}

/// Of a guest's config drive, below the store or the cache.
pub fn config_drive_file(guest: &str) -> String {
    format!("configdrive/{guest}.iso")
}

/// A fresh id, as text.
pub fn id() -> String {
    Uuid::new_v4().to_string()
}
