//! What the tests of handlers have in common: services on libvirt's test driver, a connection whose
//! requests the test sees, and the way from a command on the wire to its answer.

use super::{Ctx, Identity, Services, SessionLink, SessionRequest, table};
use crate::config::{Config, ConfigStore, FileState};
use crate::host::{capabilities::Capabilities, samples::Samples};
use crate::hypervisor::Hypervisor;
use crate::journal::Journal;
use crate::journal::faults::Faults;
use crate::network::{Bridges, Settings};
use crate::orphans::touched::Touched;
use crate::recovery::Recovery;
use crate::storage::Storage;
use crate::storage::disk::Disks;
use crate::storage::download::Downloads;
use crate::storage::mounts::Mounts;
use crate::storage::qemu_img::QemuImg;
use crate::storage::testing::Nfs;
use crate::wire::Element;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The pool of [`Bench::with_pool`].
pub const POOL: &str = "5f8a1c1e-9d2b-4d6f-8a83-0c1d2e3f4a5b";

/// What is not as usual on a host.
#[derive(Default)]
struct Parts<'a> {
    /// More lines in agent.properties.
    lines: String,
    faults: Faults,
    mounts: Option<Mounts>,
    /// Where its network is; without, it sees only the devices that a test puts below its directory.
    network: Option<Settings>,
    /// Directory of the pool; the usual one is below that of agent.properties.
    pool: Option<&'a Path>,
}

/// A host for one test.
pub struct Bench {
    pub ctx: Ctx,
    pool: PathBuf,
    requests: mpsc::Receiver<SessionRequest>,
    /// Kept, so that the channel does not close.
    _identity: watch::Sender<Option<Identity>>,
    directory: tempfile::TempDir,
}

impl Bench {
    /// A host with the guest and the pool of libvirt's default test node.
    pub async fn new() -> Bench {
        let bench = Bench::start("", |_| "test:///default".into());
        bench.ctx.services.hypervisor.connected().await;
        bench
    }

    /// Like [`Bench::new`], with more lines in agent.properties.
    pub async fn with_properties(lines: &str) -> Bench {
        let bench = Bench::start(lines, |_| "test:///default".into());
        bench.ctx.services.hypervisor.connected().await;
        bench
    }

    /// A host whose hypervisor is described by the XML of a node.
    pub async fn with_node(xml: &str) -> Bench {
        let bench = Bench::start("", |directory| {
            let file = directory.join("node.xml");
            std::fs::write(&file, xml).unwrap();
            format!("test://{}", file.display())
        });
        bench.ctx.services.hypervisor.connected().await;
        bench
    }

    /// A host with a real network, whose work in steps fails where the test wants it to.
    pub async fn with_network_and_faults(network: Settings, faults: Faults) -> Bench {
        let parts = Parts { network: Some(network), faults, ..Parts::default() };
        let bench = Bench::start_with(parts, |_| "test:///default".into());
        bench.ctx.services.hypervisor.connected().await;
        bench
    }

    /// A host that cannot reach its hypervisor.
    pub async fn disconnected() -> Bench {
        Bench::start("", |_| "test:///no/such/file.xml".into())
    }

    /// A host with nothing but a local pool, whose directory is real: [`POOL`] at
    /// [`Bench::pool_dir`].
    pub async fn with_pool() -> Bench {
        Bench::with_pool_of(Parts::default()).await
    }

    /// The same, whose work in steps fails where the test wants it to.
    pub async fn with_pool_and_faults(faults: Faults) -> Bench {
        Bench::with_pool_of(Parts { faults, ..Parts::default() }).await
    }

    /// The same, with its pool in a directory of the test.
    pub async fn with_pool_at(directory: &Path) -> Bench {
        Bench::with_pool_of(Parts { pool: Some(directory), ..Parts::default() }).await
    }

    /// The same, with something to mount secondary storage from.
    pub async fn with_pool_and_nfs(nfs: &Nfs) -> Bench {
        Bench::with_pool_and_nfs_and_faults(nfs, Faults::default()).await
    }

    pub async fn with_pool_and_nfs_and_faults(nfs: &Nfs, faults: Faults) -> Bench {
        let lines = format!("mount.path={}\n", nfs.root().display());
        let mounts = Some(nfs.mounts.clone());
        Bench::with_pool_of(Parts { lines, mounts, faults, ..Parts::default() }).await
    }

    async fn with_pool_of(parts: Parts<'_>) -> Bench {
        let pool = parts.pool.map(Path::to_owned);
        let bench = Bench::start_with(parts, |directory| {
            let pool = pool.unwrap_or_else(|| directory.join("pool"));
            std::fs::create_dir_all(&pool).unwrap();
            let file = directory.join("node.xml");
            let pool = format!(
                "<node><pool type='dir'><name>{POOL}</name><uuid>{POOL}</uuid><target><path>{}</path></target></pool></node>",
                pool.display()
            );
            std::fs::write(&file, pool).unwrap();
            format!("test://{}", file.display())
        });
        bench.ctx.services.hypervisor.connected().await;
        bench
    }

    fn start(lines: &str, uri: impl FnOnce(&Path) -> String) -> Bench {
        Bench::start_with(Parts { lines: lines.to_owned(), ..Parts::default() }, uri)
    }

