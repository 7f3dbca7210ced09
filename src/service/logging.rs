//! Where log lines go: the journal, a terminal, or JSON lines; the filter can change at run time.
//!
//! Never decides what is logged, and holds no text: redaction happens where values are made.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// Where and in which form lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// journald when stderr is the journal, else text
    #[default]
    Auto,
    /// one line per event on stderr; colours only on a terminal
    Text,
    /// one JSON object per line on stderr
    Json,
    /// native journal entries with fields
    Journald,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("The log level {text:?} is not valid; use error, warn, info, debug, trace or target=level,...")]
    Level { text: String, source: tracing_subscriber::filter::ParseError },
    #[error("Cannot reach the journal at /run/systemd/journal/socket; use --log-format text")]
    Journal { source: io::Error },
    #[error("Logging was already set up in this process; set it up once")]
    Twice { source: tracing_subscriber::util::TryInitError },
    #[error("The log filter is gone; restart the agent")]
    Gone { source: reload::Error },
}

/// Changes the filter of the running process (SIGHUP).
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
}

impl LogHandle {
    /// Replaces the filter: a level or `target=level` pairs separated by commas.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse_level(level)?;
        self.filter.reload(filter).map_err(|source| LogError::Gone { source })
    }
}

/// Reads a level or a list of `target=level`. `EnvFilter` would also filter by spans, at the price of
/// a regular-expression engine: 0.3 MB of the binary.
pub fn parse_level(text: &str) -> Result<Targets, LogError> {
    text.parse().map_err(|source| LogError::Level { text: text.to_owned(), source })
}

/// Sets up logging for the whole process and routes panics through it. Call once, first.
pub fn init(format: LogFormat, level: &str) -> Result<LogHandle, LogError> {
    let filter = parse_level(level)?;
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let sink: Box<dyn Layer<Filtered> + Send + Sync> = match resolve(format, stderr_is_journal()) {
        Sink::Journal => Box::new(super::journald::layer().map_err(|source| LogError::Journal { source })?),
        Sink::Text => Box::new(tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colour)),
        Sink::Json => Box::new(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_writer(io::stderr),
        ),
    };
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(filter)
        .with(sink)
        .try_init()
        .map_err(|source| LogError::Twice { source })?;
    log_panics();
    Ok(LogHandle { filter: handle })
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>;

/// The form that [`LogFormat`] comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    Journal,
    Text,
    Json,
}

fn resolve(format: LogFormat, stderr_is_journal: bool) -> Sink {
    match format {
        LogFormat::Auto if stderr_is_journal => Sink::Journal,
        LogFormat::Auto | LogFormat::Text => Sink::Text,
        LogFormat::Json => Sink::Json,
        LogFormat::Journald => Sink::Journal,
    }
}

/// Whether stderr is the stream that systemd named in `JOURNAL_STREAM` (systemd.exec(5)). The
/// variable alone is inherited by shells whose stderr is a file.
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr();
    rustix::fs::fstat(stderr.as_fd()).is_ok_and(|stat| is_stream(&named, stat.st_dev, stat.st_ino))
}

fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    let mut parts = named.splitn(2, ':').map(|part| part.parse::<u64>().ok());
    parts.next() == Some(Some(device)) && parts.next() == Some(Some(inode))
}

/// A panic becomes one ERROR line with its place, in the same stream as everything else.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "Panic: {message}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_means_journal_only_when_stderr_is_the_journal() {
        assert_eq!(resolve(LogFormat::Auto, true), Sink::Journal);
        assert_eq!(resolve(LogFormat::Auto, false), Sink::Text);
        assert_eq!(resolve(LogFormat::Text, true), Sink::Text);
        assert_eq!(resolve(LogFormat::Json, true), Sink::Json);
        assert_eq!(resolve(LogFormat::Journald, false), Sink::Journal);
    }

    #[test]
    fn the_journal_stream_is_compared_by_device_and_inode() {
        assert!(is_stream("8:1234", 8, 1234));
        assert!(!is_stream("8:1234", 8, 1235));
        assert!(!is_stream("8", 8, 1234));
        assert!(!is_stream("x:y", 0, 0));
    }

    #[test]
    fn levels_are_checked_before_use() {
        assert!(parse_level("info,cloudstack_agent::session=debug").is_ok());
        let error = parse_level("session=loud").unwrap_err();
        assert!(error.to_string().contains("session=loud"));
    }

    #[test]
    fn the_filter_changes_while_running() {
        let (layer, filter) = reload::Layer::new(parse_level("warn").unwrap());
        let handle = LogHandle { filter };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert!(!tracing::enabled!(tracing::Level::INFO));
            handle.set_level("debug").unwrap();
            assert!(tracing::enabled!(tracing::Level::INFO));
            assert!(handle.set_level("a=b=c").is_err());
            assert!(tracing::enabled!(tracing::Level::DEBUG));
        });
    }
}
