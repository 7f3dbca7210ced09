//! The judgement as a table, and facts from real images.

use super::facts::{BridgeFact, FileFact, GuestFact, MountFact, Place, SecretFact};
use super::{Facts, Kind, files, scan};
use crate::storage::testing;
use std::path::{Path, PathBuf};

const DISK: &str = "0b3d1f5e-8a35-4c11-9d6b-3f0d8a1f2c11";
const BASE: &str = "5d1e8b8a-95a5-4f4d-8e5c-0c1d2e3f4a5b";
const OTHER: &str = "9c0f7f6e-1111-4222-8333-444455556666";

fn file(place: Place, path: &str, backing: Option<&str>) -> FileFact {
    let backing = backing.map(|name| Path::new("/pool").join(name));
    FileFact { place, root: "/pool".into(), path: path.into(), bytes: 100, changed: 1_000, backing }
}

fn pool(name: &str, backing: Option<&str>) -> FileFact {
    file(Place::Pool, &format!("/pool/{name}"), backing)
}

fn guest(name: &str, running: bool, uses: &[&str]) -> GuestFact {
    let uses = uses.iter().map(|used| (*used).to_owned()).collect();
    GuestFact { name: name.into(), running, uses }
}

/// A root disk over its template, and nobody who uses them.
fn left() -> Facts {
    Facts { now: 10_000, files: vec![pool(DISK, Some(BASE)), pool(BASE, None)], ..Facts::default() }
}

fn ids(facts: &Facts) -> Vec<String> {
    scan(facts).orphans.into_iter().map(|orphan| orphan.id).collect()
}

#[test]
fn a_forgotten_router_leaves_its_disk_and_its_template() {
    let facts = Facts { last_users: [(DISK.to_owned(), "r-4-VM".to_owned())].into(), ..left() };
    let found = scan(&facts);
    assert_eq!(found.bytes(), 200);
    let [disk, base] = found.orphans.as_slice() else { panic!("{found:?}") };
    assert_eq!((disk.id.as_str(), disk.kind), (format!("volume:{DISK}").as_str(), Kind::Volume));
    assert_eq!((disk.owner.as_deref(), disk.age_seconds), (Some("r-4-VM"), Some(9_000)));
    assert!(disk.needed_by.is_empty());
    assert_eq!((base.owner.as_deref(), &base.needed_by), (Some("r-4-VM"), &vec![disk.id.clone()]));
}

#[test]
fn what_anything_speaks_for_stays_with_all_below_it() {
    let path = format!("/pool/{DISK}");
    let cases: Vec<(&str, Facts)> = vec![
        ("running", Facts { guests: vec![guest("r-4-VM", true, &[&path])], ..left() }),
        ("defined", Facts { guests: vec![guest("web", false, &[&path])], ..left() }),
        ("open", Facts { open: [PathBuf::from(&path)].into(), ..left() }),
        ("touched", Facts { touched: [DISK.to_owned()].into(), ..left() }),
        ("unfinished work", Facts { journal: format!("{{\"path\":\"{path}\"}}"), ..left() }),
        ("not known what guests use", Facts { blind: vec!["why".into()], ..left() }),
    ];
    for (name, facts) in cases {
        assert_eq!(ids(&facts), Vec::<String>::new(), "{name}");
    }
    // An image of the operator's over a template, beside a forgotten disk over it.
    let mut facts = left();
    facts.files.push(pool("web.qcow2", Some(BASE)));
    assert_eq!(ids(&facts), [format!("volume:{DISK}")]);
    // The base alone is spoken for: what is over it is not.
    let facts = Facts { touched: [BASE.to_owned()].into(), ..left() };
    assert_eq!(ids(&facts), [format!("volume:{DISK}")]);
}

#[test]
fn a_chain_in_a_circle_ends() {
    let mut facts = left();
    facts.files[1].backing = Some(Path::new("/pool").join(DISK));
    assert_eq!(ids(&facts).len(), 2);
    facts.touched.insert(DISK.to_owned());
    assert_eq!(ids(&facts), Vec::<String>::new());
}

#[test]
fn only_guests_that_look_like_cloudstacks_and_do_not_run_are_listed() {
    let guests = vec![
        guest("i-2-7-VM", false, &[]),
        guest("i-2-8-VM", true, &[]),
        guest("web", false, &[]),
        guest("r-4-VM", false, &[]),
    ];
    let facts = Facts { guests, touched: ["r-4-VM".to_owned()].into(), ..Facts::default() };
    assert_eq!(ids(&facts), ["domain:i-2-7-VM"]);
}

