//! Storage that fails under an agent, on a real libvirtd with QEMU: full, gone, or never there. The server
//! gets one line that names what and why, nothing is left, and the same command succeeds later.

use crate::harness::free_port;
use crate::real::alone_with_libvirt;
use crate::real::edge::{self, Edge};
use crate::real::traces::Traces;
use cloudstack_agent::sim::edge::{GuestParts, Request, Volume};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const MIB: u64 = 1 << 20;
const SNAPSHOT: &str = "org.apache.cloudstack.storage.to.SnapshotObjectTO";

/// Small, and deaf: there is nothing to boot from.
fn parts<'a>(name: &'a str, uuid: &'a str, volumes: &'a [Volume]) -> GuestParts<'a> {
    GuestParts { name, uuid, volumes, config_drive: false, nics: 0, memory_mib: 32 }
}

/// A pool with an end.
async fn small_pool(edge: &Edge<'_>) {
    let pool = edge.pool_dir();
    edge.cage.run(&["mount", "-t", "tmpfs", "-o", "size=24m", "none", text(&pool)]).await.unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Leaves that many KiB free in the pool.
async fn fill(edge: &Edge<'_>, leave: u64) {
    let filler = edge.pool_dir().join("filler");
    let free = edge.cage.run(&["df", "-k", "--output=avail", text(&edge.pool_dir())]).await.unwrap();
    let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
    let size = format!("{}K", free - leave);
    edge.cage.run(&["fallocate", "-l", &size, text(&filler)]).await.unwrap();
}

async fn empty(edge: &Edge<'_>) {
    edge.cage.run(&["rm", text(&edge.pool_dir().join("filler"))]).await.unwrap();
}

/// The same volume with all its space taken at once.
fn fat(mut request: Request) -> Request {
    request.fields["data"]["org.apache.cloudstack.storage.to.VolumeObjectTO"]["provisioningType"] =
        json!("FAT");
    request
}

#[test]
fn a_full_pool_is_told_of_and_left_as_it_was() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        small_pool(&edge).await;
        let zone = edge.zone();
        let template = edge.download_template().await;
        let (guest, id) = (edge::guest_name(), edge::id());
        let root = Volume::root(64 * MIB);
        edge.asked(zone.clone_template(&template, &root, &guest)).await;
        let image = edge.pool_dir().join(&root.uuid);
        cage.run(&["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 8M", text(&image)]).await.unwrap();

        fill(&edge, 16).await;
        let before = Traces::of_host(&edge).await;
        let (clone, data) = (Volume::root(64 * MIB), Volume::data(1, 16 * MIB));
        let pool = edge.pool_dir();
        for (what, request) in [
            ("a clone", zone.clone_template(&template, &clone, &guest)),
            ("a volume", zone.create_volume(&data, &guest)),
            ("a volume with all its space", fat(zone.create_volume(&data, &guest))),
            // So large that its tables need space.
            ("a larger volume", zone.resize(&root, 8 << 40, "")),
        ] {
            let details = edge.denied(request).await;
            assert!(details.contains("free some"), "{what}: {details}");
            assert!(details.contains(text(&pool)), "{what}: {details}");
            assert_eq!(Traces::of_host(&edge).await, before, "{what}");
        }
        empty(&edge).await;
        edge.asked(zone.clone_template(&template, &clone, &guest)).await;
        edge.asked(zone.create_volume(&data, &guest)).await;
        for volume in [&clone, &data] {
            edge.asked(zone.delete_volume(volume, &guest)).await;
        }

        // Enough for the overlay, not for the copy.
        let root = std::slice::from_ref(&root);
        edge.asked(zone.start(&zone.guest(parts(&guest, &id, root)))).await;
        fill(&edge, 4 * 1024).await;
        let before = Traces::of_host(&edge).await;
        let details = edge.denied(zone.take_snapshot(&root[0], &guest, "first")).await;
        assert!(details.contains("free some"), "{details}");
        assert_eq!(Traces::of_host(&edge).await, before);
        let disks = cage.virsh(&["domblklist", &guest]).await;
        assert!(disks.lines().any(|line| line.ends_with(&root[0].uuid)), "not on its own file: {disks}");
        empty(&edge).await;
        let answer = edge.asked(zone.take_snapshot(&root[0], &guest, "first")).await;
        let path = answer["data"][SNAPSHOT]["path"].as_str().unwrap();
        edge.asked(zone.delete_snapshot(&root[0], &guest, "first", path)).await;
        edge.asked(zone.stop(&guest, true)).await;
        edge.host.undisturbed();
    });
}

#[test]
fn a_template_that_does_not_fit_leaves_no_part_of_itself() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        small_pool(&edge).await;
        let template = Template::new(&edge, 8).await;
        let url = template.served(None).await;
        fill(&edge, 1024).await;
        let before = Traces::of_host(&edge).await;
        let details = edge.denied(edge.zone().download(&url, 64 * MIB)).await;
        assert!(details.contains("Not enough space") && details.contains("bytes are needed"), "{details}");
        assert_eq!(Traces::of_host(&edge).await, before);
        empty(&edge).await;
        edge.asked(edge.zone().download(&url, 64 * MIB)).await;
        edge.host.undisturbed();
    });
}

