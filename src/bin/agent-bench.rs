//! `agent-bench`: measures the agent against its targets, and against the Java agent's figures.
//!
//! The management server is the simulator, in this process; the agent is the release binary beside
//! this one, as a child process, so that its memory and threads are its own. The two parts that the
//! binary cannot show (a thousand reconnects, a thousand agents) run the agent's own session code
//! in another child: this program again, see [`fleet`]. All times are on one monotonic clock.

#[path = "agent-bench/child.rs"]
mod child;
#[path = "agent-bench/crowd.rs"]
mod crowd;
#[path = "agent-bench/figures.rs"]
mod figures;
#[path = "agent-bench/fleet.rs"]
mod fleet;
#[path = "agent-bench/guests.rs"]
mod guests;
#[path = "agent-bench/herd.rs"]
mod herd;
#[path = "agent-bench/load.rs"]
mod load;
#[path = "agent-bench/machine.rs"]
mod machine;
#[path = "agent-bench/outage.rs"]
mod outage;
#[path = "agent-bench/place.rs"]
mod place;
#[path = "agent-bench/reconnects.rs"]
mod reconnects;
#[path = "agent-bench/rest.rs"]
mod rest;
#[path = "agent-bench/startup.rs"]
mod startup;
#[path = "agent-bench/stream.rs"]
mod stream;

use clap::{Parser, ValueEnum};
use figures::{Figure, Form};
use place::Place;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Any failure, with its chain of causes.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
/// The figures of one part.
pub type Figures = Result<Vec<Figure>, Failure>;

/// Measures the agent against a simulated management server.
#[derive(Debug, Parser)]
#[command(name = "agent-bench", version)]
struct Options {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    parts: Vec<Part>,
    /// Print a Markdown table instead of plain text.
    #[arg(long)]
    markdown: bool,
    /// Runs of part `startup`.
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// Lost sessions of part `reconnects`, after as many to warm up.
    #[arg(long, default_value_t = 1000)]
    reconnects: usize,
    /// Agents of part `herd`.
    #[arg(long, default_value_t = 1000)]
    herd: usize,
    /// The agent to measure; by default the one beside this program.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Run every agent.properties of this directory in this process: the child of some parts.
    #[arg(long, hide = true, conflicts_with = "parts")]
    fleet: Option<PathBuf>,
    /// Factor of every reconnect delay of --fleet.
    #[arg(long, hide = true, default_value_t = 1.0)]
    scale: f64,
}

/// A group of figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Process start to registration and to Ready
    Startup,
    /// Round trip of trivial commands
    Roundtrip,
    /// Memory and threads after 10 000 commands
    Memory,
    /// Processor time of a minute without work
    Idle,
    /// Server up again until the host is Ready
    Return,
    /// Memory over 1 000 reconnects
    Reconnects,
    /// A thousand agents lose one server
    Herd,
    /// Commands of a guest's life on a real libvirt with QEMU
    Guests,
    /// Many guests, on libvirt's test driver
    Crowd,
    /// Memory while a template is downloaded
    Stream,
    /// Size of the binary
    Size,
    /// All of them; about five minutes
    All,
}

impl Part {
    /// In the order of a whole run. `Idle` and `Return` mostly wait, so they wait together there.
    const EACH: [Part; 11] = [
        Part::Startup,
        Part::Roundtrip,
        Part::Memory,
        Part::Idle,
        Part::Return,
        Part::Reconnects,
        Part::Herd,
        Part::Guests,
        Part::Crowd,
        Part::Stream,
        Part::Size,
    ];

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.fleet {
        Some(dir) => fleet::runtime().and_then(|runtime| runtime.block_on(fleet::run(dir, options.scale))),
        None => tokio::runtime::Runtime::new()
            .map_err(Failure::from)
            .and_then(|runtime| runtime.block_on(bench(&options))),
    };
    outcome.unwrap_or_else(|error| {
        tell(&format!("agent-bench: {}", chain(&*error)));
        ExitCode::FAILURE
    })
}

async fn bench(options: &Options) -> Result<ExitCode, Failure> {
    let place = Place::prepare(options.agent.clone())?;
    let form = if options.markdown { Form::Markdown } else { Form::Text };
    let wanted = |part: Part| options.parts.iter().any(|p| *p == part || *p == Part::All);
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    let mut keep = |part: Part, started: Instant, outcome: Figures| match outcome {
        Ok(found) => {
            tell(&format!("{} took {:.0} s", part.name(), started.elapsed().as_secs_f64()));
            figures.extend(found);
        }
        Err(error) => failed.push(format!("{}: {}", part.name(), chain(&*error))),
    };
    let started = Instant::now();
    let patient = wanted(Part::Idle) && wanted(Part::Return);
    for part in Part::EACH.into_iter().filter(|part| wanted(*part)) {
        let started = Instant::now();
        match part {
            Part::Idle if patient => {
                let (idle, outage) = tokio::join!(rest::idle(&place), outage::run(&place));
                keep(Part::Idle, started, idle);
                keep(Part::Return, started, outage);
            }
            Part::Return if patient => {}
            other => keep(other, started, measure(other, &place, options).await),
        }
    }
    let conditions = machine::conditions(started.elapsed());
    let mut out = std::io::stdout().lock();
    out.write_all(figures::table(&figures, &conditions, form).as_bytes())?;
    out.flush()?;
    for failure in &failed {
        tell(&format!("not measured: {failure}"));
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(part: Part, place: &Place, options: &Options) -> Figures {
    match part {
        Part::Startup => startup::run(place, options.runs.max(1)).await,
        Part::Roundtrip => load::round_trips(place).await,
        Part::Memory => load::memory(place).await,
        Part::Idle => rest::idle(place).await,
        Part::Return => outage::run(place).await,
        Part::Reconnects => reconnects::run(place, options.reconnects.max(200)).await,
        Part::Herd => herd::run(place, options.herd.max(1)).await,
        Part::Guests => guests::run(place, options.runs.max(1)).await,
        Part::Crowd => crowd::run(place, options.runs.max(1)).await,
        Part::Stream => stream::run(place).await,
        Part::Size => rest::size(place),
        Part::All => Ok(Vec::new()),
    }
}

/// Progress and trouble go to standard error, the table alone to standard output.
fn tell(line: &str) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