#[test]
fn files_of_each_kind_have_an_owner_and_an_id() {
    let facts = Facts {
        now: 10_000,
        guests: vec![guest("i-2-8-VM", true, &[OTHER])],
        files: vec![
            file(Place::ConfigDrives, "/cache/configdrive/i-2-7-VM.iso", None),
            file(Place::ConfigDrives, "/cache/configdrive/i-2-8-VM.iso", None),
            file(Place::ConfigDrives, "/cache/configdrive/tools.iso", None),
            file(Place::Nvram, "/nvram/i-2-7-VM_VARS.fd", None),
            // Named after the id of a guest that is there.
            file(Place::Nvram, &format!("/nvram/{OTHER}.fd"), None),
            file(Place::Snapshots, &format!("/pool/snapshots/2/9/{OTHER}"), Some(DISK)),
            file(Place::Temporary, "/tmp/debian.qcow2", None),
            file(Place::Temporary, "/tmp/.download-kvm1.0.part", None),
        ],
        ..Facts::default()
    };
    let found: Vec<(String, Option<String>)> =
        scan(&facts).orphans.into_iter().map(|orphan| (orphan.id, orphan.owner)).collect();
    let text = |id: &str, owner: Option<&str>| (id.to_owned(), owner.map(str::to_owned));
    assert_eq!(
        found,
        [
            text("config-drive:i-2-7-VM", Some("i-2-7-VM")),
            text("nvram:i-2-7-VM_VARS.fd", Some("i-2-7-VM")),
            text(&format!("snapshot:2/9/{OTHER}"), Some(&format!("volume {DISK}"))),
            text("unfinished:.download-kvm1.0.part", None),
        ]
    );
}

#[test]
fn fresh_unfinished_files_are_in_work() {
    let mut facts = Facts { now: 4_599, ..Facts::default() };
    facts.files.push(file(Place::Pool, "/pool/.x.partial-0-1-0", None));
    assert!(ids(&facts).is_empty());
    facts.now = 4_600;
    assert_eq!(ids(&facts), ["unfinished:.x.partial-0-1-0"]);
}

#[test]
fn two_files_of_one_name_have_their_paths_as_ids() {
    let mut facts = left();
    facts.files = vec![pool(DISK, None), file(Place::Pool, &format!("/second/{DISK}"), None)];
    assert_eq!(ids(&facts), [format!("volume:/pool/{DISK}"), format!("volume:/second/{DISK}")]);
}

#[test]
fn bridges_mounts_and_secrets_need_a_user() {
    let bridge = |name: &str, ports: &[&str]| BridgeFact {
        name: name.into(),
        ports: ports.iter().map(|port| (*port).to_owned()).collect(),
    };
    let mount = |name: &str, user: Option<&str>| MountFact {
        target: Path::new("/mnt").join(name),
        source: "nas:/secondary".into(),
        user: user.map(str::to_owned),
    };
    let secret = |uuid: &str, volume: &str| SecretFact { uuid: uuid.into(), volume: volume.into() };
    let facts = Facts {
        guests: vec![guest("i-2-8-VM", true, &["breth0-101", OTHER, "/mnt/c/x"])],
        bridges: vec![
            bridge("breth0-100", &["eth0.100"]),
            bridge("breth0-101", &["eth0.101"]),
            bridge("breth0-102", &["eth0.102", "vnet7"]),
            bridge("brvx-5", &[]),
            bridge("cloudbr0", &[]),
        ],
        mounts: vec![mount("a", None), mount("b", Some("pool x")), mount("c", None), mount("d", None)],
        open: [PathBuf::from("/mnt/d/file")].into(),
        secrets: vec![
            secret("s-1", &format!("/pool/{DISK}")),
            secret(OTHER, &format!("/pool/{BASE}")),
            secret("s-3", "ceph"),
        ],
        ..Facts::default()
    };
    assert_eq!(ids(&facts), ["bridge:breth0-100", "bridge:brvx-5", "mount:a", "secret:s-1"]);
}

#[tokio::test]
async fn real_images_tell_what_they_are_based_on() {
    if testing::qemu_img().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let pool = directory.path().canonicalize().unwrap();
    let path = |name: &str| pool.join(name).to_str().unwrap().to_owned();
    let create = ["qemu-img", "create", "-q", "-f", "qcow2"];
    testing::run(&[&create[..], &[&path(BASE), "1M"]].concat()).await.unwrap();
    testing::run(&[&create[..], &["-F", "qcow2", "-b", BASE, &path(DISK)]].concat()).await.unwrap();
    let file = format!("{{\"driver\":\"file\",\"filename\":\"{}\"}}", path(DISK));
    let described = format!("json:{{\"driver\":\"qcow2\",\"file\":{file}}}");
    testing::run(&[&create[..], &["-F", "qcow2", "-b", &described, &path(OTHER)]].concat()).await.unwrap();
    let chain = files::chain(&pool.join(OTHER)).unwrap();
    assert_eq!(chain, [pool.join(OTHER), pool.join(DISK), pool.join(BASE)]);
    assert!(files::chain(&pool.join("absent")).unwrap().is_empty());

    let files = files::look(Place::Pool, &pool, &pool).unwrap();
    assert_eq!(files.len(), 3);
    let facts = Facts { now: u64::MAX, files, ..Facts::default() };
    assert_eq!(ids(&facts).len(), 3);
    let user = Facts { guests: vec![guest("web", true, &[pool.join(DISK).to_str().unwrap()])], ..facts };
    assert_eq!(ids(&user), [format!("volume:{OTHER}")]);
}
