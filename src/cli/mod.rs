//! Command line: the grammar here, one file per subcommand.
//!
//! `agent --status` is the same as `agent status`: [`rewrite`] turns one into the other before the
//! grammar is applied. Usage errors exit 64; everything else is the subcommand's own code.

pub mod check;
pub mod commands;
pub mod completions;
mod help;
pub mod inventory;
mod keystore;
mod maintenance;
mod metrics;
mod offline;
pub mod orphans;
pub mod out;
mod remote;
mod setup;
pub mod status;
mod upgrade;
pub mod version;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::app::{self, RunOptions};
use crate::service::exit;
use crate::service::logging::{self, LogFormat};
use crate::status::Timestamp;
use crate::status::checks::Group;

/// Where the configuration is when nothing else is said.
pub const DEFAULT_CONFIG: &str = "/etc/cloudstack/agent/agent.properties";

/// Where socket, lock and snapshot are when nothing else is said.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/cloudstack-agent";
/// Of systemd's StateDirectory.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/cloudstack-agent";

/// KVM node agent for Apache CloudStack
#[derive(Debug, Parser)]
#[command(
    name = "agent",
    version,
    long_about = "KVM node agent for Apache CloudStack.\n\nConnects this host to a management server, \
                  registers it, and answers its commands. `agent --status` (the same as `agent status`) \
                  says whether that works, and if not, why and what to do.",
    override_usage = "agent <COMMAND>\n       agent --status [OPTIONS]",
    after_long_help = help::TOP,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    infer_long_args = false
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground
    #[command(after_long_help = help::RUN)]
    Run(RunArgs),
    /// Is this host registered, and if not, why (also: agent --status)
    #[command(after_long_help = help::STATUS)]
    Status(StatusArgs),
    /// Examine this host: one line per fact, each problem with its remedy
    #[command(after_long_help = help::CHECK)]
    Check(CheckArgs),
    /// Show what would be reported to the management server
    #[command(after_long_help = help::INVENTORY)]
    Inventory(InventoryArgs),
    /// List what is left on this host and nobody asks for; remove it by name
    #[command(after_long_help = help::ORPHANS)]
    Orphans(orphans::OrphansArgs),
    /// Print the running agent's metrics, as Prometheus reads them
    #[command(after_long_help = help::METRICS)]
    Metrics(MetricsArgs),
    /// List the management server's commands and how they are handled
    #[command(after_long_help = help::COMMANDS)]
    Commands(JsonArgs),
    /// Show the version
    Version(JsonArgs),
    /// Write a completion script for a shell to stdout
    Completions(CompletionsArgs),
    /// Run one stage of rolling maintenance: what its systemd unit starts
    #[command(hide = true)]
    RollingMaintenance(MaintenanceArgs),
    /// Look for guest bridges of releases before 4.1 (also: cloudstack-agent-upgrade)
    #[command(after_long_help = help::UPGRADE)]
    Upgrade,
    /// Make this machine a host of a zone (also: cloudstack-setup-agent)
    #[command(after_long_help = help::SETUP)]
    Setup(setup::SetupArgs),
    /// Make a key and print the request for its certificate (also: keystore-setup)
    #[command(after_long_help = help::KEYSTORE_SETUP)]
    KeystoreSetup(keystore::KeystoreSetupArgs),
    /// Install a certificate (also: keystore-cert-import)
    #[command(after_long_help = help::KEYSTORE_CERT_IMPORT)]
    KeystoreCertImport(keystore::KeystoreImportArgs),
    /// Log in to a system VM (also: cloudstack-ssh)
    #[command(after_long_help = help::SSH)]
    Ssh(remote::SshArgs),
    /// Ask the QEMU guest agent of a guest (also: cloudstack-guest-tool)
    #[command(after_long_help = help::GUEST)]
    Guest(remote::GuestArgs),
}

/// Names under which the program is called for one purpose, and the subcommand that serves it.
const CALLED_AS: [(&str, &str); 6] = [
    ("cloudstack-agent-upgrade", "upgrade"),
    ("cloudstack-setup-agent", "setup"),
    ("keystore-setup", "keystore-setup"),
    ("keystore-cert-import", "keystore-cert-import"),
    ("cloudstack-ssh", "ssh"),
    ("cloudstack-guest-tool", "guest"),
];

#[derive(Debug, Args)]
struct Paths {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "AGENT_CONFIG", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Directory of the socket, the lock and the snapshot
    #[arg(long, value_name = "DIR", env = "AGENT_RUNTIME_DIR", default_value = DEFAULT_RUNTIME_DIR)]
    runtime_dir: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    paths: Paths,
    /// Directory of what must survive a restart: the journal of unfinished work
    #[arg(long, value_name = "DIR", env = "AGENT_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Where log lines go
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Auto)]
    log_format: LogFormat,
    /// error, warn, info, debug, trace, or target=level pairs separated by commas
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_level)]
    log_level: String,
}

fn log_level(text: &str) -> Result<String, logging::LogError> {
    logging::parse_level(text).map(|_| text.to_owned())
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    paths: Paths,
    /// Print one JSON document (status.schema.json)
    #[arg(long)]
    json: bool,
    /// Show it again every 2 seconds until interrupted
    #[arg(long, conflicts_with = "wait")]
    watch: bool,
    /// Wait until the host is in this state, then show it
    #[arg(long, value_enum, value_name = "STATE")]
    wait: Option<WaitFor>,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
}

