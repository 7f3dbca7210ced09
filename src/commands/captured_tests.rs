//! The captured traffic of real servers against the handlers: every command that the table has must
//! decode, and its answer must have the class, the member names and the JSON types of the captured
//! one.

use super::testing::Bench;
use super::{Answer, NoFields, Reply, table};
use crate::hypervisor::SnapshotOptions;
use crate::sim::captured::{self, DIFFERENCES, Exchange, differences};
use crate::storage::testing::{qemu_img, run};
use crate::wire::Element;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::OnceLock;

/// What the captured guests and pools look like to libvirt.
const NODE: &str = r#"<node>
  <cpu><mhz>2600</mhz><model>x86_64</model><active>4</active><nodes>1</nodes><sockets>1</sockets>
    <cores>4</cores><threads>1</threads></cpu>
  <memory>8388608</memory>
  @GUESTS@
  @POOLS@
</node>"#;

const GUESTS: [&str; 5] = ["i-1-1-VM", "i-1-4-VM", "i-1-5-VM", "r-7-VM", "v-9-VM"];

const POOLS: [&str; 4] = [
    "2f8a0f51-5d6c-4d7b-8a68-1d2f6c1e9b10",
    "3a9b1a62-6e7d-4e8c-9b79-2e3a7d2fa0c2",
    "4bab2b73-7f8e-4f9d-8a8a-3f4b8e30b0d3",
    "9572a059-c161-4d90-8fb4-2cc51dcc2325",
];

const POOL: &str = "org.apache.cloudstack.storage.to.PrimaryDataStoreTO";
const SNAPSHOT: &str = "org.apache.cloudstack.storage.to.SnapshotObjectTO";

/// `directory` has one directory for each pool.
fn node(directory: &Path) -> String {
    let guest = |name: &&str| {
        format!(
            "<domain type='test'><name>{name}</name><memory>131072</memory><vcpu>1</vcpu><os><type>hvm</type></os>\
             <devices><disk type='file' device='disk'><source file='/images/{name}'/><target dev='vda'/></disk>\
             <interface type='bridge'><mac address='1e:00:1d:00:00:35'/><source bridge='br0'/></interface>\
             <graphics type='vnc' port='5900'/></devices></domain>"
        )
    };
    let pool = |uuid: &&str| {
        let volumes: String = volumes().iter().map(|name| {
            format!("<volume type='file'><name>{name}</name><capacity>67108864</capacity><allocation>204800</allocation></volume>")
        }).collect();
        format!(
            "<pool type='dir'><name>{uuid}</name><uuid>{uuid}</uuid><target><path>{}/{uuid}</path></target>{volumes}</pool>",
            directory.display()
        )
    };
    NODE.replace("@GUESTS@", &GUESTS.iter().map(guest).collect::<String>())
        .replace("@POOLS@", &POOLS.iter().map(pool).collect::<String>())
}

/// Names of all volumes that captured commands ask about.
fn volumes() -> BTreeSet<String> {
    exchanges()
        .filter_map(|exchange| exchange.fields.get("volumeUuids").and_then(Value::as_array).cloned())
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// Every command of the capture that the table has.
fn exchanges() -> impl Iterator<Item = Exchange> {
    let all = captured::FILES.into_iter().flat_map(|(_, file)| captured::exchanges(file).unwrap());
    all.filter(|exchange| table::find(&exchange.class).is_some())
}

/// The server that templates were captured from, as far as they need it: an image, or nothing at all.
fn template_server() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let mut image = vec![0; 512];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        image[23] = 16;
        image[28] = 4;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream
                    .write_all(&[b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n", &image[..]].concat());
            }
        });
        address
    })
}

/// What cannot be the same here as where the command was captured.
fn adapted(class: &str, mut fields: Value, theirs: &Value) -> Value {
    match class.rsplit('.').next().unwrap() {
        "CheckUrlCommand" | "HttpDirectDownloadCommand" => {
            let server = if theirs["result"] == true { template_server() } else { "127.0.0.1:1" };
            fields["url"] = fields["url"].as_str().unwrap().replace("10.99.0.2:8000", server).into();
        }
        "CheckNetworkCommand" => {
            for network in fields["networkInfoList"].as_array_mut().unwrap() {
                for label in network.as_object_mut().unwrap().values_mut().filter(|value| value.is_string()) {
                    *label = "lo".into();
                }
            }
        }
        // Guests of those names run here, with other ids.
        "StartCommand" => {
            let name = fields["vm"]["name"].as_str().unwrap().replace("i-1-", "i-9-");
            fields["vm"]["name"] = name.into();
        }
        "StopCommand" => fields["vmName"] = fields["vmName"].as_str().unwrap().replace("-1-", "-9-").into(),
        // Most of it was left out of the capture.
        "HandleConfigDriveIsoCommand" if fields["create"] == true => fields["isoData"] = "AAAA".into(),
        // The guests of this test have other disks.
        "CreateDiskOnlyVmSnapshotCommand" | "MergeDiskOnlyVmSnapshotCommand" => {
            (fields["vmState"], fields["vmName"]) = ("Stopped".into(), "i-1-2-VM".into());
        }
        // Nothing listens here, so the question fails at once.
        "NetworkUsageCommand" => fields["privateIP"] = "127.0.0.1".into(),
        _ => {}
    }
    fields
}

