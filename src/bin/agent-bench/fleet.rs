//! Many agents in one process: the agent's own session code, once per configuration file.
//!
//! A child of this program runs it, so that the figures of that process are those of the agents
//! alone. Hypervisor connections, machine facts and the status board are shared; sessions,
//! configurations, dispatchers and delays are each agent's own, as in [`cloudstack_agent::app`].

use crate::Failure;
use cloudstack_agent::commands::Services;
use cloudstack_agent::config::ConfigStore;
use cloudstack_agent::dispatch::Dispatcher;
use cloudstack_agent::host::inventory::ConstantFacts;
use cloudstack_agent::host::samples::Samples;
use cloudstack_agent::hypervisor::Hypervisor;
use cloudstack_agent::journal::Journal;
use cloudstack_agent::network::{Bridges, Settings};
use cloudstack_agent::orphans::touched::Touched;
use cloudstack_agent::recovery::Recovery;
use cloudstack_agent::service::logging::{self, LogFormat};
use cloudstack_agent::service::pulse::Pulse;
use cloudstack_agent::session::backoff::Delays;
use cloudstack_agent::session::driver::Environment;
use cloudstack_agent::session::facts::{self, Facts};
use cloudstack_agent::session::machine::Timing;
use cloudstack_agent::session::report::Reporter;
use cloudstack_agent::session::supervisor::Supervisor;
use cloudstack_agent::session::survivors::Survivors;
use cloudstack_agent::status::board::Board;
use cloudstack_agent::storage::Storage;
use cloudstack_agent::storage::download::Downloads;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// Agents per hypervisor connection: its queue of calls is bounded.
const SHARE: usize = 50;
/// Between the starts of two agents.
const STAGGER: Duration = Duration::from_millis(3);

/// As many threads as the agent has: each may bring an arena of the allocator.
pub fn runtime() -> Result<Runtime, Failure> {
    let runtime =
        Builder::new_multi_thread().worker_threads(2).max_blocking_threads(3).enable_all().build()?;
    Ok(runtime)
}

/// What all agents of the process share.
struct Common {
    dir: PathBuf,
    constants: ConstantFacts,
    board: Board,
    stopping: watch::Receiver<bool>,
    scale: f64,
}

/// Runs one agent per `*.properties` file of `dir`, until the process is killed. `scale` is a
/// factor of every delay between sessions.
pub async fn run(dir: &Path, scale: f64) -> Result<ExitCode, Failure> {
    logging::init(LogFormat::Text, "info")?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "properties") {
            files.push(path);
        }
    }
    let first = files.first().ok_or_else(|| format!("{} has no *.properties", dir.display()))?;
    let sample = ConfigStore::spawn(first.clone()).last_good().ok_or("The configuration is not usable")?;
    let (_stop, stopping) = watch::channel(false);
    let common = Common {
        dir: dir.to_owned(),
        constants: ConstantFacts::collect(&facts::settings(&sample)),
        board: Board::new(),
        stopping,
        scale,
    };
    let mut hypervisor = Hypervisor::spawn(&sample.hypervisor_uri);
    for (n, file) in files.into_iter().enumerate() {
        if n % SHARE == SHARE - 1 {
            hypervisor = Hypervisor::spawn(&sample.hypervisor_uri);
        }
        tokio::spawn(agent(&common, n, ConfigStore::spawn(file), hypervisor.clone()).run());
        tokio::time::sleep(STAGGER).await;
    }
    std::future::pending().await
}

/// One agent, wired as the program wires itself.
fn agent(common: &Common, number: usize, config: ConfigStore, hypervisor: Hypervisor) -> Supervisor {
    let (identity, known_identity) = watch::channel(None);
    let storage = Storage::spawn(config.clone(), hypervisor.clone());
    let bridges = Bridges::new(Settings { root: common.dir.clone(), ..Settings::default() });
    let recovery =
        Recovery { hypervisor: hypervisor.clone(), storage: storage.clone(), bridges: bridges.clone() };
    let journal = Journal::open(&common.dir.join(format!("run/journal-{number}")), Box::new(recovery));
    let services = Arc::new(Services {
        config: config.clone(),
        hypervisor: hypervisor.clone(),
        journal,
        touched: Touched::spawn(&common.dir.join("run")),
        samples: Samples::spawn(),
        capabilities: common.constants.capabilities.clone(),
        bridges,
        downloads: Downloads::new("/nonexistent".into()),
        identity: known_identity,
        ssh_dir: common.dir.join("ssh"),
        storage,
    });
    let env = Environment {
        dispatcher: Dispatcher::spawn(services.clone(), Pulse::default()),
        services,
        timing: Timing::default(),
        origin: tokio::time::Instant::now(),
        stop: common.stopping.clone(),
        last_sent: common.dir.join(format!("run/sent-{number}.json")),
    };
    let facts = Facts {
        config,
        hypervisor,
        constants: common.constants.clone(),
        board: common.board.clone(),
        identity,
    };
    Supervisor {
        env,
        survivors: Survivors::with_delays(Delays::scaled(common.scale)),
        reporter: Reporter::new(common.board.clone()),
        facts: Arc::new(facts),
    }
}
