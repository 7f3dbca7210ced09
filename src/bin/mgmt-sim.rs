//! `mgmt-sim`: the simulated management server as a program, to run an agent against by hand.
//!
//! One line per event on standard output, a summary at the end (SIGINT or SIGTERM).

use clap::{Parser, ValueEnum};
use cloudstack_agent::sim::{
    ClientCertificate, KeyKind, Knobs, Pki, Profile, Recorded, Rule, Scenario, Script, SimConfig, SimServer,
    SshKeys, Validity,
};
use cloudstack_agent::wire::Element;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A simulated CloudStack management server.
#[derive(Debug, Parser)]
#[command(name = "mgmt-sim", version, after_help = scenario_help())]
struct Options {
    /// Address and port to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8250")]
    listen: SocketAddr,
    /// Scenarios in the order of connections: NAME[:CONNECTIONS][,...]. The last one goes on.
    #[arg(long, default_value = "normal")]
    scenario: String,
    /// Seed of everything that is random; one is chosen and printed if none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Ping interval told to agents, in seconds.
    #[arg(long, default_value_t = 60)]
    ping_interval: u64,
    /// Server line to imitate.
    #[arg(long, value_enum, default_value = "4.19.1")]
    profile: Line,
    /// Kind of the CA's key.
    #[arg(long, value_enum, default_value = "ecdsa")]
    key: Key,
    /// Directory to write the CA to (ca.crt, ca.key).
    #[arg(long)]
    pki_dir: Option<PathBuf>,
    /// Directory to write an agent's cloud.key, cloud.crt and cloud.ca.crt to.
    #[arg(long)]
    provision_dir: Option<PathBuf>,
    /// Demand a valid client certificate.
    #[arg(long)]
    need_certificate: bool,
    /// Leave ModifySshKeysCommand out of the registration.
    #[arg(long)]
    no_ssh_keys: bool,
    /// Bridge or interface that CheckNetworkCommand asks for.
    #[arg(long, default_value = "cloudbr0")]
    traffic_label: String,
    /// Ask for host and storage statistics every so many seconds.
    #[arg(long)]
    stats: Option<u64>,
    /// Outage of scenario restart, in seconds.
    #[arg(long, default_value_t = 30)]
    down: u64,
    /// Number of commands of scenario storm.
    #[arg(long, default_value_t = 10_000)]
    storm: usize,
    /// Lateness of scenario slow, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    delay_ms: u64,
    /// File with one batch per line, an element or an array of elements, to send after Ready.
    #[arg(long)]
    script_commands: Option<PathBuf>,
    /// Form of the event lines.
    #[arg(long, value_enum, default_value = "text")]
    log: Log,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Line {
    #[value(name = "4.19.1")]
    V4_19_1,
    #[value(name = "4.22")]
    V4_22,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Key {
    Ecdsa,
    Rsa,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    Text,
    Json,
}

fn scenario_help() -> String {
    let names: Vec<_> = Scenario::all().map(Scenario::name).collect();
    format!("Scenarios: {}", names.join(", "))
}

/// Any failure, with its chain of causes.
type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = cloudstack_agent::errors::chain(&*error);
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(std::io::stderr(), "mgmt-sim: {text}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let config = config(&options, seed)?;
    let server = SimServer::start(config).await?;
    say(&format!("seed {seed}, scenario {}", options.scenario))?;
    let mut events = server.events();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            recorded = events.next() => say(&line(&recorded, options.log))?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    server.stop().await;
    summary(&server)
}

fn config(options: &Options, seed: u64) -> Result<SimConfig, Failure> {
    let kind = match options.key {
        Key::Ecdsa => KeyKind::Ecdsa,
        Key::Rsa => KeyKind::Rsa,
    };
    let pki = Arc::new(Pki::new(kind)?);
    if let Some(dir) = &options.pki_dir {
        pki.write(dir)?;
    }
    if let Some(dir) = &options.provision_dir {
        let agent = pki.issue("agent", &[options.listen.ip()], Validity::Days(365))?;
        pki.provision(dir, &agent)?;
    }
    let after_ready = options.script_commands.as_deref().map(batches).transpose()?.unwrap_or_default();
    Ok(SimConfig {
        listen: options.listen,
        script: Script::parse(&options.scenario)?,
        seed,
        ping_interval: Duration::from_secs(options.ping_interval.max(1)),
        profile: match options.profile {
            Line::V4_19_1 => Profile::V4_19_1,
            Line::V4_22 => Profile::V4_22,
        },
        client_certificate: match options.need_certificate {
            true => ClientCertificate::Need,
            false => ClientCertificate::Want,
        },
        ssh_keys: if options.no_ssh_keys { SshKeys::Leave } else { SshKeys::Send },
        stats: options.stats.map(|seconds| Duration::from_secs(seconds.max(1))),
        after_ready,
        servers: vec![options.listen.ip().to_string()],
        knobs: Knobs {
            down: Duration::from_secs(options.down),
            storm: options.storm.max(1),
            delay: Duration::from_millis(options.delay_ms),
            traffic_label: options.traffic_label.clone(),
            ..Knobs::default()
        },
        pki: Some(pki),
        ..SimConfig::default()
    })
}

/// Reads a file of batches: each line an element or an array of elements.
fn batches(path: &Path) -> Result<Vec<Vec<Element>>, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    let mut batches = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let many = serde_json::from_str::<Vec<Element>>(line);
        let batch = many.or_else(|_| serde_json::from_str::<Element>(line).map(|one| vec![one]));
        batches.push(batch.map_err(|e| {
            format!("{} line {} is no element {{\"class\": {{..}}}}: {e}", path.display(), n + 1)
        })?);
    }
    Ok(batches)
}

fn line(recorded: &Recorded, log: Log) -> String {
    match log {
        Log::Text => recorded.to_string(),
        Log::Json => serde_json::json!({
            "at": recorded.at.as_secs_f64(),
            "connection": recorded.connection,
            "event": recorded.event.name(),
            "text": recorded.event.to_string(),
        })
        .to_string(),
    }
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn summary(server: &SimServer) -> Result<(), Failure> {
    for host in server.hosts() {
        say(&format!(
            "host {} {}: {:?}, {} registrations, {} pings",
            host.id, host.guid, host.status, host.registrations, host.pings
        ))?;
    }
    let mut counts: BTreeMap<Rule, usize> = BTreeMap::new();
    for violation in server.violations() {
        *counts.entry(violation.rule).or_default() += 1;
    }
    if counts.is_empty() {
        say("no rule of the protocol was broken")?;
    }
    for (rule, count) in counts {
        say(&format!("{rule:?}: broken {count} times"))?;
    }
    Ok(())
}