/// The captured command with the pools' directories of this test.
fn relocated(fields: &Value, directory: &Path) -> Value {
    let mut text = fields.to_string();
    for (path, pool) in [
        ("/var/lib/libvirt/images3", POOLS[2]),
        ("/var/lib/libvirt/images2", POOLS[1]),
        ("/var/lib/libvirt/images", POOLS[0]),
        ("/mnt/smp", POOLS[3]),
    ] {
        text = text.replace(path, directory.join(pool).to_str().unwrap());
    }
    serde_json::from_str(&text).unwrap()
}

/// Makes the images that a captured command works on, where the pools of this test are: the template that
/// it clones, the volume that it resizes, the volumes of which it takes a snapshot, the layers that it
/// merges, what a guest starts with.
async fn prepare(class: &str, fields: &Value, directory: &Path, bench: &Bench) {
    match class.rsplit('.').next().unwrap() {
        "CopyCommand" => {
            let template = &fields["srcTO"]["org.apache.cloudstack.storage.to.TemplateObjectTO"];
            image(template, &template["imageDataStore"], directory, None).await;
        }
        "CreateObjectCommand" => {
            empty_pools(directory);
            let volume = &fields["data"][SNAPSHOT]["volume"];
            image(volume, &volume["dataStore"], directory, None).await;
        }
        "CreateDiskOnlyVmSnapshotCommand" => {
            for volume in fields["volumeTOs"].as_array().unwrap() {
                image(volume, &volume["dataStore"], directory, None).await;
            }
        }
        "MergeDiskOnlyVmSnapshotCommand" => {
            empty_pools(directory);
            for tree in fields["snapshotMergeTreeToList"].as_array().unwrap() {
                let parent = &tree["parent"][SNAPSHOT];
                let child = &parent["volume"];
                let base = image(parent, &parent["dataStore"], directory, None).await;
                image(child, &child["dataStore"], directory, base.as_deref()).await;
            }
        }
        "StartCommand" => {
            std::fs::create_dir_all(bench.dir().join("sys/class/net/cloudbr0/bridge")).unwrap();
            let drives = directory.join("cache/config");
            std::fs::create_dir_all(drives.join("configdrive")).unwrap();
            for disk in fields["vm"]["disks"].as_array().unwrap() {
                let Some(path) = disk["path"].as_str() else { continue };
                let base = if disk["type"] == "ISO" { &drives } else { &directory.join(POOLS[0]) };
                std::fs::write(base.join(path), "").unwrap();
            }
        }
        "ResizeVolumeCommand" => {
            let path = directory.join(fields["pool"]["uuid"].as_str().unwrap());
            let path = path.join(fields["path"].as_str().unwrap());
            let size = fields["currentSize"].to_string();
            run(&["qemu-img", "create", "-q", "-f", "qcow2", path.to_str().unwrap(), &size]).await.unwrap();
        }
        // Captured before its snapshot was deleted.
        "RevertToVMSnapshotCommand" => {
            let name = fields["target"]["snapshotName"].as_str().unwrap();
            let (guest, options) = (fields["vmName"].as_str().unwrap(), SnapshotOptions::default());
            let document = format!("<domainsnapshot><name>{name}</name></domainsnapshot>");
            let hypervisor = &bench.ctx.services.hypervisor;
            hypervisor.create_snapshot(guest, &document, options, bench.ctx.deadline).await.unwrap();
        }
        _ => {}
    }
}

/// Captured commands use the same names at other times for other images.
fn empty_pools(directory: &Path) {
    for pool in POOLS {
        std::fs::remove_dir_all(directory.join(pool)).unwrap();
        std::fs::create_dir(directory.join(pool)).unwrap();
    }
}

