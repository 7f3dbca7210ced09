//! Adding a host as a management server does it: over ssh, with its command lines, in its order. Then the
//! agent starts with what that left, and registers.
//!
//! A real sshd takes each connection from ssh directly, without a port, in a mount namespace that has the
//! keystore programs under the path that servers call. `AGENT_ROOT` makes a scratch directory the host.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

use crate::harness::{LIMIT, Node, Run, config, flawless, ready, seen};
use cloudstack_agent::sim::{KeyKind, Pki, Script, SimConfig, SimEvent, SimServer, Validity};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::process::Command;
use tokio::time::timeout;

/// Name-based UUID of 192.168.1.10, as a server computes it.
const GUID: &str = "8f337c97-3339-3d70-9388-3bd28ddb6588";
const PASSPHRASE: &str = "canary4711";
const AGENT: &str = env!("CARGO_BIN_EXE_agent");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/setup");
const SSHD: &str = "/usr/sbin/sshd";
const UTIL: &str = "/usr/share/cloudstack-common/scripts/util";
const ETC: &str = "/etc/cloudstack/agent";

struct Host {
    node: Node,
}

impl Host {
    /// A machine with libvirt, ufw and the agent's package, and an sshd that lets the server in.
    fn new(port: u16) -> Host {
        let node = Node::bare();
        node.write(&format!(
            "# Kept by hand\nguid=\nhost=localhost\nport={port}\nzone=default\npod=default\ncluster=default\n\
             host.reserved.mem.mb=512\nhypervisor.uri=test:///default\nlocal.storage.path={}\n",
            node.path("pool").display()
        ));
        let host = Host { node };
        host.files();
        host.programs();
        host.sshd();
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.node.path("host").join(path.trim_start_matches('/'))
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn files(&self) {
        for file in ["libvirtd.conf", "qemu.conf"] {
            self.put(&format!("etc/libvirt/{file}"), &fs::read_to_string(format!("{DATA}/{file}")).unwrap());
        }
        let unit = fs::read_to_string(format!("{DATA}/libvirtd.service")).unwrap();
        self.put("lib/systemd/system/libvirtd.service", &unit);
        self.put("proc/meminfo", "MemTotal: 16384000 kB\n");
        self.put("ufw-rules", "allow 22/tcp\n");
        for there in ["dev/kvm", "run/systemd/system/.there", "sys/class/net/lo/ifindex"] {
            self.put(there, "");
        }
        for (unit, state) in [
            ("libvirtd.service", "active enabled"),
            ("libvirtd.socket", "active enabled"),
            ("cloudstack-agent.service", "inactive disabled"),
        ] {
            self.put(&format!("units/{unit}"), &format!("{state}\n"));
        }
        fs::create_dir_all(self.path("etc/cloudstack")).unwrap();
        symlink(self.node.config_dir(), self.path("etc/cloudstack/agent")).unwrap();
        symlink(self.node.runtime_dir(), self.path("run/cloudstack-agent")).unwrap();
    }

    fn programs(&self) {
        let root = self.path("");
        for name in ["systemctl", "ufw", "modprobe"] {
            let text = fs::read_to_string(format!("{DATA}/programs/{name}")).unwrap();
            let text = text.replace("@ROOT@", root.to_str().unwrap().trim_end_matches('/'));
            self.executable(&format!("usr/sbin/{name}"), &text);
        }
        // Servers say it to root too.
        self.executable("path/sudo", "#!/bin/sh\nexec \"$@\"\n");
        symlink(AGENT, self.path("path/cloudstack-setup-agent")).unwrap();
        symlink(AGENT, self.path("path/agent")).unwrap();
    }

    fn executable(&self, path: &str, text: &str) {
        self.put(path, text);
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn sshd(&self) {
        let keys = self.node.path("ssh");
        fs::create_dir(&keys).unwrap();
        for name in ["host", "server"] {
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(keys.join(name))
                .status();
            assert!(made.unwrap().success());
        }
        let (keys, root) = (keys.display(), self.path(""));
        let configuration = format!(
            "HostKey {keys}/host\nAuthorizedKeysFile {keys}/server.pub\nStrictModes no\nUsePAM no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             SetEnv AGENT_ROOT={} PATH={}:/usr/sbin:/usr/bin:/sbin:/bin\n",
            root.display(),
            root.join("path").display()
        );
        fs::write(self.node.path("ssh/sshd_config"), configuration).unwrap();
        let script = format!(
            "#!/bin/sh\nset -e\nmount -t tmpfs none /run\nmkdir -p /run/sshd\nmount -t tmpfs none /usr/share\n\
             mkdir -p {UTIL}\nln -s {AGENT} {UTIL}/keystore-setup\n\
             ln -s {AGENT} {UTIL}/keystore-cert-import\nexec {SSHD} -i -f {keys}/sshd_config\n"
        );
        let launch = self.node.path("ssh/launch");
        fs::write(&launch, script).unwrap();
        fs::set_permissions(launch, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a command line on the host, as a server does.
    async fn ssh(&self, line: &str) -> Run {
        let keys = self.node.path("ssh");
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"])
            .arg("-o")
            .arg(format!("ProxyCommand=unshare --mount {}", keys.join("launch").display()))
            .arg("-i")
            .arg(keys.join("server"))
            .args(["root@192.168.1.10", line])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(LIMIT, ssh.output()).await.expect("ssh does not end").unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    async fn succeeds(&self, line: &str) -> String {
        let run = self.ssh(line).await;
        assert_eq!(run.code, 0, "{line}: {}{}", run.stdout, run.stderr);
        run.stdout
    }
}

/// Why the test cannot run here.
async fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may make a mount namespace".to_owned());
    }
    for (program, package) in [
        (SSHD, "openssh-server"),
        ("/usr/bin/ssh", "openssh-client"),
        ("/usr/bin/ssh-keygen", "openssh-client"),
    ] {
        if !Path::new(program).exists() {
            return Some(format!("{program} is not installed (apt install {package})"));
        }
    }
    let tried = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/run"]).output();
    match tried.await {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare does not start: {error}")),
    }
}

/// As servers put PEM into a command line.
fn encoded(pem: &str) -> String {
    pem.replace('\n', "^").replace(' ', "~")
}

fn add_host() -> String {
    format!(
        "cloudstack-setup-agent  -m 127.0.0.1 -z 1 -p 1 -c 1 -g {GUID} -a -s \
         --pubNic=lo --prvNic=lo --guestNic=lo --hypervisor=kvm"
    )
}

#[tokio::test]
async fn a_server_adds_this_host_over_ssh() {
    if let Some(reason) = obstacle().await {
        // Past the test runner, which would swallow it.
        writeln!(std::io::stderr(), "\nSKIPPED: a server adds this host over ssh: {reason}").unwrap();
        return;
    }
    let pki = Arc::new(Pki::new(KeyKind::Rsa).unwrap());
    let settings = SimConfig { pki: Some(Arc::clone(&pki)), ..config(Script::default()) };
    let server = SimServer::start(settings).await.unwrap();
    let mut host = Host::new(server.address().port());

    provision(&host, &pki).await;
    set_up(&host).await;

    host.node.start();
    ready(&server, 1).await;
    assert_eq!(server.hosts().len(), 1);
    assert!(server.host(&format!("{GUID}-LibvirtComputingResource")).is_some());
    let shown = seen(&server, |event| matches!(event, SimEvent::Handshake(_))).await.event;
    assert!(matches!(&shown, SimEvent::Handshake(a) if a.client_certificate), "{shown}");
    host.node.is_registered().await;

    // A server that adds the host once more finds nothing to do and disturbs nothing.
    let is_written = |node: &Node| {
        fs::read_to_string(node.runtime_dir().join("status.json"))
            .is_ok_and(|text| text.contains("\"registered\""))
    };
    host.node.until("a snapshot", is_written).await;
    fs::write(host.path("calls"), "").unwrap();
    let told = host.succeeds(&add_host()).await;
    assert!(told.contains("Nothing to do") && told.contains("CloudStack Agent setup is done!"), "{told}");
    assert_eq!(host.read("calls"), "");
    assert_eq!(host.node.stop().await, Some(0));
    flawless(&server);
}

/// Key, request and certificate.
async fn provision(host: &Host, pki: &Pki) {
    let csr = host
        .succeeds(&format!(
            "sudo {UTIL}/keystore-setup {ETC}/agent.properties {ETC}/cloud.jks {PASSPHRASE} 365 {ETC}/cloud.csr"
        ))
        .await;
    assert!(csr.starts_with("-----BEGIN"), "nothing but the request is printed: {csr}");
    assert_eq!(host.node.value("keystore.passphrase").as_deref(), Some(PASSPHRASE));
    let certificate = pki.sign(&csr, Validity::Days(365)).unwrap();
    host.succeeds(&format!(
        "sudo {UTIL}/keystore-cert-import {ETC}/agent.properties {PASSPHRASE} {ETC}/cloud.jks ssh \
         {ETC}/cloud.crt \"{}\" {ETC}/cloud.ca.crt \"{}\" {ETC}/cloud.key \"\"",
        encoded(&certificate),
        encoded(&pki.ca_pem())
    ))
    .await;
    for file in ["cloud.jks", "cloud.crt", "cloud.ca.crt", "cloud.key"] {
        assert!(fs::metadata(host.node.config_dir().join(file)).unwrap().len() > 0, "{file}");
    }
    // Migrations are encrypted from now on.
    assert!(host.read("etc/libvirt/libvirtd.conf").contains("\nlisten_tls=1\n"));
    let link = fs::read_link(host.path("etc/pki/libvirt/private/serverkey.pem")).unwrap();
    assert_eq!(link, Path::new("/etc/cloudstack/agent/cloud.key"));
}

async fn set_up(host: &Host) {
    let before = host.node.properties();
    let dry = host.succeeds(&format!("{} --dry-run", add_host())).await;
    assert!(dry.contains("Nothing was changed"), "{dry}");
    assert_eq!(host.node.properties(), before);

    let told = host.succeeds(&add_host()).await;
    assert!(told.ends_with("CloudStack Agent setup is done!\n"), "{told}");
    assert!(!told.contains(PASSPHRASE), "{told}");
    // All that the operator had is there, in its place.
    let after = host.node.properties();
    assert!(after.starts_with(&format!("# Kept by hand\nguid={GUID}\nhost=127.0.0.1\nport=")), "{after}");
    assert!(after.contains("\nhost.reserved.mem.mb=512\nhypervisor.uri=test:///default\n"), "{after}");
    assert_eq!(host.read("units/cloudstack-agent.service"), "active enabled\n");
    assert!(host.read("ufw-rules").contains("allow 16514/tcp"));
    assert!(!host.read("ufw-rules").contains("16509"), "not encrypted, and not needed");

    let taken_back = host.succeeds("agent setup --undo").await;
    assert!(taken_back.contains("taken back"), "{taken_back}");
    assert_eq!(host.node.properties(), before);
    host.succeeds(&add_host()).await;
    assert_eq!(
        host.node.properties(),
        after.replace(&storage_id(&after), &storage_id(&host.node.properties()))
    );
}

/// Made anew by each first set-up.
fn storage_id(properties: &str) -> String {
    let line = properties.lines().find_map(|line| line.strip_prefix("local.storage.uuid="));
    line.expect("the local pool has an id").to_owned()
}

#[tokio::test]
async fn a_server_is_told_why_a_host_cannot_be_added() {
    if let Some(reason) = obstacle().await {
        writeln!(std::io::stderr(), "\nSKIPPED: a server is told why: {reason}").unwrap();
        return;
    }
    let host = Host::new(8250);
    let before = host.node.properties();
    let run = host.ssh(&add_host().replace("--pubNic=lo", "--pubNic=cloudbr0")).await;
    assert_ne!(run.code, 0);
    for word in ["There is no interface cloudbr0", "There is no certificate", "Nothing was changed"] {
        assert!(format!("{}{}", run.stdout, run.stderr).contains(word), "{word}: {run:?}");
    }
    assert_eq!((host.node.properties(), host.read("calls")), (before, String::new()));
}
