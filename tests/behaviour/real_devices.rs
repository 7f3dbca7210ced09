//! Volumes and ISO images of running guests come and go, on a real libvirtd and QEMU.

use crate::harness::LIMIT;
use crate::real::cage::Cage;
use crate::real::edge::{self, Edge, Volume};
use crate::real::guest::Guest;
use crate::real::with_libvirt;
use cloudstack_agent::storage::names::name_uuid;
use serde_json::{Value, json};
use std::path::PathBuf;

const EXCHANGES: [&str; 2] =
    [include_str!("../data/wire/exchanges-4.19.1.jsonl"), include_str!("../data/wire/exchanges-4.22.jsonl")];
const ATTACH: &str = "org.apache.cloudstack.storage.command.AttachCommand";
const DETTACH: &str = "org.apache.cloudstack.storage.command.DettachCommand";
const VOLUME: &str = "org.apache.cloudstack.storage.to.VolumeObjectTO";
const MIB: u64 = 1 << 20;

/// First request of a class alone in each of the captures, with the class and the fields of its answer.
pub fn captured(class: &str) -> Vec<(Value, String, Value)> {
    let first = |lines: &str| {
        lines.lines().find_map(|line| {
            let exchange: Value = serde_json::from_str(line).unwrap();
            let body =
                |side: &str| -> Option<Value> { serde_json::from_str(exchange[side]["body"].as_str()?).ok() };
            let request = body("request")?[0][class].clone();
            let answer = body("answer")?[0].as_object()?.clone();
            let (class, fields) = answer.into_iter().next()?;
            request.is_object().then_some((request, class, fields))
        })
    };
    EXCHANGES.into_iter().filter_map(first).collect()
}

/// A guest that gives up what is to be unplugged, with an empty CD-ROM drive.
async fn guest<'a>(edge: &Edge<'a>) -> Guest<'a> {
    let guest = Guest::new(edge.cage, &edge.pool_dir()).await;
    guest.start_as(&with_drive(&guest)).await;
    guest.boots().await;
    guest
}

fn with_drive(guest: &Guest<'_>) -> String {
    let drive = "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>";
    guest.xml().replace("<interface", &format!("{drive}<interface"))
}

fn attach(edge: &Edge<'_>, volume: &Volume, guest: &Guest<'_>) -> Value {
    json!({"disk": edge.disk(volume, &guest.name), "vmName": guest.name, "inSeq": false, "forced": false, "controllerInfo": {}})
}

fn detach(edge: &Edge<'_>, volume: &Volume, guest: &Guest<'_>, patience: u64) -> Value {
    json!({"disk": edge.disk(volume, &guest.name), "vmName": guest.name, "_managed": false, "_storagePort": 0,
        "forced": false, "waitDetachDevice": patience})
}

/// Sources of the guest's disks by device.
async fn disks(cage: &Cage, guest: &Guest<'_>) -> Vec<(String, String)> {
    let listed = cage.virsh(&["domblklist", &guest.name]).await;
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    listed.lines().filter_map(pair).collect()
}

async fn has(cage: &Cage, guest: &Guest<'_>, device: &str, path: &str) -> bool {
    disks(cage, guest).await.iter().any(|(target, source)| target == device && source == path)
}

fn path(edge: &Edge<'_>, volume: &Volume) -> String {
    edge.pool_dir().join(&volume.uuid).to_str().unwrap().to_owned()
}

async fn secrets(cage: &Cage) -> String {
    cage.virsh(&["secret-list"]).await
}

#[test]
fn a_volume_comes_and_goes_as_real_servers_ask_for_it() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = guest(&edge).await;
        let captured = captured(ATTACH);
        assert_eq!(captured.len(), 2);
        for (mut request, their_class, theirs) in captured {
            let volume = edge.data_volume(&guest.name, 1, 8 * MIB).await;
            let mut own = edge.volume(&volume, &guest.name);
            let data = &mut request["disk"]["data"][VOLUME];
            for member in ["uuid", "path", "dataStore"] {
                data[member] = own[member].take();
            }
            request["disk"]["path"] = json!(volume.uuid);
            request["vmName"] = json!(guest.name);
            let mut expected = theirs;
            expected["disk"] = request["disk"].clone();
            for _ in 0..2 {
                let (class, answer) = edge.host.ask(ATTACH, request.clone()).await;
                assert!(their_class.ends_with(&class));
                assert_eq!(answer, expected);
                assert!(has(cage, &guest, "vdb", &path(&edge, &volume)).await);
            }
            let xml = edge.xml(&guest.name).await.unwrap();
            assert!(
                xml.contains(&format!("<serial>{}</serial>", &volume.uuid.replace('-', "")[..20])),
                "{xml}"
            );
            assert!(xml.contains("type='qcow2' cache='none'"), "{xml}");
            for _ in 0..2 {
                let answer = edge.good(DETTACH, detach(&edge, &volume, &guest, 60_000)).await;
                assert_eq!(answer["disk"], edge.disk(&volume, &guest.name));
                assert!(!has(cage, &guest, "vdb", &path(&edge, &volume)).await);
            }
        }
        edge.host.undisturbed();
    });
}

