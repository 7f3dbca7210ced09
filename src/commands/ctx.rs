//! What a handler may use: the host's services, the connection it was asked on, its deadline.

use crate::config::{Config, ConfigStore, FileState};
use crate::host::{capabilities::Capabilities, samples::Samples};
use crate::hypervisor::Hypervisor;
use crate::journal::Journal;
use crate::network::Bridges;
use crate::orphans::touched::Touched;
use crate::storage::Storage;
use crate::storage::download::Downloads;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

use super::fault::Fault;

/// Services that live as long as the process. Handles only: each service owns its own state.
#[derive(Debug, Clone)]
pub struct Services {
    pub config: ConfigStore,
    pub hypervisor: Hypervisor,
    /// Work in steps goes through it.
    pub journal: Journal,
    /// Names that requests were about; handlers add those that they make up.
    pub touched: Touched,
    pub samples: Samples,
    pub capabilities: Capabilities,
    pub bridges: Bridges,
    /// Templates straight from where users keep them.
    pub downloads: Downloads,
    /// What this host told the server about itself last; `None` before the first registration.
    pub identity: watch::Receiver<Option<Identity>>,
    /// Where the ssh key pair for system VMs lives; `/root/.ssh` on a real host.
    pub ssh_dir: std::path::PathBuf,
    pub storage: Storage,
}

/// Facts of the last inventory that handlers answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub hostname: String,
    pub private_ip: Option<String>,
    pub arch: String,
    /// What the server counts with: MHz of all cores for guests if control groups are of version 2, else 0.
    pub cpu_capacity_mhz: u64,
}

/// Handed to each handler.
#[derive(Debug, Clone)]
pub struct Ctx {
    pub services: Arc<Services>,
    pub session: SessionLink,
    /// Log correlation id of the API call, "" if the server sent none.
    pub logid: String,
    /// How long this command may take: its own `wait`, else the default.
    pub deadline: Duration,
}

impl Ctx {
    /// The configuration as it is on disk now.
    pub fn config(&self) -> Result<Arc<Config>, Fault> {
        match &*self.services.config.current() {
            FileState::Loaded(config) => Ok(config.clone()),
            FileState::Missing { path } => Err(Fault::new(format!(
                "{} does not exist: restore it or run the set-up of this host again",
                path.display()
            ))),
            FileState::Invalid { error } => Err(Fault::from_error(&**error)),
        }
    }

    /// How long to wait for something, at most `wished`: what a command says itself when that does not
    /// happen is to reach the server before the command's time is up.
    pub fn patience(&self, wished: Duration) -> Duration {
        wished.min(self.deadline / 4 * 3)
    }

    /// Address that the private network device had at the last registration.
    pub fn private_ip(&self) -> Result<String, Fault> {
        self.services.identity.borrow().as_ref().and_then(|identity| identity.private_ip.clone()).ok_or_else(|| {
            Fault::new("The private network device of this host has no IPv4 address: check private.network.device")
        })
    }
}

/// A management server list as it arrives in ReadyCommand, SetupMSListCommand and
/// MigrateAgentConnectionCommand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerList {
    pub hosts: Vec<String>,
    pub algorithm: String,
    /// How often to check whether the preferred server is back; zero switches the check off.
    pub check_interval: Duration,
    /// Servers to pass over (4.21).
    pub avoid: Vec<String>,
}

/// Repeated work that lasts as long as the connection that asked for it.
pub type CronJob = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What a handler asks of its connection.
pub enum SessionRequest {
    /// A new list of servers; `check_now` asks for one immediate check of the preferred one.
    Servers { list: ServerList, check_now: bool },
    /// Move to another server of the list (4.21).
    Migrate,
    /// New key and certificate are on disk: reconnect with them once idle.
    CertificateRenewed,
    /// Run `job` every `interval`, until the connection ends.
    Every { name: &'static str, interval: Duration, job: CronJob },
}

impl std::fmt::Debug for SessionRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SessionRequest::Servers { list, check_now } => {
                f.debug_struct("Servers").field("list", list).field("check_now", check_now).finish()
            }
            SessionRequest::Migrate => f.write_str("Migrate"),
            SessionRequest::CertificateRenewed => f.write_str("CertificateRenewed"),
            SessionRequest::Every { name, interval, .. } => {
                f.debug_struct("Every").field("name", name).field("interval", interval).finish()
            }
        }
    }
}

/// The connection a command came on. Requests to a connection that is gone are dropped: what
/// belongs to a session ends with it.
#[derive(Debug, Clone)]
pub struct SessionLink(mpsc::Sender<SessionRequest>);

impl SessionLink {
    pub fn new(requests: mpsc::Sender<SessionRequest>) -> SessionLink {
        SessionLink(requests)
    }

    pub async fn ask(&self, request: SessionRequest) {
        if let Err(gone) = self.0.send(request).await {
            tracing::debug!(request = ?gone.0, "Connection is gone, its request is dropped");
        }
    }
}
