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
use crate::storage::download::Downloads;
use crate::wire::Element;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A host for one test.
pub struct Bench {
    pub ctx: Ctx,
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

    /// A host that cannot reach its hypervisor.
    pub async fn disconnected() -> Bench {
        Bench::start("", |_| "test:///no/such/file.xml".into())
    }

    fn start(lines: &str, uri: impl FnOnce(&Path) -> String) -> Bench {
        Bench::start_with_faults(lines, uri, Faults::default())
    }

    fn start_with_faults(lines: &str, uri: impl FnOnce(&Path) -> String, faults: Faults) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let properties = directory.path().join("agent.properties");
        std::fs::write(&properties, format!("guid=g-1\nhost=127.0.0.1\nzone=1\n{lines}")).unwrap();
        let known =
            Identity { hostname: "vm".into(), private_ip: Some("10.99.0.2".into()), arch: "x86_64".into() };
        let (_identity, identity) = watch::channel(Some(known));
        let (sender, requests) = mpsc::channel(16);
        let hypervisor = Hypervisor::spawn(&uri(directory.path()));
        let config = ConfigStore::spawn(properties);
        let storage = Storage::spawn(config.clone(), hypervisor.clone());
        // Sees only the devices that a test puts below its directory.
        let bridges = Bridges::new(Settings { root: directory.path().to_owned(), ..Settings::default() });
        let recovery =
            Recovery { hypervisor: hypervisor.clone(), storage: storage.clone(), bridges: bridges.clone() };
        let journal = Journal::with_faults(&directory.path().join("journal"), Box::new(recovery), faults);
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
        Bench { ctx, requests, _identity, directory }
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
