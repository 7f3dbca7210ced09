//! A host with a guest whose disks are snapshot: what the tests of snapshots have in common.

use super::cage::Cage;
use super::edge::{Edge, Volume};
use super::guest::Guest;
use super::host::Host;
use serde_json::{Value, json};
use std::path::PathBuf;

pub const SNAPSHOT: &str = "org.apache.cloudstack.storage.to.SnapshotObjectTO";
const MIB: u64 = 1 << 20;

/// A host with a guest that has two disks: its root disk, and a data disk over a template.
pub struct Scene<'a> {
    pub edge: Edge<'a>,
    pub guest: Guest<'a>,
    pub root: Volume,
    pub data: Volume,
}

impl<'a> Scene<'a> {
    /// `launcher` is put before the agent's command line.
    pub async fn new(cage: &'a Cage, launcher: &[&str]) -> Scene<'a> {
        let mut host = Host::new(cage).await;
        let words = launcher.iter().map(|word| (*word).to_owned());
        host.node.launched_by(cage.launcher().into_iter().chain(words).collect());
        host.register().await;
        Scene::on(cage, host).await
    }

    async fn on(cage: &'a Cage, host: Host) -> Scene<'a> {
        let edge = Edge { cage, host };
        let pool = edge.pool_dir();
        let guest = Guest::new(cage, &pool).await;
        let volume = |uuid: &str, kind: &'static str, device: i64| Volume {
            uuid: uuid.to_owned(),
            kind,
            device,
            size: 4 * MIB,
        };
        let root = volume(guest.disk.file_name().unwrap().to_str().unwrap(), "ROOT", 0);
        let data = volume("data", "DATADISK", 1);
        let [template, path] = ["template", "data"].map(|name| pool.join(name).to_str().unwrap().to_owned());
        cage.run(&["qemu-img", "create", "-q", "-f", "qcow2", &template, "4M"]).await.unwrap();
        let over = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &template, &path];
        cage.run(&over).await.unwrap();
        let scene = Scene { edge, guest, root, data };
        scene.start().await;
        scene
    }

    /// Starts the guest with both disks.
    pub async fn start(&self) {
        self.guest.start().await;
        let data = self.file("data");
        let data = data.to_str().unwrap();
        let attach =
            ["attach-disk", &self.guest.name, data, "vdb", "--driver", "qemu", "--subdriver", "qcow2"];
        self.cage().virsh(&attach).await;
        self.guest.boots().await;
    }

    fn cage(&self) -> &Cage {
        self.edge.cage
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.edge.pool_dir().join(name)
    }

    /// Lets the guest write a byte to the first 64 KiB of its data disk, for good.
    pub async fn writes(&self, byte: u8) {
        for command in [format!("write -P {byte} 0 64k"), "flush".to_owned()] {
            let command = format!("qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend \"{command}\"");
            let told =
                self.cage().virsh(&["qemu-monitor-command", &self.guest.name, "--hmp", &command]).await;
            assert_eq!(told, "");
        }
        self.sees(byte).await;
    }

    /// Asserts what the guest reads there.
    pub async fn sees(&self, byte: u8) {
        self.holds(&self.source().await, byte).await;
    }

    /// Asserts what an image has there.
    pub async fn holds(&self, file: &str, byte: u8) {
        let path = self.file(file);
        let command = format!("read -P {byte} 0 64k");
        let read = ["qemu-io", "-r", "-U", "-f", "qcow2", "-c", &command, path.to_str().unwrap()];
        let told = self.cage().run(&read).await.unwrap();
        assert!(told.contains("read 65536/65536") && !told.contains("verification failed"), "{file}: {told}");
    }

    /// File that the guest's data disk is on.
    pub async fn source(&self) -> String {
        let listed = self.cage().virsh(&["domblklist", &self.guest.name]).await;
        let line = listed.lines().find(|line| line.trim_start().starts_with("vdb ")).expect("there is vdb");
        let path = PathBuf::from(line.split_whitespace().nth(1).unwrap());
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// Asserts that the guest is on its own files again, and that there are no others.
    pub async fn is_as_before(&self) {
        assert_eq!(self.source().await, "data");
        self.has_only_its_files();
    }

    pub fn has_only_its_files(&self) {
        let mut expected = vec!["data".to_owned(), self.root.uuid.clone(), "template".to_owned()];
        expected.sort();
        assert_eq!(self.edge.pool_files(), expected);
    }

    /// `SnapshotObjectTO` of the data disk.
    pub fn snapshot(&self, path: Option<&str>) -> Value {
        json!({"path": path, "volume": self.edge.volume(&self.data, &self.guest.name), "dataStore": self.edge.store(),
            "vmName": self.guest.name, "name": "snapshot", "hypervisorType": "KVM", "id": 1, "quiescevm": false,
            "physicalSize": 0, "accountId": 1, "followRedirects": false})
    }

    pub fn take(&self) -> Value {
        json!({"data": {SNAPSHOT: self.snapshot(None)}})
    }

    pub fn snapshots(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.file("snapshots")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Fields of the commands about snapshots of the whole guest.
    pub fn whole(&self, kind: &str) -> Value {
        let name = &self.guest.name;
        json!({"vmName": name, "volumeTOs": [self.edge.volume(&self.root, name), self.edge.volume(&self.data, name)],
            "target": {"id": 1, "snapshotName": format!("{name}_VS_1"), "type": kind, "createTime": 1_795_370_733_000_i64,
            "current": true, "quiescevm": false}})
    }

    /// Snapshots inside the guest's images.
    pub async fn inside(&self) -> usize {
        let mut count = 0;
        for name in ["data", &self.root.uuid] {
            let path = self.file(name);
            let list = ["qemu-img", "snapshot", "-U", "-l", path.to_str().unwrap()];
            let listed = self.cage().run(&list).await.unwrap();
            count += listed.lines().filter(|line| line.contains("_VS_1")).count();
        }
        count
    }

    /// The data disk on another file.
    pub fn volume(&self, path: &str) -> Value {
        let volume = Volume { uuid: path.to_owned(), ..self.data.clone() };
        self.edge.wrapped_volume(&volume, &self.guest.name)
    }

    /// A file that a snapshot of the data disk has left, or any other of the pool.
    pub fn layer(&self, path: &str) -> Value {
        json!({SNAPSHOT: self.snapshot(Some(path))})
    }

    /// `SnapshotMergeTreeTO`
    pub fn tree(&self, parent: &str, child: Value, grandchildren: &[&str]) -> Value {
        let grandchildren: Vec<Value> = grandchildren.iter().map(|path| self.volume(path)).collect();
        json!({"parent": self.layer(parent), "child": child, "grandChildren": grandchildren})
    }

    pub fn merge(&self, trees: &[Value]) -> Value {
        json!({"snapshotMergeTreeToList": trees, "vmState": "Running", "vmName": self.guest.name})
    }
}