#[test]
fn a_disk_is_as_the_volume_says() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = guest(&edge).await;
        let volume = edge.data_volume(&guest.name, 2, 8 * MIB).await;
        let mut command = attach(&edge, &volume, &guest);
        command["disk"]["_details"]["io.policy"] = json!("threads");
        let data = &mut command["disk"]["data"][VOLUME];
        for (member, value) in [
            ("cacheMode", json!("WRITEBACK")),
            ("bytesReadRate", json!(MIB)),
            ("iopsWriteRate", json!(500)),
            ("iopsWriteRateMax", json!(900)),
        ] {
            data[member] = value;
        }
        edge.good(ATTACH, command).await;
        let xml = edge.xml(&guest.name).await.unwrap();
        for part in [
            "cache='writeback' io='threads'",
            "<target dev='vdc' bus='virtio'/>",
            "<read_bytes_sec>1048576</read_bytes_sec>",
            "<write_iops_sec>500</write_iops_sec>",
            "<write_iops_sec_max>900</write_iops_sec_max>",
        ] {
            assert!(xml.contains(part), "{part}: {xml}");
        }
        // The place is taken, and so is the volume.
        let other = edge.data_volume(&guest.name, 2, 8 * MIB).await;
        let details = edge.refused(ATTACH, attach(&edge, &other, &guest), "AttachAnswer").await;
        assert!(
            details.contains(&path(&edge, &volume)) && details.contains("as disk vdc already"),
            "{details}"
        );
        let second = self::guest(&edge).await;
        let details = edge.refused(ATTACH, attach(&edge, &volume, &second), "AttachAnswer").await;
        assert!(details.contains(&format!("is disk vdc of {}", guest.name)), "{details}");
        // Taken by hand in the meantime.
        cage.virsh(&["destroy", &guest.name]).await;
        let details = edge.refused(DETTACH, detach(&edge, &volume, &guest, 0), "DettachAnswer").await;
        assert!(details.contains(&format!("No guest named {}", guest.name)), "{details}");
        edge.good(ATTACH, attach(&edge, &volume, &second)).await;
    });
}

#[test]
fn a_guest_that_does_not_react_is_told_of_and_holds_up_nobody() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let silent = Guest::new(cage, &edge.pool_dir()).await;
        silent.forgets_everything().await;
        silent.start().await;
        let other = guest(&edge).await;
        let [volume, others] = [
            edge.data_volume(&silent.name, 1, 8 * MIB).await,
            edge.data_volume(&other.name, 1, 8 * MIB).await,
        ];
        edge.good(ATTACH, attach(&edge, &volume, &silent)).await;
        // Asked twice, QEMU says that it has asked the guest already.
        for _ in 0..2 {
            let details = edge.refused(DETTACH, detach(&edge, &volume, &silent, 200), "DettachAnswer").await;
            assert!(details.contains("waiting for [200] milliseconds"), "{details}");
            assert!(details.contains("does not give disk vdb up. Unmount it in the guest"), "{details}");
            assert!(has(cage, &silent, "vdb", &path(&edge, &volume)).await);
        }
        let waiting = edge.host.send(DETTACH, detach(&edge, &volume, &silent, 3_600_000));
        tokio::pin!(waiting);
        for _ in 0..4 {
            tokio::select! {
                answer = &mut waiting => panic!("the guest reacts: {answer:?}"),
                _ = edge.good(ATTACH, attach(&edge, &others, &other)) => {}
            }
            tokio::select! {
                answer = &mut waiting => panic!("the guest reacts: {answer:?}"),
                _ = edge.good(DETTACH, detach(&edge, &others, &other, 60_000)) => {}
            }
        }
        // With the guest the disk is gone, too.
        cage.virsh(&["destroy", &silent.name]).await;
        let answers = tokio::time::timeout(LIMIT, waiting).await.expect("no answer").unwrap();
        assert_eq!(answers.elements[0].read::<Value>().unwrap()["result"], true);
        edge.host.undisturbed();
    });
}

