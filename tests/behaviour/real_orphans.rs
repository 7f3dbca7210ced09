//! What a server forgets on a host: found, and removed by name, on a real libvirtd with real images.

use crate::real::cage::Cage;
use crate::real::edge;
use crate::real::guest::Guest;
use crate::real::host::Host;
use crate::real::with_libvirt;
use serde_json::Value;

/// A template in the pool and a disk over it; gives their names.
async fn template_and_disk(cage: &Cage, host: &Host) -> (String, String) {
    let (template, disk) = (edge::id(), edge::id());
    let path = |name: &str| host.node.path("pool").join(name).to_str().unwrap().to_owned();
    cage.run(&["qemu-img", "create", "-q", "-f", "qcow2", &path(&template), "4M"]).await.unwrap();
    let base = path(&template);
    cage.run(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &path(&disk)])
        .await
        .unwrap();
    (template, disk)
}

/// Runs until it is destroyed or dropped.
async fn start<'a>(cage: &'a Cage, host: &Host, name: &str, disk: &str) -> Guest<'a> {
    let mut guest = Guest::new(cage, &host.node.path("pool")).await;
    std::fs::remove_file(&guest.disk).unwrap();
    guest.name = name.to_owned();
    guest.disk = host.node.path("pool").join(disk);
    guest.start().await;
    guest
}

