//! Wiring: builds every task of the agent and connects them. Nothing is global; reading
//! [`serve`] from top to bottom tells what the process consists of.

pub mod feeds;
mod local_pools;

use crate::commands::Services;
use crate::config::{Config, ConfigStore, FileState};
use crate::dispatch::Dispatcher;
use crate::errors::chain;
use crate::host::inventory::ConstantFacts;
use crate::host::samples::Samples;
use crate::hypervisor::Hypervisor;
use crate::journal::Journal;
use crate::metrics::{Owners, Source, endpoint};
use crate::network::{self, Bridges};
use crate::orphans::{self, touched::Touched};
use crate::recovery::Recovery;
use crate::service::exit;
use crate::service::logging::LogHandle;
use crate::service::memory;
use crate::service::notify::{self, Notifier};
use crate::service::pulse::{self, Pulse};
use crate::service::signals::{Signal, Signals};
use crate::session::driver::Environment;
use crate::session::facts::{self, Facts};
use crate::session::machine::Timing;
use crate::session::report::Reporter;
use crate::session::supervisor::Supervisor;
use crate::session::survivors::Survivors;
use crate::status::board::Board;
use crate::status::snapshot::{SessionSection, SessionState};
use crate::status::socket::{Peers, StatusSocket};
use crate::status::{file, render};
use crate::storage::Storage;
use crate::storage::download::Downloads;
use crate::tls::download::DIRECTORY as DOWNLOAD_CERTIFICATES;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Two are enough to keep pings going while one parses a large message; work waits elsewhere.
const WORKER_THREADS: usize = 2;
/// For name resolution and files.
const BLOCKING_THREADS: usize = 3;
/// From the signal to the end of the process, whatever hangs.
const STOP_LIMIT: Duration = Duration::from_secs(9);

/// What was sent at the last registration, in the runtime directory.
pub const LAST_SENT: &str = "last-startup.json";

/// What `agent run` was asked to do.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The agent.properties to read.
    pub config: PathBuf,
    /// Directory for socket, lock and snapshot.
    pub runtime_dir: PathBuf,
    /// Directory of what must survive a restart.
    pub state_dir: PathBuf,
    /// The log, already set up.
    pub log: LogHandle,
    /// A level or `target=level,...`; applied again at a reload.
    pub log_level: String,
}

/// Runs the agent until it is told to end.
pub fn run(options: RunOptions) -> ExitCode {
    memory::one_arena();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("agent")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve(&options));
            // A libvirt call or a file system that hangs must not keep the process.
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(error) => {
            tracing::error!(%error, "The runtime cannot be started");
            ExitCode::from(exit::FATAL)
        }
    }
}

/// Everything, in order of start.
async fn serve(options: &RunOptions) -> u8 {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %options.config.display(), "Agent starts");
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "Signal handlers cannot be installed");
            return exit::FATAL;
        }
    };
    let (stop, stopping) = watch::channel(false);
    let board = Board::new();
    let reporter = Reporter::new(board.clone());
    let socket = match StatusSocket::bind(&options.runtime_dir, Peers::root_and_self()).await {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            return error.exit_code();
        }
    };
    // Status outlives everything else: it is stopped last.
    let (end_status, status_ended) = watch::channel(false);
    let status = tokio::spawn(socket.serve(board.clone(), raised(status_ended.clone())));
    let snapshot =
        tokio::spawn(file::keep_writing(board.clone(), options.runtime_dir.clone(), raised(status_ended)));
    let config = ConfigStore::spawn(options.config.clone());
    tokio::spawn(feeds::files(board.clone(), config.clone()));
    let (owners, known_owners) = watch::channel(None);
    let source = Source { board: board.clone(), owners: known_owners };
    let metrics = tokio::spawn(endpoint::serve(options.runtime_dir.clone(), source, config.clone()));
    let notifier = Notifier::default();
    notifier.ready();
    let mut agent =
        tokio::spawn(agent(options.clone(), board.clone(), reporter, config.clone(), stopping, owners));
    tokio::spawn(tell_systemd(board.clone()));

    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            ended = &mut agent => {
                // Only a bug ends it before it is told to. A process without a session would look
                // alive and do nothing: the service manager starts a fresh one.
                tracing::error!(panicked = ended.is_err(), "The session ended by itself; the agent ends too");
                return exit::FATAL;
            }
        };
        match signal {
            Signal::Terminate | Signal::Interrupt => break,
            Signal::Reload => reload(&config, options, &notifier).await,
            Signal::Dump => {
                let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
                tracing::info!(tasks, "State on request: {}", render::one_line(&board.snapshot()));
            }
        }
    }
    tracing::info!("Stopping");
    notifier.stopping();
    stop.send_replace(true);
    let orderly = tokio::time::timeout(STOP_LIMIT, agent).await.is_ok();
    // Before the status, with which the lock of the runtime directory goes.
    metrics.abort();
    let _ = metrics.await;
    end_status.send_replace(true);
    let _ = tokio::time::timeout(Duration::from_millis(500), async { tokio::join!(status, snapshot) }).await;
    if !orderly {
        tracing::warn!("Something did not end in time and is left behind");
    }
    tracing::info!("Agent ends");
    exit::OK
}

