//! What a management server of an edge zone (local storage, no secondary storage) asks of a host, as
//! 4.19 words it, and the host it asks: a bridge, a template server, a config drive directory.
// Used by the tests of each command as it comes.
#![allow(dead_code)]

use super::cage::Cage;
use super::host::Host;
use crate::harness::LIMIT;
use cloudstack_agent::sim::edge::{EdgeZone, GuestParts, Request};
pub use cloudstack_agent::sim::edge::{Volume, id};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

pub const BRIDGE: &str = "cloudbr0";
const MIB: u64 = 1 << 20;

/// A host of an edge zone, registered.
pub struct Edge<'a> {
    pub cage: &'a Cage,
    pub host: Host,
}

impl<'a> Edge<'a> {
    pub async fn up(cage: &'a Cage) -> Edge<'a> {
        Edge::with(cage, &[]).await
    }

    /// With more lines in agent.properties.
    pub async fn with(cage: &'a Cage, properties: &[(&str, &str)]) -> Edge<'a> {
        let mut host = Host::new(cage).await;
        host.node.set("hypervisor.type", "qemu");
        host.node.set("host.cache.location", host.node.path("cache").to_str().unwrap());
        let temporary = host.node.path("temporary");
        std::fs::create_dir(&temporary).unwrap();
        host.node.set("direct.download.temporary.download.location", temporary.to_str().unwrap());
        for (key, value) in properties {
            host.node.set(key, value);
        }
        // Shared by all tests of this cage.
        let _ = cage.run(&["ip", "link", "add", BRIDGE, "type", "bridge"]).await;
        cage.run(&["ip", "link", "set", BRIDGE, "up"]).await.unwrap();
        host.register().await;
        Edge { cage, host }
    }

    /// As the server sees it.
    pub fn zone(&self) -> EdgeZone {
        EdgeZone { pool: self.host.pool, directory: self.pool_dir(), bridge: BRIDGE.to_owned() }
    }

    /// Sends one command, which must succeed; gives the fields of the answer.
    pub async fn asked(&self, request: Request) -> Value {
        self.host.good(&request.class, request.fields).await
    }

    /// The local pool's directory.
    pub fn pool_dir(&self) -> PathBuf {
        self.host.node.path("pool")
    }

    pub fn pool_id(&self) -> String {
        self.host.pool.to_string()
    }

    /// Names in the pool, directories left out.
    pub fn pool_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.pool_dir()).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let mut names: Vec<String> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn config_drive(&self, guest: &str) -> PathBuf {
        self.host.node.path(&format!("cache/config/configdrive/{guest}.iso"))
    }

    /// `PrimaryDataStoreTO`, not wrapped.
    pub fn pool(&self) -> Value {
        self.zone().pool()
    }

    pub fn store(&self) -> Value {
        self.zone().store()
    }

    /// `StorageFilerTO`.
    pub fn filer(&self) -> Value {
        self.zone().filer()
    }

    /// `TemplateObjectTO` of a downloaded template, wrapped.
    pub fn template(&self, path: &str) -> Value {
        self.zone().template(path)
    }

    /// `VolumeObjectTO`, not wrapped.
    pub fn volume(&self, volume: &Volume, guest: &str) -> Value {
        self.zone().volume(volume, guest)
    }

    pub fn wrapped_volume(&self, volume: &Volume, guest: &str) -> Value {
        self.zone().wrapped_volume(volume, guest)
    }

    /// `DiskTO`.
    pub fn disk(&self, volume: &Volume, guest: &str) -> Value {
        self.zone().disk(volume, guest)
    }

    /// `VirtualMachineTO` of a user VM with the given disks, an empty CD-ROM, one network card and, if
    /// it was made, a config drive.
    pub fn guest(&self, name: &str, uuid: &str, volumes: &[Volume]) -> Value {
        let config_drive = self.config_drive(name).exists();
        self.zone().guest(GuestParts { name, uuid, volumes, config_drive, nics: 1, memory_mib: 128 })
    }

    /// Downloads a template that a small server offers; gives its name in the pool.
    pub async fn download_template(&self) -> String {
        let url = self.serve_template().await;
        let answer = self.asked(self.zone().download(&url, 64 * MIB)).await;
        answer["installPath"].as_str().unwrap().to_owned()
    }

    /// Starts a server for one bootable template of 64 MiB; gives its URL.
    pub async fn serve_template(&self) -> String {
        let file = self.host.node.path("served.qcow2");
        self.cage.run(&["qemu-img", "create", "-f", "qcow2", file.to_str().unwrap(), "64M"]).await.unwrap();
        let image = std::fs::read(file).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    image.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                if !request[..read].starts_with(b"HEAD") {
                    let _ = stream.write_all(&image).await;
                }
            }
        });
        format!("http://{address}/tiny.qcow2")
    }

    /// Clones a template to a root volume.
    pub async fn root_volume(&self, template: &str, guest: &str) -> Volume {
        let volume = Volume::root(64 * MIB);
        let answer = self.asked(self.zone().clone_template(template, &volume, guest)).await;
        let new = &answer["newData"]["org.apache.cloudstack.storage.to.VolumeObjectTO"];
        assert_eq!((&new["path"], &new["size"]), (&json!(volume.uuid), &json!(volume.size)), "{answer}");
        volume
    }

    /// Makes an empty data volume.
    pub async fn data_volume(&self, guest: &str, device: i64, size: u64) -> Volume {
        let volume = Volume::data(device, size);
        self.asked(self.zone().create_volume(&volume, guest)).await;
        volume
    }

    pub async fn make_config_drive(&self, guest: &str, base64: &str) -> Value {
        self.asked(self.zone().make_config_drive(guest, base64)).await
    }

    pub async fn start(&self, vm: &Value) -> Value {
        self.asked(self.zone().start(vm)).await
    }

    /// Stops by force: these guests have no operating system that would listen.
    pub async fn stop(&self, guest: &str) -> Value {
        self.asked(self.zone().stop(guest, true)).await
    }

    pub async fn delete_volume(&self, volume: &Volume, guest: &str) -> Value {
        self.asked(self.zone().delete_volume(volume, guest)).await
    }

    /// Evicts a template.
    pub async fn evict(&self, template: &str) -> Value {
        self.asked(self.zone().evict(template)).await
    }

    pub async fn good(&self, class: &str, fields: Value) -> Value {
        self.host.good(class, fields).await
    }

    /// Asserts that the answer is of `answer` and failed; gives its details.
    pub async fn refused(&self, class: &str, fields: Value, answer: &str) -> String {
        let (name, fields) = self.host.ask(class, fields).await;
        assert_eq!((name.as_str(), &fields["result"]), (answer, &json!(false)), "{class}: {fields}");
        let details = fields["details"].as_str().unwrap_or_default().to_owned();
        assert!(!details.is_empty() && !details.contains('\n'), "{class}: {fields}");
        details
    }

    /// Sends one command, which must fail; gives its details, of one line.
    pub async fn denied(&self, request: Request) -> String {
        let (name, fields) = self.host.ask(&request.class, request.fields).await;
        assert_eq!(fields["result"], false, "{name}: {fields}");
        let details = fields["details"].as_str().unwrap_or_default().to_owned();
        assert!(!details.is_empty() && !details.contains('\n'), "{name}: {fields}");
        details
    }

    /// The live XML, or what virsh says instead.
    pub async fn xml(&self, guest: &str) -> Result<String, String> {
        self.cage.run(&["virsh", "-q", "-c", "qemu:///system", "dumpxml", guest]).await
    }

    pub async fn runs(&self, guest: &str) -> bool {
        let listed = self.cage.virsh(&["list", "--name"]).await;
        listed.lines().any(|line| line.trim() == guest)
    }

    /// Waits until `condition` holds.
    pub async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Taps of guests on the bridge.
    pub async fn taps(&self) -> Vec<String> {
        let links = self.cage.run(&["ip", "-o", "link", "show", "master", BRIDGE]).await.unwrap_or_default();
        links.lines().filter_map(|line| Some(line.split(": ").nth(1)?.to_owned())).collect()
    }
}

/// `NicTO` on the untagged guest network.
pub fn nic(guest: &str, device: u8) -> Value {
    let zone = EdgeZone { pool: Uuid::nil(), directory: PathBuf::new(), bridge: BRIDGE.to_owned() };
    zone.nic(guest, device)
}

/// A name that no other guest of this test run has.
pub fn guest_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(100);
    format!("i-2-{}-VM", NEXT.fetch_add(1, Ordering::Relaxed))
}