#[test]
fn a_pool_that_goes_away_is_missed_and_never_made_anew() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let zone = edge.zone();
        let template = edge.download_template().await;
        let (guest, id) = (edge::guest_name(), edge::id());
        let (root, clone, data) = (Volume::root(64 * MIB), Volume::root(64 * MIB), Volume::data(1, 16 * MIB));
        edge.asked(zone.clone_template(&template, &root, &guest)).await;
        let vm = zone.guest(parts(&guest, &id, std::slice::from_ref(&root)));
        let (pool, away) = (edge.pool_dir(), edge.host.node.path("away"));
        std::fs::rename(&pool, &away).unwrap();
        let before = Traces::of_host(&edge).await;
        let requests = || {
            [
                ("a clone", zone.clone_template(&template, &clone, &guest)),
                ("a volume", zone.create_volume(&data, &guest)),
                ("a larger volume", zone.resize(&root, 96 * MIB, "")),
                ("a guest", zone.start(&vm)),
                ("a snapshot", zone.take_snapshot(&root, &guest, "first")),
            ]
        };
        for (what, request) in requests() {
            let details = edge.denied(request).await;
            assert!(details.contains(text(&pool)), "{what}: {details}");
            assert!(!pool.exists(), "{what} has made the directory of another file system");
            assert_eq!(Traces::of_host(&edge).await, before, "{what}");
        }
        std::fs::rename(&away, &pool).unwrap();
        for (_, request) in requests() {
            edge.asked(request).await;
        }
        edge.asked(zone.stop(&guest, true)).await;
        edge.host.undisturbed();
    });
}

#[test]
fn what_is_not_there_is_named_unless_it_was_to_go() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let zone = edge.zone();
        let guest = edge::guest_name();
        let (root, lost) = (Volume::root(64 * MIB), Volume::data(1, 16 * MIB));
        edge.asked(zone.create_volume(&root, &guest)).await;
        let vm = zone.guest(parts(&guest, &edge::id(), std::slice::from_ref(&root)));
        edge.asked(zone.start(&vm)).await;
        let before = Traces::of_host(&edge).await;
        let template = edge::id();
        for (name, request) in [
            (&lost.uuid, zone.attach(&lost, &guest)),
            (&lost.uuid, zone.resize(&lost, 32 * MIB, "")),
            (&lost.uuid, zone.take_snapshot(&lost, "", "first")),
            (&template, zone.clone_template(&template, &lost, &guest)),
            (&"i-9-404-VM".to_owned(), zone.attach(&root, "i-9-404-VM")),
            (&"i-9-404-VM".to_owned(), zone.reboot("i-9-404-VM")),
        ] {
            let class = request.class.clone();
            let details = edge.denied(request).await;
            assert!(details.contains(name.as_str()), "{class}: {details}");
            assert_eq!(Traces::of_host(&edge).await, before, "{class}");
        }
        for request in [
            zone.delete_volume(&lost, &guest),
            zone.evict(&template),
            zone.drop_config_drive(&guest),
            zone.delete_snapshot(&root, &guest, "first", text(&edge.pool_dir().join("snapshots/none"))),
            zone.stop("i-9-404-VM", true),
        ] {
            edge.asked(request).await;
        }
        assert_eq!(Traces::of_host(&edge).await, before);
        edge.asked(zone.stop(&guest, true)).await;
        edge.host.undisturbed();
    });
}

/// A template with that many MiB of data.
struct Template {
    image: Vec<u8>,
}

impl Template {
    async fn new(edge: &Edge<'_>, mib: u64) -> Template {
        let file = edge.host.node.path("template.qcow2");
        edge.cage.run(&["qemu-img", "create", "-q", "-f", "qcow2", text(&file), "64M"]).await.unwrap();
        let write = format!("write -P 7 0 {mib}M");
        edge.cage.run(&["qemu-io", "-f", "qcow2", "-c", &write, text(&file)]).await.unwrap();
        let image = std::fs::read(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        Template { image }
    }

    fn checksum(&self) -> String {
        let sum = Md5::digest(&self.image);
        format!("{{MD5}}{}", sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// Starts a server for it that hangs up after `end` bytes of each answer; gives the URL.
    async fn served(&self, end: Option<usize>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let image = self.image.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let length = image.len();
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                if !request[..read].starts_with(b"HEAD") {
                    let _ = stream.write_all(&image[..end.unwrap_or(length)]).await;
                }
            }
        });
        format!("http://{address}/template.qcow2")
    }
}

#[test]
fn a_template_server_that_fails_is_named_and_nothing_of_the_template_is_kept() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let zone = edge.zone();
        let template = Template::new(&edge, 2).await;
        let before = Traces::of_host(&edge).await;
        let dead = format!("http://127.0.0.1:{}/template.qcow2", free_port());
        let (halting, whole) = (template.served(Some(1 << 20)).await, template.served(None).await);
        let with = |url: &str, checksum: &str| {
            let mut request = zone.download(url, 64 * MIB);
            request.fields["checksum"] = json!(checksum);
            request
        };
        let wrong = format!("{{MD5}}{}", "0".repeat(32));
        for (request, words) in [
            (with(&dead, ""), "127.0.0.1"),
            (with(&halting, ""), "127.0.0.1"),
            (with(&whole, &wrong), "Checksum validation failed"),
        ] {
            let details = edge.denied(request).await;
            assert!(details.contains(words), "{words}: {details}");
            assert_eq!(Traces::of_host(&edge).await, before, "{words}");
        }
        let answer: Value = edge.asked(with(&whole, &template.checksum())).await;
        edge.asked(zone.evict(answer["installPath"].as_str().unwrap())).await;
        assert_eq!(Traces::of_host(&edge).await, before);
        edge.host.undisturbed();
    });
}