/// The parts that need a configuration.
async fn agent(
    options: RunOptions,
    board: Board,
    reporter: Reporter,
    config: ConfigStore,
    stopping: watch::Receiver<bool>,
    owners: watch::Sender<Option<Owners>>,
) {
    let mut reporter = reporter;
    let first = tokio::select! {
        first = first_config(&config, &mut reporter) => first,
        () = raised(stopping.clone()) => return,
    };
    let hypervisor = Hypervisor::spawn(&first.hypervisor_uri);
    let constants = ConstantFacts::collect(&facts::settings(&first));
    let storage = Storage::spawn(config.clone(), hypervisor.clone());
    let bridges = Bridges::new(bridge_settings(&first));
    let recovery =
        Recovery { hypervisor: hypervisor.clone(), storage: storage.clone(), bridges: bridges.clone() };
    let journal = Journal::open(&options.state_dir.join("journal"), Box::new(recovery));
    tokio::spawn(recover(journal.clone(), hypervisor.clone()));
    let (identity, known_identity) = watch::channel(None);
    let services = Arc::new(Services {
        config: config.clone(),
        hypervisor: hypervisor.clone(),
        journal,
        touched: Touched::spawn(&options.runtime_dir),
        samples: Samples::spawn(),
        capabilities: constants.capabilities.clone(),
        bridges,
        downloads: Downloads::new(first.dir().join(DOWNLOAD_CERTIFICATES)),
        identity: known_identity,
        ssh_dir: "/root/.ssh".into(),
        storage,
    });
    tokio::spawn(local_pools::follow(services.clone()));
    let dispatch_pulse = Pulse::default();
    let dispatcher = Dispatcher::spawn(services.clone(), dispatch_pulse.clone());
    owners.send_replace(Some(Owners {
        dispatcher: dispatcher.clone(),
        hypervisor: hypervisor.clone(),
        journal: services.journal.clone(),
    }));
    tokio::spawn(feeds::libvirt(board.clone(), hypervisor.clone()));
    tokio::spawn(feeds::commands(board.clone(), dispatcher.clone()));
    tokio::spawn(feeds::orphans(board.clone(), orphan_tools(&first, &options, &services)));
    let env = Environment {
        services,
        dispatcher,
        timing: Timing::default(),
        origin: tokio::time::Instant::now(),
        stop: stopping,
        last_sent: options.runtime_dir.join(LAST_SENT),
    };
    let facts = Arc::new(Facts { config, hypervisor, constants, board, identity });
    let supervisor = Supervisor { env, survivors: Survivors::default(), reporter, facts };
    let session_pulse = Pulse::default();
    if let Some(every) = notify::watchdog_interval() {
        let pulses = vec![session_pulse.clone(), dispatch_pulse];
        tokio::spawn(pulse::feed(pulses, every, || Notifier::default().watchdog()));
    }
    session_pulse.watch(supervisor.run()).await;
}

/// Deals with the unfinished work of an earlier run as soon as there is a hypervisor to do it on, and
/// after each outage of it with what failed meanwhile.
async fn recover(journal: Journal, hypervisor: Hypervisor) {
    hypervisor.connected().await;
    journal.recover().await;
    let mut status = hypervisor.status();
    while status.wait_for(|status| !status.connection.is_connected()).await.is_ok() {
        hypervisor.connected().await;
        journal.retry().await;
    }
}