/// An encrypted data volume; gives it with the command that attaches it.
async fn encrypted(edge: &Edge<'_>, guest: &Guest<'_>) -> (Volume, Value, Value) {
    let passphrase = json!([99, 97, 110, 97, 114, 121, 49, 50]);
    let volume = Volume { uuid: edge::id(), kind: "DATADISK", device: 1, size: 8 * MIB };
    let mut new = edge.wrapped_volume(&volume, &guest.name);
    new[VOLUME]["passphrase"] = passphrase.clone();
    edge.good("org.apache.cloudstack.storage.command.CreateObjectCommand", json!({"data": new})).await;
    let (mut attach, mut detach) = (attach(edge, &volume, guest), detach(edge, &volume, guest, 60_000));
    for command in [&mut attach, &mut detach] {
        command["disk"]["data"][VOLUME]["passphrase"] = passphrase.clone();
        command["disk"]["data"][VOLUME]["encryptFormat"] = json!("luks");
    }
    (volume, attach, detach)
}

#[test]
fn the_passphrase_of_a_volume_comes_and_goes_with_it() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = guest(&edge).await;
        let (volume, attach, detach) = encrypted(&edge, &guest).await;
        let secret = name_uuid(&volume.uuid).to_string();
        let answer = edge.good(ATTACH, attach.clone()).await;
        assert_eq!(answer["disk"]["data"][VOLUME]["passphrase"], json!([]));
        assert!(secrets(cage).await.contains(&secret));
        let xml = edge.xml(&guest.name).await.unwrap();
        assert!(xml.contains("<encryption format='luks'") && xml.contains(&secret), "{xml}");
        // Lost, and given again.
        cage.virsh(&["secret-undefine", &secret]).await;
        edge.good(ATTACH, attach.clone()).await;
        assert!(secrets(cage).await.contains(&secret));
        edge.good(DETTACH, detach.clone()).await;
        assert!(!secrets(cage).await.contains(&secret));
        // Another agent has given libvirt the passphrase under another id.
        let (other, file) = (edge::id(), format!("/run/{}.xml", volume.uuid));
        let xml = format!(
            "<secret ephemeral='yes' private='yes'><uuid>{other}</uuid><usage type='volume'><volume>{}</volume></usage></secret>",
            volume.uuid
        );
        std::fs::write(cage.file(&file), xml).unwrap();
        cage.virsh(&["secret-define", &file]).await;
        edge.good(ATTACH, attach).await;
        assert!(edge.xml(&guest.name).await.unwrap().contains(&other));
        edge.good(DETTACH, detach).await;
        assert!(!secrets(cage).await.contains(&other));
        assert!(!std::fs::read_to_string(edge.host.node.path("log")).unwrap().contains("canary"));
    });
}

/// Starts the agent anew, with a fault or without.
pub async fn restart(edge: &mut Edge<'_>, fault: Option<&str>) {
    let launcher = match fault {
        Some(fault) => {
            [vec!["env".to_owned(), format!("AGENT_FAULT={fault}")], edge.cage.launcher()].concat()
        }
        None => edge.cage.launcher(),
    };
    edge.host.node.launched_by(launcher);
    edge.host.node.start();
    edge.host.node.is_registered().await;
}

/// Sends a command that fails, or ends the agent; then lets an agent without fault tidy up.
pub async fn fails(edge: &mut Edge<'_>, fault: &str, class: &str, fields: Value) {
    let succeeded = interrupted(edge, fault, class, fields).await;
    assert!(!succeeded, "{fault}");
}

/// The same, for work whose end may be reached all the same: gives whether the answer was a good one.
pub async fn interrupted(edge: &mut Edge<'_>, fault: &str, class: &str, fields: Value) -> bool {
    restart(edge, Some(fault)).await;
    let answer = tokio::time::timeout(LIMIT, edge.host.send(class, fields)).await.expect("no answer");
    let succeeded = match answer {
        Ok(answers) => {
            edge.host.node.stop().await;
            answers.elements[0].read::<Value>().unwrap()["result"] == true
        }
        Err(error) => {
            assert!(fault.starts_with("kill"), "{fault}: {error}");
            edge.host.node.kill().await;
            false
        }
    };
    restart(edge, None).await;
    succeeded
}