    fn start_with(parts: Parts<'_>, uri: impl FnOnce(&Path) -> String) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let pool = parts.pool.map_or_else(|| directory.path().join("pool"), Path::to_owned);
        let properties = directory.path().join("agent.properties");
        std::fs::write(&properties, format!("guid=g-1\nhost=127.0.0.1\nzone=1\n{}", parts.lines)).unwrap();
        let known = Identity {
            hostname: "vm".into(),
            private_ip: Some("10.99.0.2".into()),
            arch: "x86_64".into(),
            cpu_capacity_mhz: 0,
        };
        let (_identity, identity) = watch::channel(Some(known));
        let (sender, requests) = mpsc::channel(16);
        let hypervisor = Hypervisor::spawn(&uri(directory.path()));
        let config = ConfigStore::spawn(properties);
        let storage = match parts.mounts {
            None => Storage::spawn(config.clone(), hypervisor.clone()),
            Some(mounts) => {
                let disks = Disks::default();
                let images = QemuImg::find(disks.clone());
                Storage::with(config.clone(), hypervisor.clone(), mounts, images, disks)
            }
        };
        let imitated = || Settings { root: directory.path().to_owned(), ..Settings::default() };
        let bridges = Bridges::new(parts.network.unwrap_or_else(imitated));
        let recovery =
            Recovery { hypervisor: hypervisor.clone(), storage: storage.clone(), bridges: bridges.clone() };
        let journal =
            Journal::with_faults(&directory.path().join("journal"), Box::new(recovery), parts.faults);
        let services = Services {
            storage,
            config,
            hypervisor,
            journal,
            touched: Touched::spawn(directory.path()),
            samples: Samples::spawn(),
            capabilities: Capabilities::spawn(directory.path().join("uefi.properties")),
            bridges,
            downloads: Downloads::new(directory.path().join(crate::tls::download::DIRECTORY)),
            identity,
            ssh_dir: directory.path().join("ssh"),
        };
        let ctx = Ctx {
            services: Arc::new(services),
            session: SessionLink::new(sender),
            logid: "test".into(),
            deadline: Duration::from_secs(60),
        };
        Bench { ctx, pool, requests, _identity, directory }
    }

    /// The answer to a command as it goes out: its class and its fields.
    pub async fn answer(&mut self, class: &str, fields: Value) -> (String, Value) {
        let element = Element::new(class, &fields).unwrap();
        let call = table::find(class).expect("the command is in the table").decode(&element).unwrap();
        let answer = call.run(self.ctx.clone()).await;
        let fields: Value = answer.element.read().unwrap();
        assert_eq!(fields["result"], answer.result, "the wire says something else than the counters");
        (answer.element.class, fields)
    }

    /// What the handlers have asked of the session and the test has not seen yet.
    pub fn request(&mut self) -> Option<SessionRequest> {
        self.requests.try_recv().ok()
    }

    /// The directory of [`POOL`].
    pub fn pool_dir(&self) -> &Path {
        &self.pool
    }

    /// Names of what is in the pool, unfinished files included.
    pub fn pool_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.pool).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// [`POOL`] as `PrimaryDataStoreTO` in its wrapper.
    pub fn store(&self) -> Value {
        json!({"org.apache.cloudstack.storage.to.PrimaryDataStoreTO": {"uuid": POOL, "name": "local", "id": 1,
            "poolType": "Filesystem", "host": "127.0.0.1", "path": self.pool, "port": 0, "isManaged": false}})
    }

    /// [`POOL`] as `StorageFilerTO`.
    pub fn filer(&self) -> Value {
        json!({"id": 1, "uuid": POOL, "host": "127.0.0.1", "path": self.pool, "port": 0, "type": "Filesystem"})
    }

    /// A volume in [`POOL`] as `VolumeObjectTO` in its wrapper, 64 MiB large.
    pub fn volume(&self, name: &str) -> Value {
        json!({"org.apache.cloudstack.storage.to.VolumeObjectTO": {"uuid": name, "volumeType": "DATADISK",
            "dataStore": self.store(), "name": "DATA-1", "size": 64 << 20, "path": name, "volumeId": 5, "accountId": 1,
            "format": "QCOW2", "provisioningType": "THIN", "poolId": 1, "id": 5, "hypervisorType": "KVM",
            "directDownload": false, "deployAsIs": false, "passphrase": [], "followRedirects": false}})
    }

    /// Starts a guest with a file as its only disk, vda; gives its name back.
    pub async fn guest(&self, name: &str, disk: &Path) -> String {
        let xml = format!(
            "<domain type='test'><name>{name}</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>\
             <devices><disk type='file' device='disk'><source file='{}'/><target dev='vda' bus='virtio'/></disk>\
             </devices></domain>",
            disk.display()
        );
        self.ctx.services.hypervisor.start_domain(name, &xml, Duration::from_secs(60)).await.unwrap();
        name.to_owned()
    }

    /// The directory of agent.properties.
    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// The text of agent.properties.
    pub fn properties(&self) -> String {
        std::fs::read_to_string(self.dir().join("agent.properties")).unwrap()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        match &*self.ctx.services.config.current() {
            FileState::Loaded(config) => config.clone(),
            other => panic!("{other:?}"),
        }
    }
}

/// An executable shell script. Another process writes it: a file that this process had open for
/// writing could be inherited by a child of another test at that moment, and would not execute.
pub async fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
    let source = directory.join(format!("{name}.source"));
    let path = directory.join(name);
    std::fs::write(&source, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = crate::host::exec::Program::new("/bin/cp").arg(&source).arg(&path).run().await.unwrap();
    assert!(copy.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    path
}