/// States that can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WaitFor {
    Registered,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    paths: Paths,
    /// Print a JSON array of checks
    #[arg(long)]
    json: bool,
    /// Only this group of checks
    #[arg(value_enum)]
    group: Option<Group>,
}

#[derive(Debug, Args)]
struct InventoryArgs {
    #[command(flatten)]
    paths: Paths,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show only what differs from the last registration
    #[arg(long)]
    diff: bool,
}

#[derive(Debug, Args)]
struct MetricsArgs {
    #[command(flatten)]
    paths: Paths,
}

#[derive(Debug, Args)]
struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
    /// Name that the program is called by
    #[arg(long, value_name = "NAME", default_value = "agent")]
    name: String,
}

#[derive(Debug, Args)]
struct MaintenanceArgs {
    /// STAGE,SCRIPT,SECONDS,RESULTS,OUTPUT[,PAYLOAD]
    instance: String,
}

/// The whole grammar, for the manual pages.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// Parses `args` (program name first) and does what they say.
pub fn parse_and_run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(rewrite(args.into_iter().collect())) {
        Ok(cli) => dispatch(cli.command),
        Err(error) => {
            // Prints help to stdout and errors to stderr; a closed pipe is no error.
            let _ = error.print();
            ExitCode::from(usage_code(error.kind()))
        }
    }
}

fn usage_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => exit::OK,
        _ => exit::USAGE,
    }
}

fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Run(args) => run(args),
        Command::Status(args) => on_small_runtime(run_status(args)),
        Command::Check(args) => on_small_runtime(async move {
            let facts = offline::config_facts(&args.paths.config, &args.paths.runtime_dir);
            let checks = crate::status::checks::run(&facts, args.group, Timestamp::now()).await;
            check::show(&checks, args.json)
        }),
        Command::Inventory(args) => {
            let report = offline::inventory(&args.paths.config, &args.paths.runtime_dir);
            ExitCode::from(inventory::show(report, args.json, args.diff))
        }
        Command::Orphans(args) => on_small_runtime(orphans::run(args)),
        Command::Metrics(args) => on_small_runtime(metrics::show(args.paths.runtime_dir)),
        Command::Commands(args) => ExitCode::from(commands::show(offline::command_rows(), args.json)),
        Command::Version(args) => ExitCode::from(version::show(args.json)),
        Command::Completions(args) => {
            ExitCode::from(completions::show(args.shell, Cli::command(), &args.name))
        }
        Command::RollingMaintenance(args) => on_small_runtime(maintenance::run(args.instance)),
        Command::Upgrade => ExitCode::from(upgrade::run()),
        Command::Setup(args) => on_small_runtime(setup::run(args)),
        Command::KeystoreSetup(args) => on_small_runtime(keystore::run_setup(args)),
        Command::KeystoreCertImport(args) => on_small_runtime(keystore::run_import(args)),
        Command::Ssh(args) => ExitCode::from(remote::ssh(args)),
        Command::Guest(args) => on_small_runtime(remote::ask_guest(args)),
    }
}

fn run(args: RunArgs) -> ExitCode {
    match logging::init(args.log_format, &args.log_level) {
        Ok(log) => app::run(RunOptions {
            config: args.paths.config,
            runtime_dir: args.paths.runtime_dir,
            state_dir: args.state_dir,
            log,
            log_level: args.log_level,
        }),
        Err(error) => {
            out::complain(&crate::errors::chain(&error));
            ExitCode::from(exit::USAGE)
        }
    }
}

async fn run_status(args: StatusArgs) -> u8 {
    let request = status::Request {
        runtime_dir: args.paths.runtime_dir.clone(),
        format: if args.json { status::Format::Json } else { status::Format::Text },
        mode: match (args.watch, args.wait) {
            (true, _) => status::Mode::Watch,
            (false, Some(WaitFor::Registered)) => {
                status::Mode::WaitRegistered(Duration::from_secs(args.timeout))
            }
            (false, None) => status::Mode::Once,
        },
    };
    let Paths { config, runtime_dir } = args.paths;
    let facts = || offline::config_facts(&config, &runtime_dir);
    status::show(&request, &facts, &offline::unit_state).await
}

/// One thread is plenty, and threads that hang in a system call are left behind at the end.
fn on_small_runtime(task: impl Future<Output = u8>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::complain(&format!("cannot start: {error}"));
            return ExitCode::from(exit::FAILURE);
        }
    };
    let code = runtime.block_on(task);
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Turns `agent [options] --status [options]` into `agent status [options] [options]`. Arguments
/// that begin with a subcommand stay as they are. Called by the name of another program, that is the
/// subcommand.
fn rewrite(args: Vec<OsString>) -> Vec<OsString> {
    let called = args.first().map(PathBuf::from).unwrap_or_default();
    let other = CALLED_AS.iter().find(|(name, _)| called.file_name() == Some(OsStr::new(name)));
    if let Some((_, subcommand)) = other {
        let mut rewritten = args;
        rewritten.insert(1, (*subcommand).into());
        return rewritten;
    }
    let is_option = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
    let flag = args.iter().position(|arg| arg == "--status");
    match (args.get(1), flag) {
        (Some(first), Some(flag)) if is_option(first) => {
            let mut rewritten = args;
            rewritten.remove(flag);
            rewritten.insert(1, "status".into());
            rewritten
        }
        _ => args,
    }
}

#[cfg(test)]
mod tests;
