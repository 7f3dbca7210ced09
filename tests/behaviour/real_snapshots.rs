//! Snapshots of volumes and of whole guests on a real libvirt, with guests that run: nothing that a guest
//! writes is lost, and no guest is left on an overlay, whatever happens in between.

use crate::harness::script;
use crate::real::cage::Cage;
use crate::real::edge::{Edge, Volume};
use crate::real::guest::Guest;
use crate::real::host::Host;
use crate::real::with_libvirt;
use serde_json::{Value, json};
use std::path::PathBuf;

const STORAGE: &str = "org.apache.cloudstack.storage.command";
const SNAPSHOT: &str = "org.apache.cloudstack.storage.to.SnapshotObjectTO";
const API: &str = "com.cloud.agent.api";
const MIB: u64 = 1 << 20;

/// A host with a guest that has two disks: its root disk, and a data disk over a template.
struct Scene<'a> {
    edge: Edge<'a>,
    guest: Guest<'a>,
    root: Volume,
    data: Volume,
}

impl<'a> Scene<'a> {
    /// `launcher` is put before the agent's command line.
    async fn new(cage: &'a Cage, launcher: &[&str]) -> Scene<'a> {
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
    async fn start(&self) {
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

    fn file(&self, name: &str) -> PathBuf {
        self.edge.pool_dir().join(name)
    }

    /// Lets the guest write a byte to the first 64 KiB of its data disk, for good.
    async fn writes(&self, byte: u8) {
        for command in [format!("write -P {byte} 0 64k"), "flush".to_owned()] {
            let command = format!("qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend \"{command}\"");
            let told =
                self.cage().virsh(&["qemu-monitor-command", &self.guest.name, "--hmp", &command]).await;
            assert_eq!(told, "");
        }
        self.sees(byte).await;
    }

    /// Asserts what the guest reads there.
    async fn sees(&self, byte: u8) {
        self.holds(&self.source().await, byte).await;
    }

    /// Asserts what an image has there.
    async fn holds(&self, file: &str, byte: u8) {
        let path = self.file(file);
        let command = format!("read -P {byte} 0 64k");
        let read = ["qemu-io", "-r", "-U", "-f", "qcow2", "-c", &command, path.to_str().unwrap()];
        let told = self.cage().run(&read).await.unwrap();
        assert!(told.contains("read 65536/65536") && !told.contains("verification failed"), "{file}: {told}");
    }

    /// File that the guest's data disk is on.
    async fn source(&self) -> String {
        let listed = self.cage().virsh(&["domblklist", &self.guest.name]).await;
        let line = listed.lines().find(|line| line.trim_start().starts_with("vdb ")).expect("there is vdb");
        let path = PathBuf::from(line.split_whitespace().nth(1).unwrap());
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// Asserts that the guest is on its own files again, and that there are no others.
    async fn is_as_before(&self) {
        assert_eq!(self.source().await, "data");
        self.has_only_its_files();
    }

    fn has_only_its_files(&self) {
        let mut expected = vec!["data".to_owned(), self.root.uuid.clone(), "template".to_owned()];
        expected.sort();
        assert_eq!(self.edge.pool_files(), expected);
    }

    /// `SnapshotObjectTO` of the data disk.
    fn snapshot(&self, path: Option<&str>) -> Value {
        json!({"path": path, "volume": self.edge.volume(&self.data, &self.guest.name), "dataStore": self.edge.store(),
            "vmName": self.guest.name, "name": "snapshot", "hypervisorType": "KVM", "id": 1, "quiescevm": false,
            "physicalSize": 0, "accountId": 1, "followRedirects": false})
    }

    fn take(&self) -> Value {
        json!({"data": {SNAPSHOT: self.snapshot(None)}})
    }

    fn snapshots(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.file("snapshots")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Fields of the commands about snapshots of the whole guest.
    fn whole(&self, kind: &str) -> Value {
        let name = &self.guest.name;
        json!({"vmName": name, "volumeTOs": [self.edge.volume(&self.root, name), self.edge.volume(&self.data, name)],
            "target": {"id": 1, "snapshotName": format!("{name}_VS_1"), "type": kind, "createTime": 1_795_370_733_000_i64,
            "current": true, "quiescevm": false}})
    }

    /// Snapshots inside the guest's images.
    async fn inside(&self) -> usize {
        let mut count = 0;
        for name in ["data", &self.root.uuid] {
            let path = self.file(name);
            let list = ["qemu-img", "snapshot", "-U", "-l", path.to_str().unwrap()];
            let listed = self.cage().run(&list).await.unwrap();
            count += listed.lines().filter(|line| line.contains("_VS_1")).count();
        }
        count
    }
}

/// Stops each copy of an image half way, as long as a file exists.
struct Gate {
    directory: tempfile::TempDir,
    mount: String,
}

impl Gate {
    async fn new() -> Gate {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let at = path.display();
        std::fs::write(path.join("real"), "").unwrap();
        std::fs::write(path.join("hold"), "").unwrap();
        let body = format!(
            "if [ \"$1\" = convert ]; then : >{at}/begun; while [ -e {at}/hold ]; do sleep 0.05; done; [ ! -e {at}/fail ] || exit 1; fi\n\
             exec {at}/real \"$@\""
        );
        script(&path.join("qemu-img"), &body).await;
        let mount = format!(
            "q=$(readlink -f /usr/bin/qemu-img); mount --bind $q {at}/real; mount --bind {at}/qemu-img $q; exec \"$@\""
        );
        Gate { directory, mount }
    }

    /// What shows the agent, and nobody else, this `qemu-img`.
    fn launcher(&self) -> [&str; 6] {
        ["unshare", "--mount", "sh", "-c", &self.mount, "sh"]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn is_reached(&self, scene: &Scene<'_>) {
        scene.edge.until("a copy", async || self.path("begun").exists()).await;
    }

    fn open(&self) {
        std::fs::remove_file(self.path("hold")).unwrap();
    }

    /// The copies that wait fail.
    fn fail(&self) {
        std::fs::write(self.path("fail"), "").unwrap();
        self.open();
    }
}

#[test]
fn a_guest_that_runs_is_snapshot_and_goes_on_in_its_own_file() {
    with_libvirt(async |cage| {
        let scene = Scene::new(cage, &[]).await;
        scene.writes(7).await;
        let answer = scene.edge.good(&format!("{STORAGE}.CreateObjectCommand"), scene.take()).await;
        let path = answer["data"][SNAPSHOT]["path"].as_str().unwrap().to_owned();
        scene.is_as_before().await;
        scene.writes(9).await;
        let taken = scene.snapshots();
        assert_eq!(taken.len(), 1);
        scene.holds(&format!("snapshots/{}", taken[0]), 7).await;
        let listed = cage.virsh(&["snapshot-list", &scene.guest.name, "--name"]).await;
        assert_eq!(listed, "", "libvirt remembers it, which keeps the guest from migrating");

        let revert = format!("{STORAGE}.RevertSnapshotCommand");
        let fields = json!({"data": scene.snapshot(Some(&path)), "_executeInSequence": true});
        let details = scene.edge.refused(&revert, fields.clone(), "Answer").await;
        assert!(details.contains("which runs"), "{details}");
        scene.guest.virsh("destroy").await;
        scene.holds("data", 9).await;
        scene.edge.good(&revert, fields).await;
        scene.holds("data", 7).await;
        let delete = json!({"data": {SNAPSHOT: scene.snapshot(Some(&path))}});
        scene.edge.good(&format!("{STORAGE}.DeleteCommand"), delete).await;
        assert_eq!(scene.snapshots(), [""; 0]);
        scene.has_only_its_files();
        scene.edge.host.undisturbed();
    });
}

#[test]
fn what_is_written_while_the_snapshot_is_copied_stays() {
    with_libvirt(async |cage| {
        let gate = Gate::new().await;
        let scene = Scene::new(cage, &gate.launcher()).await;
        scene.writes(7).await;
        let answers = scene.edge.host.send(&format!("{STORAGE}.CreateObjectCommand"), scene.take());
        let (answers, ()) = tokio::join!(answers, async {
            gate.is_reached(&scene).await;
            assert_ne!(scene.source().await, "data");
            scene.writes(9).await;
            gate.open();
        });
        let answer: Value = answers.unwrap().elements[0].read().unwrap();
        assert_eq!(answer["result"], true, "{answer}");
        scene.is_as_before().await;
        scene.sees(9).await;
        scene.holds(&format!("snapshots/{}", scene.snapshots()[0]), 7).await;
        scene.guest.virsh("destroy").await;
        scene.holds("data", 9).await;
    });
}

#[test]
fn a_copy_that_fails_brings_the_guest_back() {
    with_libvirt(async |cage| {
        let gate = Gate::new().await;
        let scene = Scene::new(cage, &gate.launcher()).await;
        scene.writes(7).await;
        let answers = scene.edge.host.send(&format!("{STORAGE}.CreateObjectCommand"), scene.take());
        let (answers, ()) = tokio::join!(answers, async {
            gate.is_reached(&scene).await;
            scene.writes(9).await;
            gate.fail();
        });
        let answer: Value = answers.unwrap().elements[0].read().unwrap();
        assert_eq!(answer["result"], false, "{answer}");
        assert!(!answer["details"].as_str().unwrap().contains("blockcommit"), "{answer}");
        scene.is_as_before().await;
        scene.sees(9).await;
        assert_eq!(scene.snapshots(), [""; 0]);
    });
}

#[test]
fn a_guest_that_dies_during_its_snapshot_keeps_what_it_wrote() {
    with_libvirt(async |cage| {
        let gate = Gate::new().await;
        let scene = Scene::new(cage, &gate.launcher()).await;
        scene.writes(7).await;
        let answers = scene.edge.host.send(&format!("{STORAGE}.CreateObjectCommand"), scene.take());
        let (answers, ()) = tokio::join!(answers, async {
            gate.is_reached(&scene).await;
            scene.writes(9).await;
            scene.guest.crash().await;
            scene.edge.until("the guest is gone", async || !scene.edge.runs(&scene.guest.name).await).await;
            gate.open();
        });
        let answer: Value = answers.unwrap().elements[0].read().unwrap();
        assert_eq!(answer["result"], false, "{answer}");
        scene.has_only_its_files();
        scene.holds("data", 9).await;
        assert_eq!(scene.snapshots(), [""; 0]);
        scene.start().await;
        scene.sees(9).await;
        let answer = scene.edge.good(&format!("{STORAGE}.CreateObjectCommand"), scene.take()).await;
        assert!(answer["data"][SNAPSHOT]["physicalSize"].as_u64().unwrap() > 0);
        scene.is_as_before().await;
    });
}

#[test]
fn an_agent_that_is_killed_during_a_snapshot_brings_the_guest_back_when_it_starts() {
    with_libvirt(async |cage| {
        let gate = Gate::new().await;
        let mut scene = Scene::new(cage, &gate.launcher()).await;
        scene.writes(7).await;
        let answers = scene.edge.host.send(&format!("{STORAGE}.CreateObjectCommand"), scene.take());
        tokio::select! {
            answers = answers => panic!("answered: {answers:?}"),
            () = gate.is_reached(&scene) => {}
        }
        scene.writes(9).await;
        scene.edge.host.node.kill().await;
        gate.fail();
        assert_ne!(scene.source().await, "data");
        scene.edge.host.node.launched_by(cage.launcher());
        scene.edge.host.node.start();
        scene.edge.until("the guest is back", async || scene.source().await == "data").await;
        scene.edge.until("the overlay is gone", async || scene.edge.pool_files().len() == 3).await;
        scene.is_as_before().await;
        scene.sees(9).await;
        scene.edge.host.node.is_registered().await;
        scene.edge.good(&format!("{STORAGE}.CreateObjectCommand"), scene.take()).await;
        scene.is_as_before().await;
    });
}

#[test]
fn no_step_of_a_live_snapshot_may_fail_the_guest() {
    with_libvirt(async |cage| {
        // Steps of the journal: directory, file, overlay, commit.
        for at in 1..=4 {
            let fault = format!("AGENT_FAULT=error:{at}");
            let scene = Scene::new(cage, &["env", &fault]).await;
            scene.writes(7).await;
            let class = format!("{STORAGE}.CreateObjectCommand");
            scene.edge.refused(&class, scene.take(), "CreateObjectAnswer").await;
            scene.is_as_before().await;
            scene.sees(7).await;
            assert_eq!(scene.snapshots(), [""; 0], "{fault}");
            scene.edge.good(&class, scene.take()).await;
            scene.is_as_before().await;
        }
    });
}

#[test]
fn a_guest_goes_back_to_a_snapshot_with_its_memory() {
    with_libvirt(async |cage| {
        let scene = Scene::new(cage, &[]).await;
        let edge = &scene.edge;
        scene.writes(7).await;
        let fields = scene.whole("DiskAndMemory");
        for _ in 0..2 {
            let answer = edge.good(&format!("{API}.CreateVMSnapshotCommand"), fields.clone()).await;
            assert_eq!(
                (&answer["volumeTOs"], &answer["vmSnapshotTo"]),
                (&fields["volumeTOs"], &fields["target"])
            );
        }
        assert_eq!(scene.inside().await, 2);
        scene.writes(9).await;
        let revert = format!("{API}.RevertToVMSnapshotCommand");
        let answer = edge.good(&revert, fields.clone()).await;
        assert_eq!(answer["vmState"], "PowerOn");
        scene.sees(7).await;
        assert!(edge.runs(&scene.guest.name).await);

        // libvirt forgets it with the guest, until the server tells it again.
        scene.guest.virsh("destroy").await;
        scene.start().await;
        scene.writes(9).await;
        edge.refused(&revert, fields.clone(), "RevertToVMSnapshotAnswer").await;
        let mut restore = scene.whole("DiskAndMemory");
        restore["snapshots"] = json!([fields["target"]]);
        restore["snapshotAndParents"] = json!({});
        for _ in 0..2 {
            let answer = edge.good(&format!("{API}.RestoreVMSnapshotCommand"), restore.clone()).await;
            assert_eq!(answer["vmState"], "PowerOn");
        }
        edge.good(&revert, fields.clone()).await;
        scene.sees(7).await;
        let delete = format!("{API}.DeleteVMSnapshotCommand");
        for _ in 0..2 {
            edge.good(&delete, fields.clone()).await;
            assert_eq!(scene.inside().await, 0);
            assert!(cage.virsh(&["domstate", &scene.guest.name]).await.contains("running"));
        }

        edge.good(&format!("{API}.CreateVMSnapshotCommand"), fields.clone()).await;
        scene.writes(9).await;
        let answer = edge.good(&revert, scene.whole("Disk")).await;
        assert_eq!(answer["vmState"], "PowerOff");
        assert!(!edge.runs(&scene.guest.name).await);
        scene.holds("data", 7).await;
        edge.good(&delete, fields).await;
        assert_eq!(scene.inside().await, 0);
        scene.has_only_its_files();
    });
}

#[test]
fn a_guest_without_agent_is_not_frozen() {
    with_libvirt(async |cage| {
        let scene = Scene::new(cage, &[]).await;
        let fields = json!({"vmName": scene.guest.name, "option": "frozen"});
        let class = format!("{API}.FreezeThawVMCommand");
        let details = scene.edge.refused(&class, fields, "FreezeThawVMAnswer").await;
        assert!(details.contains("QEMU guest agent is not connected"), "{details}");
    });
}
