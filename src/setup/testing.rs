//! A scratch host for tests: files as Ubuntu 22.04 has them, and programs that stand in for those that
//! would change the machine. `tests/data/setup/programs` has them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::Root;

const PROGRAMS: [(&str, &str); 4] = [
    ("systemctl", include_str!("../../tests/data/setup/programs/systemctl")),
    ("ufw", include_str!("../../tests/data/setup/programs/ufw")),
    ("modprobe", include_str!("../../tests/data/setup/programs/modprobe")),
    ("apparmor_parser", include_str!("../../tests/data/setup/programs/apparmor_parser")),
];
const FILES: [(&str, &str); 12] = [
    ("etc/libvirt/libvirtd.conf", include_str!("../../tests/data/setup/libvirtd.conf")),
    ("etc/libvirt/qemu.conf", include_str!("../../tests/data/setup/qemu.conf")),
    ("lib/systemd/system/libvirtd.service", include_str!("../../tests/data/setup/libvirtd.service")),
    ("etc/cloudstack/agent/agent.properties", include_str!("../../tests/data/setup/agent.properties")),
    ("etc/apparmor.d/usr.sbin.libvirtd", "profile libvirtd {}\n"),
    ("sys/module/apparmor/parameters/enabled", "Y\n"),
    ("sys/kernel/security/apparmor/profiles", "libvirtd (enforce)\n"),
    ("proc/meminfo", "MemTotal: 16384000 kB\n"),
    ("proc/net/route", "Iface\tDestination\tGateway\ncloudbr0\t00000000\t0100000A\n"),
    ("ufw-rules", "allow 22/tcp\n"),
    ("dev/kvm", ""),
    ("run/systemd/system/.there", ""),
];
const UNITS: [(&str, &str); 5] = [
    ("libvirtd.service", "active enabled"),
    ("libvirtd.socket", "active enabled"),
    ("libvirtd-ro.socket", "active enabled"),
    ("libvirtd-tls.socket", "inactive disabled"),
    ("cloudstack-agent.service", "inactive disabled"),
];

pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn bare() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    /// With libvirt, the agent's package, AppArmor and ufw.
    pub fn ubuntu() -> Scratch {
        let host = Scratch::bare();
        for (name, text) in PROGRAMS {
            host.program(name, text);
        }
        for (path, text) in FILES {
            host.write(path, text);
        }
        for (name, state) in UNITS {
            host.write(&format!("units/{name}"), &format!("{state}\n"));
        }
        for nic in ["lo", "ens3", "cloudbr0", "cloudbr1"] {
            host.write(&format!("sys/class/net/{nic}/ifindex"), "1\n");
        }
        host
    }

    /// Certificates, of which set-up only looks whether they are there.
    pub fn with_certificates(self) -> Scratch {
        for file in ["cloud.crt", "cloud.key", "cloud.ca.crt"] {
            self.write(&format!("etc/cloudstack/agent/{file}"), "");
        }
        self
    }

    pub fn root(&self) -> Root {
        Root::new(self.0.path())
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    pub fn program(&self, name: &str, text: &str) {
        let text = text.strip_prefix("#!/bin/sh\n").unwrap_or(text);
        let text = format!("#!/bin/sh\n{}", text.replace("@ROOT@", self.0.path().to_str().unwrap()));
        let path = format!("usr/sbin/{name}");
        self.write(&path, &text);
        fs::set_permissions(self.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What changed the machine since the last look.
    pub fn calls(&self) -> Vec<String> {
        let calls = self.read("calls").lines().map(str::to_owned).collect();
        self.write("calls", "");
        calls
    }

    /// All files and links with their content, but for those of the set-up itself.
    pub fn snapshot(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut directories = vec![self.0.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned();
                if name.starts_with("var/lib/cloudstack-agent") || name == "calls" {
                    continue;
                }
                match fs::read_link(&path) {
                    Ok(target) => found.push((name, format!("-> {}", target.display()))),
                    Err(_) if path.is_dir() => directories.push(path),
                    Err(_) => found.push((name, fs::read_to_string(&path).unwrap())),
                }
            }
        }
        found.sort();
        found
    }
}
