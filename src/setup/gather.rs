//! Looks at a host: files, interfaces, units, firewall. Changes nothing. What cannot be found out counts
//! as not there, except for files that are to be edited: those must be readable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::planning::{AGENT_UNIT, AgentState, Confinement, DAEMON, Facts, LINKS, Profile, SOCKETS, Unit};
use super::root::{ReadError, Root};
use super::{AGENT_DIR, PROPERTIES};
use crate::config::{Config, Properties};

/// For programs that only tell something.
const DEADLINE: Duration = Duration::from_secs(20);
const SNAPSHOT: &str = "/run/cloudstack-agent/status.json";
const MODULE: &str = "br_netfilter";
const MODULE_DIRECTORIES: [&str; 3] =
    ["/etc/modules-load.d", "/run/modules-load.d", "/usr/lib/modules-load.d"];
const PROFILES: [&str; 2] = ["usr.sbin.libvirtd", "usr.lib.libvirt.virt-aa-helper"];
const UNIT_DIRECTORIES: [&str; 3] = ["/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"];

/// The host as it is now.
pub async fn gather(root: &Root) -> Result<Facts, ReadError> {
    let properties = root.bytes(PROPERTIES)?;
    let has_systemd = root.exists("/run/systemd/system");
    Ok(Facts {
        is_root: rustix::process::geteuid().is_root(),
        has_systemd,
        fresh_ids: fresh_ids(properties.as_deref()),
        properties,
        memory_mib: memory_mib(root),
        has_kvm: root.exists("/dev/kvm"),
        interfaces: names_in(root, "/sys/class/net"),
        default_nic: default_nic(root),
        module_configured: module_configured(root),
        module_loaded: root.exists(format!("/sys/module/{MODULE}")),
        confinement: confinement(root),
        libvirtd_conf: root.text("/etc/libvirt/libvirtd.conf")?,
        qemu_conf: root.text("/etc/libvirt/qemu.conf")?,
        libvirtd_default: root.text("/etc/default/libvirtd")?,
        libvirtd_unit: UNIT_DIRECTORIES
            .iter()
            .find_map(|directory| root.text(format!("{directory}/{DAEMON}")).ok().flatten()),
        units: if has_systemd { units(root).await } else { BTreeMap::new() },
        has_certificates: ["cloud.crt", "cloud.key", "cloud.ca.crt"]
            .iter()
            .all(|file| root.exists(format!("{AGENT_DIR}/{file}"))),
        links: links(root),
        ufw_rules: ufw_rules(root).await,
        agent: agent_state(root),
    })
}

/// One for each directory of local storage, for a host that has no ids yet.
fn fresh_ids(properties: Option<&[u8]>) -> Vec<String> {
    let file = Properties::parse(properties.unwrap_or_default()).unwrap_or_default();
    let config = Config::from_properties(PROPERTIES.as_ref(), &file);
    let count = config.map_or(1, |config| config.local_storage.len());
    (0..count.max(1)).map(|_| uuid::Uuid::new_v4().to_string()).collect()
}

fn memory_mib(root: &Root) -> u64 {
    let text = root.text("/proc/meminfo").ok().flatten().unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn names_in(root: &Root, directory: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root.at(directory)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn default_nic(root: &Root) -> Option<String> {
    let table = root.text("/proc/net/route").ok().flatten()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [nic, "00000000", ..] => Some((*nic).to_owned()),
            _ => None,
        }
    })
}

fn module_configured(root: &Root) -> bool {
    let files = MODULE_DIRECTORIES.iter().flat_map(|directory| {
        names_in(root, directory).into_iter().map(move |name| format!("{directory}/{name}"))
    });
    files
        .filter(|path| path.ends_with(".conf"))
        .chain(["/etc/modules".to_owned()])
        .filter_map(|path| root.text(path).ok().flatten())
        .any(|text| text.lines().any(|line| line.trim() == MODULE))
}

/// `None` unless AppArmor is on and confines libvirt.
fn confinement(root: &Root) -> Option<Confinement> {
    let enabled = root.text("/sys/module/apparmor/parameters/enabled").ok().flatten()?;
    let loaded = root.text("/sys/kernel/security/apparmor/profiles").ok().flatten()?;
    if enabled.trim() != "Y" || !loaded.contains("libvirt") && !loaded.contains("virt-aa-helper") {
        return None;
    }
    let existing = PROFILES.iter().filter(|file| root.exists(format!("/etc/apparmor.d/{file}")));
    let profiles = existing.map(|file| Profile {
        file: (*file).to_owned(),
        disabled: root.exists(format!("/etc/apparmor.d/disable/{file}")),
    });
    Some(Confinement { profiles: profiles.collect() })
}