fn orphan_tools(config: &Config, options: &RunOptions, services: &Services) -> orphans::Tools {
    orphans::Tools {
        places: orphans::Places::of(config, &options.runtime_dir, &options.state_dir),
        hypervisor: services.hypervisor.clone(),
        disks: services.storage.disks.clone(),
        images: services.storage.images.clone(),
        bridges: services.bridges.clone(),
    }
}

/// Bridges keep their names until a restart.
pub(crate) fn bridge_settings(config: &Config) -> network::Settings {
    let usual = network::Settings::default();
    network::Settings {
        public_bridge: config.public_network_device.clone(),
        guest_bridge: config.guest_network_device.clone(),
        private_bridge: config.private_network_device.clone(),
        control_bridge: config.private_bridge.clone(),
        control_cidr: config.control_cidr.clone(),
        bridge_type: config.text("network.bridge.type").unwrap_or(&usual.bridge_type).to_owned(),
        ..usual
    }
}

/// The first configuration that can be read at all: it names the hypervisor.
async fn first_config(config: &ConfigStore, reporter: &mut Reporter) -> Arc<Config> {
    let mut file = config.subscribe();
    loop {
        let obstacle = match &**file.borrow_and_update() {
            FileState::Loaded(config) => return config.clone(),
            FileState::Missing { path } => {
                format!("{} to appear: this host was not set up yet", path.display())
            }
            FileState::Invalid { error } => format!("a correction: {}", chain(&**error)),
        };
        tracing::warn!("Waiting for {obstacle}");
        reporter.waiting(&obstacle);
        if file.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn raised(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|raised| *raised).await;
}

/// One line for `systemctl status`, after each change.
async fn tell_systemd(board: Board) {
    let mut session = board.watch_session();
    let mut notifier = Notifier::default();
    loop {
        // Before the snapshot: a change between the two is told twice, not missed.
        let told = worth_telling(&session.borrow_and_update());
        notifier.status(&render::one_line(&board.snapshot()));
        while told == worth_telling(&session.borrow()) {
            if session.changed().await.is_err() {
                return;
            }
            session.mark_unchanged();
        }
    }
}

/// What of a session is news. Of one look: two at the same time wait for each other if somebody
/// publishes in between.
fn worth_telling(session: &SessionSection) -> (SessionState, Option<String>) {
    (session.state, session.waiting_for.clone())
}

async fn reload(config: &ConfigStore, options: &RunOptions, notifier: &Notifier) {
    notifier.reloading();
    if let Err(error) = options.log.set_level(&options.log_level) {
        tracing::warn!("{}", chain(&error));
    }
    let outcome = config.reload().await;
    if let Some(error) = &outcome.error {
        tracing::error!("Configuration is not reloaded, the running one stays: {}", chain(&**error));
    } else if outcome.changed.is_empty() {
        tracing::info!("Configuration reloaded, nothing changed");
    } else {
        let changed = outcome.changed.join(", ");
        tracing::info!(%changed, "Configuration reloaded; values that belong to a registration apply from the next one");
    }
    if !outcome.restart_needed.is_empty() {
        let keys = outcome.restart_needed.join(", ");
        tracing::warn!(%keys, "These keys keep their old value until the agent is restarted");
    }
    notifier.ready();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::timestamp::Timestamp;

    /// Only a failure takes as long.
    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn telling_systemd_never_stops_who_publishes() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let board = Board::new();
        runtime.spawn(tell_systemd(board.clone()));
        let (done, told) = std::sync::mpsc::channel();
        let session = SessionSection::new(SessionState::Idle, Timestamp::now());
        // More threads than processors: the reader is interrupted wherever it is.
        let publishers: Vec<_> = (0..8)
            .map(|_| {
                let (board, session) = (board.clone(), session.clone());
                std::thread::spawn(move || {
                    for number in 0..20_000 {
                        board.session(SessionSection { connects: Some(number), ..session.clone() });
                    }
                })
            })
            .collect();
        std::thread::spawn(move || {
            let all = publishers.into_iter().all(|publisher| publisher.join().is_ok());
            done.send(all).unwrap();
        });
        let told = told.recv_timeout(LIMIT);
        runtime.shutdown_background();
        assert_eq!(told, Ok(true), "who publishes waits for ever");
    }
}
