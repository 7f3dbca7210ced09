//! The guests that real servers started, as captured: each StartCommand with the domain XML that the
//! Java agent made of it.

use cloudstack_agent::commands::to::{Data, VirtualMachineTo};
use cloudstack_agent::commands::vm::guest_spec::{
    self, Built, HostFacts, Inputs, Resolved, ResolvedBridge, ResolvedDisk,
};
use cloudstack_agent::config::Config;
use cloudstack_agent::config::properties::Properties;
use cloudstack_agent::guest::disks::{DiskFormat, DiskSource};
use cloudstack_agent::xml::{self, Element};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const EXCHANGES: [&str; 2] =
    [include_str!("../data/wire/exchanges-4.19.1.jsonl"), include_str!("../data/wire/exchanges-4.22.jsonl")];

/// One guest twice: as the server wanted it and as the Java agent made it.
pub struct CapturedGuest {
    /// File of the domain XML.
    pub file: String,
    pub vm: VirtualMachineTo,
    pub host_ip: String,
    pub theirs: Element,
    /// The captured command.
    command: Value,
    resolved: Resolved,
}

/// Everything captured, sorted out.
pub struct Captures {
    /// Pairs; a document may belong to several commands and the other way round.
    pub pairs: Vec<CapturedGuest>,
    /// Files that no command fits.
    pub documents_alone: BTreeSet<String>,
    /// Names of guests of whose command no document was captured.
    pub commands_alone: BTreeSet<String>,
}

pub fn captures() -> Captures {
    let documents = documents();
    let mut captures = Captures {
        pairs: Vec::new(),
        documents_alone: documents.keys().cloned().collect(),
        commands_alone: BTreeSet::new(),
    };
    for command in start_commands() {
        let vm = read_vm(&command, "");
        let mut alone = true;
        for (file, theirs) in documents.iter().filter(|(_, theirs)| fits(&vm, theirs)) {
            // Passwords are blacked out in the commands only.
            let password = theirs.attribute_at("devices/graphics", "passwd").unwrap();
            let vm = read_vm(&command, &password);
            let resolved = resolved(&vm, theirs);
            let host_ip = command["hostIp"].as_str().unwrap().to_owned();
            captures.pairs.push(CapturedGuest {
                file: file.clone(),
                vm,
                host_ip,
                theirs: theirs.clone(),
                command: command.clone(),
                resolved,
            });
            captures.documents_alone.remove(file);
            alone = false;
        }
        if alone {
            captures.commands_alone.insert(vm.name);
        }
    }
    captures
}

impl CapturedGuest {
    /// What this agent makes of it on a host like the captured one.
    pub fn build(&self, properties: &str) -> Built {
        self.build_changed(properties, &HostFacts::default(), |_| {})
    }

    /// The same on another host with a `vm` that differs from the captured one.
    pub fn build_changed(
        &self,
        properties: &str,
        host: &HostFacts,
        change: impl FnOnce(&mut Value),
    ) -> Built {
        let mut command = self.command.clone();
        change(&mut command["vm"]);
        let vm = read_vm(&command, self.vm.vnc_password.expose());
        let config = config(properties);
        let resolved = &self.resolved;
        guest_spec::build(Inputs {
            vm: &vm,
            config: &config,
            host,
            resolved,
            vnc_listen: Some(&self.host_ip),
        })
        .unwrap()
    }
}

pub fn config(properties: &str) -> Config {
    Config::from_properties(Path::new("agent.properties"), &Properties::parse(properties.as_bytes()).unwrap())
        .unwrap()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/domain-xml")
}

fn documents() -> BTreeMap<String, Element> {
    let files = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let mut root = xml::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
            merge_devices(&mut root);
            (path.file_name().unwrap().to_str().unwrap().to_owned(), root)
        })
        .collect()
}

/// The Java agent writes two `<devices>`; libvirt reads them as one.
fn merge_devices(root: &mut Element) {
    let (all, mut rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut root.children).into_iter().partition(|child| child.name == "devices");
    assert_eq!(all.len(), 2);
    let children = all.into_iter().flat_map(|devices| devices.children);
    rest.push(Element::new("devices").children(children));
    root.children = rest;
}

fn start_commands() -> Vec<Value> {
    let lines = EXCHANGES.into_iter().flat_map(str::lines).filter(|line| !line.trim().is_empty());
    let bodies = lines.filter_map(|line| {
        let exchange: Value = serde_json::from_str(line).unwrap();
        serde_json::from_str::<Vec<Value>>(exchange["request"]["body"].as_str()?).ok()
    });
    bodies.flatten().filter_map(|command| command.get("com.cloud.agent.api.StartCommand").cloned()).collect()
}

fn read_vm(command: &Value, password: &str) -> VirtualMachineTo {
    let mut vm = command["vm"].clone();
    vm["vncPassword"] = password.into();
    serde_json::from_value(vm).unwrap()
}

/// Same guest, same disks, same network cards: guests were started more than once.
fn fits(vm: &VirtualMachineTo, document: &Element) -> bool {
    let devices = document.at("devices").unwrap();
    let macs: BTreeSet<String> =
        devices.all("interface").filter_map(|nic| nic.attribute_at("mac", "address")).collect();
    let files = devices.all("disk").filter_map(|disk| disk.attribute_at("source", "file"));
    let files: BTreeSet<String> = files
        .filter(|path| !path.is_empty())
        .map(|path| path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let wanted = vm.disks.iter().filter_map(|disk| disk.data.as_ref().and_then(Data::path));
    document.text_at("uuid").as_ref() == Some(&vm.uuid)
        && macs == vm.nics.iter().map(|nic| nic.mac.clone()).collect()
        && files == wanted.map(|path| path.rsplit('/').next().unwrap().to_owned()).collect()
}

/// Pools are directories; config drives are in the host's cache; bridges are those of the document.
fn resolved(vm: &VirtualMachineTo, document: &Element) -> Resolved {
    let mut resolved = Resolved::default();
    for disk in &vm.disks {
        let data = disk.data.as_ref().unwrap();
        let Some(path) = data.path() else { continue };
        let (directory, format) = if disk.is_iso() {
            ("/var/cache/cloud/config", DiskFormat::Raw)
        } else {
            (data.store().unwrap().primary().unwrap().path.as_str(), DiskFormat::Qcow2)
        };
        let source = DiskSource::File(format!("{directory}/{path}"));
        let found = ResolvedDisk { source, format, secret: None, block_sizes: None };
        resolved.disks.insert(disk.disk_seq.unwrap(), found);
    }
    for nic in &vm.nics {
        let element = document.at("devices").unwrap();
        let element = element
            .all("interface")
            .find(|element| element.attribute_at("mac", "address").as_deref() == Some(&nic.mac))
            .unwrap();
        let bridge = element.attribute_at("source", "bridge").unwrap();
        resolved.bridges.insert(nic.device_id, ResolvedBridge { bridge, ovs: None });
    }
    resolved
}