fn links(root: &Root) -> BTreeMap<PathBuf, PathBuf> {
    let target = |path: &str| std::fs::read_link(root.at(path)).ok();
    LINKS.iter().filter_map(|(path, _)| Some((PathBuf::from(path), target(path)?))).collect()
}

async fn text_of(root: &Root, program: &str, arguments: &[&str]) -> Option<String> {
    let output = root.run(program, arguments, DEADLINE).await?.ok()?;
    output.success().then(|| output.text())
}

async fn units(root: &Root) -> BTreeMap<String, Unit> {
    let mut arguments = vec!["show", "--property=Id,LoadState,ActiveState,UnitFileState", AGENT_UNIT, DAEMON];
    arguments.extend(SOCKETS);
    parse_units(&text_of(root, "systemctl", &arguments).await.unwrap_or_default())
}

/// Blocks of `Name=value` lines, one block per unit. Units that do not exist are left out.
fn parse_units(text: &str) -> BTreeMap<String, Unit> {
    let mut units = BTreeMap::new();
    for block in text.split("\n\n") {
        let value = |name: &str| {
            block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        if value("Id").is_empty() || value("LoadState") == "not-found" {
            continue;
        }
        let unit = Unit {
            active: matches!(value("ActiveState"), "active" | "reloading" | "activating"),
            file_state: value("UnitFileState").to_owned(),
        };
        units.insert(value("Id").to_owned(), unit);
    }
    units
}

async fn ufw_rules(root: &Root) -> Option<Vec<String>> {
    let status = text_of(root, "ufw", &["status"]).await?;
    if !status.lines().any(|line| line.trim() == "Status: active") {
        return None;
    }
    let added = text_of(root, "ufw", &["show", "added"]).await.unwrap_or_default();
    Some(added.lines().filter_map(|line| line.trim().strip_prefix("ufw ")).map(str::to_owned).collect())
}

fn agent_state(root: &Root) -> AgentState {
    let text = root.text(SNAPSHOT).ok().flatten().unwrap_or_default();
    let snapshot: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    match snapshot.pointer("/session/state").and_then(|state| state.as_str()) {
        Some("registered") => AgentState::Registered,
        _ => AgentState::NotRegistered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn write(scratch: &Path, path: &str, text: &str) {
        let path = scratch.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn an_empty_host_has_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let facts = gather(&Root::new(scratch.path())).await.unwrap();
        assert!(facts.properties.is_none() && facts.units.is_empty() && facts.ufw_rules.is_none());
        assert!(!facts.has_kvm && !facts.module_configured && !facts.has_certificates);
        assert_eq!((facts.fresh_ids.len(), facts.agent), (1, AgentState::NotRegistered));
    }

    #[tokio::test]
    async fn files_tell_what_is_there() {
        let scratch = tempfile::tempdir().unwrap();
        write(scratch.path(), "proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\n");
        write(
            scratch.path(),
            "proc/net/route",
            "Iface\tDestination\nlo\t0000007F\nens3\t00000000\t0100000A\n",
        );
        write(scratch.path(), "etc/modules", "# x\nbr_netfilter\n");
        write(scratch.path(), "sys/module/apparmor/parameters/enabled", "Y\n");
        write(scratch.path(), "sys/kernel/security/apparmor/profiles", "libvirtd (enforce)\n");
        write(scratch.path(), "etc/apparmor.d/usr.sbin.libvirtd", "");
        write(scratch.path(), "run/cloudstack-agent/status.json", r#"{"session": {"state": "registered"}}"#);
        write(scratch.path(), "etc/cloudstack/agent/agent.properties", "local.storage.path=/a,/b\n");
        let facts = gather(&Root::new(scratch.path())).await.unwrap();
        assert_eq!((facts.memory_mib, facts.default_nic.as_deref()), (16_000, Some("ens3")));
        assert!(facts.module_configured && !facts.module_loaded);
        let profile = Profile { file: "usr.sbin.libvirtd".to_owned(), disabled: false };
        assert_eq!(facts.confinement, Some(Confinement { profiles: vec![profile] }));
        assert_eq!((facts.agent, facts.fresh_ids.len()), (AgentState::Registered, 2));
    }

    #[test]
    fn units_that_do_not_exist_are_left_out() {
        let text = "Id=libvirtd.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\n\
                    Id=virtqemud.socket\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n\n\
                    Id=libvirtd.socket\nLoadState=masked\nActiveState=inactive\nUnitFileState=masked\n";
        let units = parse_units(text);
        assert_eq!(units.len(), 2);
        assert_eq!(units["libvirtd.service"], Unit { active: true, file_state: "enabled".to_owned() });
        assert_eq!(units["libvirtd.socket"], Unit { active: false, file_state: "masked".to_owned() });
    }
}