/// Makes an image where `data` is in its pool, over a base or empty; gives its path.
async fn image(data: &Value, store: &Value, directory: &Path, base: Option<&str>) -> Option<String> {
    let (pool, name) = (store[POOL]["uuid"].as_str()?, data["path"].as_str()?);
    let path = directory.join(pool).join(name).to_str().unwrap().to_owned();
    let create = ["qemu-img", "create", "-q", "-f", "qcow2"];
    let rest: &[&str] = match base {
        None => &[&path, "64M"],
        Some(base) => &["-F", "qcow2", "-b", base, &path],
    };
    run(&[&create[..], rest].concat()).await.unwrap();
    Some(path)
}

/// Commands of which nothing is compared here, and why.
fn left_out(class: &str, fields: &Value, theirs: &Value) -> Option<&'static str> {
    match class.rsplit('.').next().unwrap() {
        "StartCommand" if fields["vm"]["type"] != "User" => Some("takes a system VM that answers"),
        "StartCommand" if theirs["result"] == false => {
            Some("the host of the capture lacked parts of its kernel")
        }
        "CopyCommand"
        | "CreateObjectCommand"
        | "CreateDiskOnlyVmSnapshotCommand"
        | "MergeDiskOnlyVmSnapshotCommand"
        | "ResizeVolumeCommand"
            if qemu_img().is_none() =>
        {
            Some("takes qemu-img")
        }
        "PlugNicCommand" => {
            Some("libvirt's test driver has no devices that come and go: see the tests on a real libvirt")
        }
        "AttachCommand" | "DettachCommand" if fields["disk"]["type"] != "ISO" => {
            Some("libvirt's test driver has no devices that come and go: see the tests on a real libvirt")
        }
        _ => None,
    }
}

/// Commands whose handler cannot succeed with the captured fields.
fn answered_by_hand(class: &str) -> Option<&'static str> {
    match class.rsplit('.').next().unwrap() {
        "SetupCertificateCommand" => Some("its certificate is for a key that is not here"),
        _ => None,
    }
}

#[test]
fn every_captured_command_of_the_table_decodes() {
    let mut classes = BTreeSet::new();
    for exchange in exchanges() {
        let element = Element::new(&exchange.class, &exchange.fields).unwrap();
        let decoded = table::find(&exchange.class).unwrap().decode(&element);
        assert!(decoded.is_ok(), "{}: {}", exchange.class, exchange.fields);
        classes.insert(exchange.class);
    }
    assert!(classes.len() >= 17, "captured commands were lost: {classes:?}");
}

#[tokio::test]
async fn answers_look_like_the_captured_ones() {
    let directory = tempfile::tempdir().unwrap();
    for pool in POOLS {
        std::fs::create_dir(directory.path().join(pool)).unwrap();
    }
    let mut bench = Bench::with_node(&node(directory.path())).await;
    let here = directory.path().display();
    let location =
        format!("direct.download.temporary.download.location={here}\nhost.cache.location={here}/cache\n");
    std::fs::write(bench.dir().join("agent.properties"), bench.properties() + &location).unwrap();
    bench.ctx.services.config.reload().await;
    let mut compared = BTreeSet::new();
    for Exchange { class, fields, answer } in exchanges() {
        let Some((their_class, theirs)) = answer else { continue };
        // A command for a system VM, which this agent does not pass on.
        if fields["handleByAgent"] == false || left_out(&class, &fields, &theirs).is_some() {
            continue;
        }
        let fields = relocated(&fields, directory.path());
        prepare(&class, &fields, directory.path(), &bench).await;
        let (our_class, ours) = if answered_by_hand(&class).is_some() {
            let element = Answer::of(table::find(&class).unwrap().answer, &Reply::ok(NoFields {})).element;
            (element.class.clone(), element.read().unwrap())
        } else {
            bench.answer(&class, adapted(&class, fields, &theirs)).await
        };
        assert_eq!(our_class, their_class, "{class}");
        assert_eq!(ours["result"], theirs["result"], "{class}: {ours}");
        let differing = differences(&class, &theirs, &ours);
        assert!(differing.is_empty(), "{class}: {differing:?}\ntheirs {theirs}\nours   {ours}");
        compared.insert(class);
        while bench.request().is_some() {}
    }
    assert!(compared.len() >= 17, "captured answers were lost: {compared:?}");
}

#[test]
fn every_difference_is_of_a_command_in_the_table() {
    for (class, members, reason) in DIFFERENCES {
        assert!(table::find(class).is_some(), "{class}");
        assert!(!members.is_empty() && !reason.is_empty(), "{class}");
    }
}
