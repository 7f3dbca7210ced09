//! A network of its own for one test: a network namespace with its own /sys, held by a process that
//! ends with the test.
#![allow(clippy::disallowed_methods)]

use super::{Bridges, Settings};
use crate::host::exec::{Program, find_program};
use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

const INSIDE: &str =
    "PATH=$PATH:/usr/sbin:/sbin; mount -t sysfs none /sys && ip link set lo up && echo ready && read _";

pub struct Net {
    holder: Child,
    /// Scripts that the agent may call.
    pub scripts: tempfile::TempDir,
}

impl Net {
    fn new() -> Result<Net, String> {
        if !geteuid().is_root() {
            return Err("only root may make namespaces".to_owned());
        }
        for program in ["ip", "unshare"] {
            find_program(program).ok_or_else(|| format!("{program} is not installed"))?;
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "sh", "-c", INSIDE]);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = unshare.spawn().map_err(|error| format!("unshare does not start: {error}"))?;
        let mut line = String::new();
        let told = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
        if told.is_err() || line != "ready\n" {
            let mut error = String::new();
            let _ = holder.stderr.take().unwrap().read_to_string(&mut error);
            let _ = holder.wait();
            return Err(format!("namespaces cannot be made here: {}", error.trim()));
        }
        Ok(Net { holder, scripts: tempfile::tempdir().unwrap() })
    }

    /// Of a host whose bridges have the usual names.
    pub fn settings(&self) -> Settings {
        Settings {
            root: PathBuf::from(format!("/proc/{}/root", self.holder.id())),
            scripts: self.scripts.path().to_owned(),
            ..Settings::default()
        }
    }

    pub fn bridges(&self) -> Bridges {
        Bridges::new(self.settings())
    }

    /// Runs `ip`; what it prints.
    pub async fn ip(&self, words: &str) -> String {
        self.try_ip(words).await.unwrap_or_else(|error| panic!("ip {words}: {error}"))
    }

    pub async fn try_ip(&self, words: &str) -> Result<String, String> {
        let output = Program::new(find_program("ip").unwrap()).args(words.split(' ')).run().await.unwrap();
        if output.success() { Ok(output.text()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    }

    /// The physical side of a host: `eth0` (a veth pair, up), and the bridge `cloudbr1` on it.
    pub async fn host(&self) {
        for words in [
            "link add eth0 type veth peer name wire0",
            "link set eth0 up",
            "link set wire0 up",
            "link add name cloudbr1 type bridge",
            "link set eth0 master cloudbr1",
            "link set cloudbr1 up",
        ] {
            self.ip(words).await;
        }
    }

    /// Names of all devices, sorted.
    pub fn devices(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.settings().root.join("sys/class/net")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn is_there(&self, device: &str) -> bool {
        self.settings().root.join("sys/class/net").join(device).is_dir()
    }

    /// What the test's network says of a device in a file below /sys.
    pub fn sys(&self, device: &str, file: &str) -> String {
        let path = self.settings().root.join("sys/class/net").join(device).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// What can hold a guest's place: a tap with the name that libvirt would give it.
    pub async fn guest_on(&self, bridge: &str, tap: &str) {
        self.ip(&format!("tuntap add dev {tap} mode tap")).await;
        self.ip(&format!("link set dev {tap} master {bridge}")).await;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs a test on a thread of its own that belongs to a new network.
pub fn in_own_network(test: impl AsyncFnOnce(&Net) + Send) {
    let name = std::thread::current().name().unwrap_or("network").to_owned();
    let work = move || match Net::new() {
        Ok(net) => {
            let link = File::open(format!("/proc/{}/ns/net", net.holder.id())).unwrap();
            move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            // Without further threads: they would be in the network of the machine.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(&net));
        }
        Err(reason) => skip(&reason),
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, work).unwrap();
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Counts and tells a test that cannot run here. Past the test runner, which would swallow it.
pub fn skip(reason: &str) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let lines =
        format!("\nSKIPPED: {test}: {reason}\nSKIPPED: {count} tests in a network of their own so far\n");
    std::io::stderr().write_all(lines.as_bytes()).unwrap();
}