/// Ids with the whole findings.
async fn listed(host: &Host) -> Vec<(String, Value)> {
    let run = host.node.run("orphans", &["--json"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    let one = |orphan: &Value| (orphan["id"].as_str().unwrap().to_owned(), orphan.clone());
    found["orphans"].as_array().unwrap().iter().map(one).collect()
}

fn has(listed: &[(String, Value)], id: &str) -> bool {
    listed.iter().any(|(known, _)| known == id)
}

#[test]
fn a_forgotten_router_is_listed_and_removed_piece_by_piece() {
    with_libvirt(async |cage| {
        let mut host = Host::up(cage).await;
        let (template, root) = template_and_disk(cage, &host).await;
        let (used_template, used_disk) = template_and_disk(cage, &host).await;
        std::fs::write(host.node.path("pool/notes.txt"), "the operator's").unwrap();
        let router = start(cage, &host, "r-904-VM", &root).await;
        let _user = start(cage, &host, "i-2-905-VM", &used_disk).await;
        let [template, root, used_template, used_disk] =
            [template, root, used_template, used_disk].map(|name| format!("volume:{name}"));
        let pool = host.node.path("pool");
        let file = |id: &str| pool.join(id.trim_start_matches("volume:"));
        // The router runs: nothing is left yet.
        let remove = host.node.run("orphans", &["--yes", "--remove", &root]).await;
        assert_eq!(remove.code, 1, "{remove:?}");
        assert!(remove.stderr.contains("not among the orphans") && file(&root).exists(), "{remove:?}");
        cage.virsh(&["destroy", &router.name]).await;

        let found = listed(&host).await;
        let finding = |id: &str| &found.iter().find(|(known, _)| known == id).expect("it is listed").1;
        assert_eq!(finding(&root)["owner"], "r-904-VM", "{found:#?}");
        assert_eq!(finding(&template)["owner"], "r-904-VM", "{found:#?}");
        assert_eq!(finding(&template)["needed_by"][0], root.as_str());
        assert!(finding(&root)["bytes"].as_u64().unwrap() > 0);
        assert!(!has(&found, &used_template) && !has(&found, &used_disk), "{found:#?}");
        assert!(!found.iter().any(|(_, orphan)| orphan["name"].as_str().unwrap().contains("notes")));

        let silent = host.node.run("orphans", &["--remove", &root]).await;
        assert_eq!(silent.code, 2, "{silent:?}");
        assert!(silent.stderr.contains("--yes"), "{silent:?}");
        let wrong =
            host.node.run("orphans", &["--yes", "--remove", &template, &used_template, "volume:no"]).await;
        assert_eq!(wrong.code, 1, "{wrong:?}");
        assert!(wrong.stderr.contains("is based on it"), "{wrong:?}");
        assert_eq!(
            wrong.stderr.matches("not among the orphans").count(),
            4,
            "two, told and logged: {wrong:?}"
        );
        for id in [&template, &root, &used_template, &used_disk] {
            assert!(file(id).exists(), "{id}");
        }

        let removed = host.node.run("orphans", &["--yes", "--remove", &root]).await;
        assert_eq!(removed.code, 0, "{removed:?}");
        assert!(removed.stdout.contains(&format!("removed {root}")), "{removed:?}");
        assert!(removed.stderr.contains("Orphan removed on request"), "{removed:?}");
        assert!(!file(&root).exists() && file(&template).exists());
        host.undisturbed();

        // The agent need not run.
        host.node.stop().await;
        assert!(has(&listed(&host).await, &template));
        let removed = host.node.run("orphans", &["--yes", "--remove", &template]).await;
        assert_eq!(removed.code, 0, "{removed:?}");
        assert!(!file(&template).exists() && file(&used_template).exists() && file(&used_disk).exists());
    });
}

#[test]
fn what_a_request_named_is_not_listed_until_the_agent_starts_anew() {
    with_libvirt(async |cage| {
        let mut host = Host::up(cage).await;
        let (_, disk) = template_and_disk(cage, &host).await;
        let id = format!("volume:{disk}");
        assert!(has(&listed(&host).await, &id));
        // Whether the command is known and succeeds does not matter: the server knows the volume.
        let fields = serde_json::json!({"volume": {"path": disk}});
        host.ask("com.cloud.agent.api.NoSuchCommand", fields).await;
        let named = host.node.runtime_dir().join("touched");
        host.node
            .until("the name is noted", |_| std::fs::read_to_string(&named).is_ok_and(|t| t.contains(&disk)))
            .await;
        let run = host.node.run("orphans", &["--json"]).await;
        assert!(!run.stdout.contains(&id), "{run:?}");
        host.node.stop().await;
        host.node.start();
        host.node.is_registered().await;
        host.node
            .until("the names are forgotten", |_| {
                std::fs::read_to_string(&named).is_ok_and(|t| !t.contains(&disk))
            })
            .await;
        assert!(has(&listed(&host).await, &id));
    });
}

#[test]
fn a_definition_a_config_drive_a_bridge_and_a_secret_are_found_and_removed() {
    with_libvirt(async |cage| {
        let mut host = Host::new(cage).await;
        let cache = host.node.path("cache");
        host.node.set("host.cache.location", cache.to_str().unwrap());
        host.register().await;
        let (volume, secret) = (edge::id(), edge::id());
        let drives = cache.join("config/configdrive");
        std::fs::create_dir_all(&drives).unwrap();
        for drive in ["i-2-906-VM.iso", "i-2-907-VM.iso"] {
            std::fs::write(drives.join(drive), "iso").unwrap();
        }
        let define = async |verb: &str, xml: String| {
            let name = format!("/run/{}.xml", edge::id());
            std::fs::write(cage.file(&name), xml).unwrap();
            cage.virsh(&[verb, &name]).await;
        };
        define("define", "<domain type='qemu'><name>i-2-906-VM</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os></domain>".into()).await;
        define("secret-define", format!("<secret private='yes'><uuid>{secret}</uuid><usage type='volume'><volume>/pool/{volume}</volume></usage></secret>")).await;
        // There is an interface "lo"; "none9" is none, so that bridge is the operator's.
        for bridge in ["brlo-77", "brnone9-77"] {
            cage.run(&["ip", "link", "add", bridge, "type", "bridge"]).await.unwrap();
        }

        let found = listed(&host).await;
        let secret = format!("secret:{secret}");
        let ids = ["domain:i-2-906-VM", "config-drive:i-2-907-VM", "bridge:brlo-77", secret.as_str()];
        for id in ids {
            assert!(has(&found, id), "{id}: {found:#?}");
        }
        assert!(!has(&found, "bridge:brnone9-77"), "{found:#?}");
        // Its guest is still defined.
        assert!(!has(&found, "config-drive:i-2-906-VM"), "{found:#?}");
        let removed = host.node.run("orphans", &[&["--yes", "--remove"], &ids[..]].concat()).await;
        assert_eq!(removed.code, 0, "{removed:?}");
        let found = listed(&host).await;
        assert!(!ids.iter().any(|id| has(&found, id)), "{found:#?}");
        assert!(has(&found, "config-drive:i-2-906-VM"), "its guest is gone: {found:#?}");
        assert!(!cage.virsh(&["list", "--all", "--name"]).await.contains("i-2-906-VM"));
        assert!(cage.run(&["ip", "link", "show", "brlo-77"]).await.is_err());
        assert!(!drives.join("i-2-907-VM.iso").exists() && drives.join("i-2-906-VM.iso").exists());
    });
}