#[test]
fn an_interrupted_attachment_is_none_and_an_interrupted_detachment_goes_on() {
    with_libvirt(async |cage| {
        let mut edge = Edge::up(cage).await;
        let guest = guest(&edge).await;
        let (volume, attach, detach) = encrypted(&edge, &guest).await;
        let (secret, file) = (name_uuid(&volume.uuid).to_string(), path(&edge, &volume));
        edge.host.node.stop().await;
        for fault in ["error:1", "error:2", "error:3", "kill:1", "kill:2", "kill:3"] {
            fails(&mut edge, fault, ATTACH, attach.clone()).await;
            edge.until(fault, async || {
                !has(cage, &guest, "vdb", &file).await && !secrets(cage).await.contains(&secret)
            })
            .await;
            edge.host.node.stop().await;
        }
        for fault in ["error:1", "error:2", "kill:1", "kill:2"] {
            restart(&mut edge, None).await;
            edge.good(ATTACH, attach.clone()).await;
            edge.host.node.stop().await;
            // With nothing to undo, an end that cannot be written down is an end.
            let succeeded = interrupted(&mut edge, fault, DETTACH, detach.clone()).await;
            assert_eq!(succeeded, fault == "error:2", "{fault}");
            edge.good(DETTACH, detach.clone()).await;
            assert!(
                !has(cage, &guest, "vdb", &file).await && !secrets(cage).await.contains(&secret),
                "{fault}"
            );
            edge.host.node.stop().await;
        }
    });
}

fn iso(name: &str, store: Value, guest: &Guest<'_>) -> Value {
    json!({"disk": {"data": {"org.apache.cloudstack.storage.to.TemplateObjectTO": {"path": name, "uuid": edge::id(),
        "format": "ISO", "imageDataStore": store, "name": "203-2-x", "size": 65536, "hypervisorType": "None"}}, "type": "ISO"},
        "vmName": guest.name, "inSeq": false, "forced": false, "controllerInfo": {}})
}

/// Makes a file of 64 KiB in the cage.
fn disc(cage: &Cage, path: &str) -> String {
    std::fs::write(cage.file(path), vec![0; 65536]).unwrap();
    path.to_owned()
}

#[test]
fn discs_are_changed_and_taken_out() {
    with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let guest = guest(&edge).await;
        let in_pool = |name: &str| disc(cage, edge.pool_dir().join(name).to_str().unwrap());
        let (one, two) = (in_pool("one.iso"), in_pool("two.iso"));
        for (name, path) in [("one.iso", &one), ("one.iso", &one), ("two.iso", &two)] {
            let (class, answer) = edge.host.ask(ATTACH, iso(name, edge.store(), &guest)).await;
            let expected =
                json!({"result": true, "contextMap": {}, "wait": 0, "bypassHostMaintenance": false});
            assert_eq!((class.as_str(), answer), ("Answer", expected));
            assert!(has(cage, &guest, "hdc", path).await, "{:?}", disks(cage, &guest).await);
        }
        let details = edge.refused(ATTACH, iso("three.iso", edge.store(), &guest), "Answer").await;
        assert!(details.contains("three.iso does not exist"), "{details}");
        for force in [false, true] {
            let mut command = iso("two.iso", edge.store(), &guest);
            command["forced"] = json!(force);
            edge.good(DETTACH, command).await;
            assert!(has(cage, &guest, "hdc", "-").await);
        }
    });
}

#[test]
fn secondary_storage_stays_mounted_for_the_last_guest_with_a_disc() {
    with_libvirt(async |cage| {
        let mounts = tempfile::tempdir().unwrap();
        let edge = Edge::with(cage, &[("mount.path", mounts.path().to_str().unwrap())]).await;
        // Mounted by an earlier agent: the cage has no NFS server.
        let export = "/export/template/tmpl/1/201";
        let target: PathBuf = mounts.path().join(name_uuid(&format!("10.0.0.1{export}")).to_string());
        std::fs::create_dir(&target).unwrap();
        let text = target.to_str().unwrap();
        cage.run(&["mount", "-t", "tmpfs", &format!("10.0.0.1:{export}"), text]).await.unwrap();
        let disc = disc(cage, &format!("{text}/x.iso"));
        let mounted = async || cage.run(&["mountpoint", "-q", text]).await.is_ok();

        let (one, two) = (guest(&edge).await, guest(&edge).await);
        let store =
            json!({"com.cloud.agent.api.to.NfsTO": {"_url": "nfs://10.0.0.1/export", "_role": "Image"}});
        let command = |guest: &Guest<'_>| iso("template/tmpl/1/201/x.iso", store.clone(), guest);
        edge.good(ATTACH, command(&one)).await;
        // The older command does the same.
        let old = |attach: bool| {
            let url = format!("nfs://10.0.0.1{export}/x.iso");
            json!({"vmName": two.name, "storeUrl": "", "isoPath": url, "attach": attach, "deviceKey": 3, "force": false})
        };
        let answer = edge.good("AttachIsoCommand", old(true)).await;
        assert_eq!(answer["deviceKey"], 3);
        for guest in [&one, &two] {
            assert!(has(cage, guest, "hdc", &disc).await);
        }
        edge.good(DETTACH, command(&one)).await;
        assert!(mounted().await && has(cage, &two, "hdc", &disc).await);
        edge.good("AttachIsoCommand", old(false)).await;
        assert!(!mounted().await && !target.exists());
    });
}
