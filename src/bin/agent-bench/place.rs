//! The scratch directory: configuration and runtime directories of the agents under test.

use crate::Failure;
use crate::child::{Child, spawn};
use crate::machine;
use cloudstack_agent::sim::{Knobs, Pki, SimConfig, SimServer, SshKeys, Validity};
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The pool every agent announces, so that agents of one process share it.
pub const POOL: &str = "6f0a3f4e-51c7-4a3b-9a86-0d2f7c1b8e55";
/// A hypervisor within the process, which every libvirt has.
pub const TEST_DRIVER: &str = "test:///default";

/// A server that registers hosts on any machine and changes nothing outside the scratch directory.
pub fn server(ping_interval: Duration) -> SimConfig {
    SimConfig {
        ping_interval,
        // Their handler writes below /root.
        ssh_keys: SshKeys::Leave,
        // Every machine has it, while bridges take root to make.
        knobs: Knobs { traffic_label: "lo".to_owned(), attach_after: Duration::ZERO, ..Knobs::default() },
        ..SimConfig::default()
    }
}

/// Where everything happens; removed at the end.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    pub agent: PathBuf,
    serial: AtomicU32,
}

impl Place {
    /// `agent` is the binary to measure, by default the one beside this program.
    pub fn prepare(agent: Option<PathBuf>) -> Result<Place, Failure> {
        machine::raise_file_limit();
        let agent = match agent {
            Some(agent) => agent,
            None => std::env::current_exe()?.with_file_name("agent"),
        };
        if !agent.is_file() {
            return Err(format!(
                "{} does not exist: build it first (cargo build --release)",
                agent.display()
            )
            .into());
        }
        let dir = std::env::temp_dir().join(format!("agent-bench-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("images"))?;
        Ok(Place { dir, agent, serial: AtomicU32::new(0) })
    }

    /// Where the pool of the agents is.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// A new directory.
    pub fn fresh(&self, name: &str) -> Result<PathBuf, Failure> {
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("{name}-{number}"));
        std::fs::create_dir_all(dir.join("run"))?;
        Ok(dir)
    }

    /// Key, certificate and CA of a provisioned host.
    pub fn provision(&self, dir: &Path, pki: &Pki) -> Result<(), Failure> {
        let identity = pki.issue("agent", &[IpAddr::V4(Ipv4Addr::LOCALHOST)], Validity::Days(365))?;
        Ok(pki.provision(dir, &identity)?)
    }

    /// Writes one agent.properties; gives the guid as it is registered.
    pub fn configure(&self, file: &Path, server: SocketAddr, uri: &str) -> Result<String, Failure> {
        let guid = uuid::Uuid::new_v4();
        let images = self.images();
        let text = format!(
            "guid={guid}\nzone=1\npod=1\ncluster=1\nhost={}\nport={}\nhypervisor.uri={uri}\n\
             private.network.device=lo\npublic.network.device=lo\nguest.network.device=lo\n\
             local.storage.path={}\nlocal.storage.uuid={POOL}\n",
            server.ip(),
            server.port(),
            images.display(),
        );
        std::fs::write(file, text)?;
        Ok(format!("{guid}-LibvirtComputingResource"))
    }

    /// A new host for `server`, provisioned and configured but not running.
    pub fn host(&self, server: &SimServer, uri: &str) -> Result<Host, Failure> {
        let dir = self.fresh("host")?;
        self.provision(&dir, server.pki())?;
        let guid = self.configure(&dir.join("agent.properties"), server.address(), uri)?;
        Ok(Host { dir, guid })
    }

    /// Starts the agent of a host.
    pub fn start(&self, host: &Host) -> Result<Child, Failure> {
        let config = host.dir.join("agent.properties");
        let run = host.dir.join("run");
        let state = host.dir.join("state");
        let arguments: [&OsStr; 9] = [
            "run".as_ref(),
            "--config".as_ref(),
            config.as_ref(),
            "--runtime-dir".as_ref(),
            run.as_ref(),
            "--state-dir".as_ref(),
            state.as_ref(),
            "--log-format".as_ref(),
            "text".as_ref(),
        ];
        spawn(&self.agent, &arguments, &host.dir.join("agent.log"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left is in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A configured host.
#[derive(Debug)]
pub struct Host {
    pub dir: PathBuf,
    /// As registered, with its resource suffix.
    pub guid: String,
}
