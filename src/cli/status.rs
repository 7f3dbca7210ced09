//! `agent --status`: asks the running agent; else shows its last snapshot; else what can be seen
//! from outside. Ends within two seconds whatever hangs, and changes nothing.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::out::{self, JsonLayout, Reader};
use crate::status::checks::{self, Check, CheckResult, ConfigFacts};
use crate::status::fetch::{FetchError, fetch};
use crate::status::render;
use crate::status::snapshot::{
    AGENT_CHECK, AgentSection, SCHEMA, ServerSection, SessionSection, SessionState, Source, Status,
    UnitSection, Verdict,
};
use crate::status::{SNAPSHOT_NAME, SOCKET_NAME, Timestamp, WIRE_VERSION, board, file, unit};

/// Time for the running agent to answer; the rest of the two seconds is for printing.
pub const ANSWER: Duration = Duration::from_millis(1_800);

/// After this long without an answer the other depths are looked at in the meantime.
const PATIENCE: Duration = Duration::from_millis(150);

/// Time for `systemctl show`.
const UNIT: Duration = Duration::from_millis(1_000);

/// Pause between two pages of `--watch`.
const WATCH: Duration = Duration::from_secs(2);

/// Pause between two questions of `--wait`.
const POLL: Duration = Duration::from_millis(250);

/// What to show and how.
#[derive(Debug, Clone)]
pub struct Request {
    pub runtime_dir: PathBuf,
    pub format: Format,
    pub mode: Mode,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Once, again and again, or after waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Once,
    Watch,
    /// Until registered, at most this long.
    WaitRegistered(Duration),
}

/// Shows the status and returns the exit code. `facts` and `unit` are only called when the agent
/// does not answer.
pub async fn show<U>(request: &Request, facts: &dyn Fn() -> ConfigFacts, unit: &dyn Fn() -> U) -> u8
where
    U: Future<Output = Option<UnitSection>>,
{
    if let Mode::WaitRegistered(limit) = request.mode {
        wait_registered(&request.runtime_dir.join(SOCKET_NAME), limit).await;
    }
    loop {
        let status = look(&request.runtime_dir, facts, unit()).await;
        let reader = print(&status, request);
        if request.mode != Mode::Watch || reader == Reader::Gone {
            return status.exit_code();
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Asks until the agent says it is registered or `limit` has passed. The caller looks again anyway.
async fn wait_registered(socket: &Path, limit: Duration) {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        match fetch(socket, ANSWER.min(end - Instant::now())).await {
            Ok(status) if status.session.state == SessionState::Registered => return,
            _ => tokio::time::sleep(POLL.min(end.saturating_duration_since(Instant::now()))).await,
        }
    }
}

/// The deepest look that works.
pub async fn look(
    runtime_dir: &Path,
    facts: &dyn Fn() -> ConfigFacts,
    unit: impl Future<Output = Option<UnitSection>>,
) -> Status {
    let socket = runtime_dir.join(SOCKET_NAME);
    let mut answer = pin!(fetch(&socket, ANSWER));
    let outside = async {
        let facts = facts();
        let (checks, unit) =
            tokio::join!(checks::run(&facts, None, Timestamp::now()), tokio::time::timeout(UNIT, unit));
        let snapshot = file::read(&runtime_dir.join(SNAPSHOT_NAME));
        Outside { snapshot, checks, unit: unit.ok().flatten(), facts }
    };
    let (error, outside) = match tokio::time::timeout(PATIENCE, &mut answer).await {
        Ok(Ok(status)) => return status,
        Ok(Err(error)) => (error, outside.await),
        Err(_) => match tokio::join!(answer, outside) {
            (Ok(status), _) => return status,
            (Err(error), outside) => (error, outside),
        },
    };
    assemble(&error, outside, Timestamp::now())
}

/// What can be seen without the agent.
struct Outside {
    snapshot: Option<Status>,
    checks: Vec<Check>,
    unit: Option<UnitSection>,
    facts: ConfigFacts,
}

/// The document for an agent that gave `error` instead of an answer.
fn assemble(error: &FetchError, outside: Outside, now: Timestamp) -> Status {
    let own = agent_check(error, outside.unit.as_ref(), now);
    let mut status = match outside.snapshot {
        Some(snapshot) => Status { source: Source::Snapshot, ..snapshot },
        None => empty(&outside.facts, now),
    };
    status.agent.down_reason = Some(error.to_string());
    status.agent.unit = outside.unit;
    checks::merge(&mut status.checks, outside.checks);
    status.checks.retain(|check| check.id != AGENT_CHECK);
    status.checks.insert(0, own);
    status.verdict = status.judge();
    status
}

fn agent_check(error: &FetchError, unit: Option<&UnitSection>, now: Timestamp) -> Check {
    let summary = match unit {
        Some(unit) => format!("{}; {error}", unit::phrase(unit, now)),
        None => error.to_string(),
    };
    let result = match error {
        FetchError::NoSocket { .. } | FetchError::NotListening { .. } => CheckResult::Fail,
        FetchError::Denied { .. } | FetchError::Refused { .. } => CheckResult::Skip,
        FetchError::Timeout { .. } | FetchError::Broken { .. } | FetchError::Garbled { .. } => {
            CheckResult::Timeout
        }
    };
    Check { result, ..Check::fail(AGENT_CHECK, summary, error.remedy()) }
}

fn empty(facts: &ConfigFacts, now: Timestamp) -> Status {
    let servers = facts
        .servers
        .iter()
        .map(|server| ServerSection { addr: server.to_string(), last_error: None, last_ok_at: None })
        .collect();
    Status {
        schema: SCHEMA,
        verdict: Verdict::Unknown,
        source: Source::Static,
        taken_at: now,
        agent: AgentSection {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire_version: WIRE_VERSION.to_owned(),
            hostname: board::hostname(),
            pid: None,
            started_at: None,
            rss_bytes: None,
            open_fds: None,
            threads: None,
            down_reason: None,
            unit: None,
        },
        session: SessionSection {
            servers,
            guid: facts.guid.clone(),
            ..SessionSection::new(SessionState::Stopped, now)
        },
        commands: None,
        libvirt: None,
        machine: None,
        storage: Vec::new(),
        certificate: facts.certificate.clone(),
        orphans: None,
        checks: Vec::new(),
    }
}

fn print(status: &Status, request: &Request) -> Reader {
    let style = out::stdout_style();
    match (request.format, request.mode) {
        (Format::Json, Mode::Watch) => out::show_json(status, JsonLayout::OneLine),
        (Format::Json, _) => out::show_json(status, JsonLayout::Indented),
        (Format::Text, Mode::Watch) => {
            // Home and clear on a terminal; elsewhere pages follow each other.
            let clear = if out::stdout_is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
            out::show(&format!("{clear}{}\n", render::text(status, Timestamp::now(), style)))
        }
        (Format::Text, _) => out::show(&render::text(status, Timestamp::now(), style)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio::sync::oneshot;

    use super::*;
    use crate::status::Board;
    use crate::status::fixtures;
    use crate::status::socket::{Peers, StatusSocket};

    async fn no_unit() -> Option<UnitSection> {
        None
    }

    /// Nothing configured: no probe leaves this machine.
    fn no_facts() -> ConfigFacts {
        ConfigFacts { errors: vec!["not read".into()], guid: Some("g-1".into()), ..ConfigFacts::default() }
    }

    async fn look_at(dir: &Path) -> Status {
        look(dir, &no_facts, no_unit()).await
    }

    #[tokio::test]
    async fn a_living_agent_is_asked_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let socket = StatusSocket::bind(dir.path(), Peers::root_and_self()).await.unwrap();
        let board = Board::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(socket.serve(board.clone(), async {
            let _ = stopped.await;
        }));
        let never = || -> ConfigFacts { panic!("the configuration was read") };
        let unregistered = look(dir.path(), &never, no_unit()).await;
        assert_eq!((unregistered.source, unregistered.exit_code()), (Source::Live, 2));
        board.session(SessionSection::new(SessionState::Registered, Timestamp::now()));
        assert_eq!(look(dir.path(), &never, no_unit()).await.exit_code(), 0);
        board.checks("test", vec![Check::warn("disk:/var/log", "full", "free it")]);
        assert_eq!(look(dir.path(), &never, no_unit()).await.exit_code(), 1);
        stop.send(()).unwrap();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn without_anything_the_static_checks_speak() {
        let dir = tempfile::tempdir().unwrap();
        let status = look_at(dir.path()).await;
        assert_eq!((status.source, status.verdict), (Source::Static, Verdict::Fail));
        assert_eq!(status.exit_code(), 3);
        assert_eq!(status.session.state, SessionState::Stopped);
        assert_eq!(status.session.guid.as_deref(), Some("g-1"));
        assert_eq!(status.checks[0].id, AGENT_CHECK);
        assert!(status.checks.iter().any(|check| check.id == "config"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_dead_agent_leaves_its_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        file::write(&dir.path().join(SNAPSHOT_NAME), &fixtures::healthy()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap());
        let unit = UnitSection { active_state: "failed".into(), since: None, exit_status: Some(66) };
        let status = look(dir.path(), &no_facts, async { Some(unit) }).await;
        assert_eq!((status.source, status.exit_code()), (Source::Snapshot, 3));
        assert_eq!(status.taken_at, fixtures::healthy().taken_at);
        let page = render::text(&status, Timestamp::now(), render::Style::PLAIN);
        assert!(page.starts_with("agent not running (unit failed, exit 66): showing snapshot of "), "{page}");
        // What is seen now replaces what the snapshot said.
        let certificates: Vec<_> = status.checks.iter().filter(|check| check.id == "certificate").collect();
        assert_eq!(certificates.len(), 1);
        assert_eq!(certificates[0].result, CheckResult::Warn);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_agent_gives_exit_4_within_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let _silent = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
        let hung_unit = std::future::pending();
        let started = Instant::now();
        let status = look(dir.path(), &no_facts, hung_unit).await;
        // The clock is simulated: this is the sum of the deadlines, not a measurement.
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!((status.source, status.verdict), (Source::Static, Verdict::Unknown));
        assert_eq!(status.exit_code(), 4);
        assert_eq!(status.checks[0].result, CheckResult::Timeout);
    }

    #[tokio::test]
    async fn no_permission_is_not_taken_for_no_agent() {
        let dir = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let socket = StatusSocket::bind(dir.path(), Peers::only(vec![own + 1])).await.unwrap();
        let server = tokio::spawn(socket.serve(Board::new(), std::future::pending()));
        let status = look_at(dir.path()).await;
        assert_eq!((status.verdict, status.exit_code()), (Verdict::Unknown, 4));
        assert_eq!(status.checks[0].remedy.as_deref(), Some("run this as root"));
        server.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        wait_registered(&dir.path().join(SOCKET_NAME), Duration::from_secs(30)).await;
        assert_eq!(started.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_host_is_registered() {
        let dir = tempfile::tempdir().unwrap();
        let socket = StatusSocket::bind(dir.path(), Peers::root_and_self()).await.unwrap();
        let board = Board::new();
        let server = tokio::spawn(socket.serve(board.clone(), std::future::pending()));
        let path = dir.path().join(SOCKET_NAME);
        let mut waiting = pin!(wait_registered(&path, Duration::from_secs(3_600)));
        assert!(tokio::time::timeout(POLL / 5, &mut waiting).await.is_err());
        board.session(SessionSection::new(SessionState::Registered, Timestamp::now()));
        waiting.await;
        server.abort();
    }

    #[tokio::test]
    async fn every_document_follows_the_shipped_schema() {
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/status.schema.json");
        let schema = serde_json::from_str(&std::fs::read_to_string(schema).unwrap()).unwrap();
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let documents = [
            ("healthy", fixtures::healthy()),
            ("resets", fixtures::resets()),
            ("backoff", fixtures::backoff()),
            ("dead", fixtures::dead_with_snapshot()),
            ("starting", fixtures::starting()),
            ("live and empty", Board::new().snapshot()),
            ("static", look_at(dir.path()).await),
        ];
        for (name, status) in documents {
            let document = serde_json::to_value(&status).unwrap();
            let errors: Vec<String> =
                validator.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
            let back: Status = serde_json::from_value(document).unwrap();
            assert_eq!(back, status, "{name}");
        }
        assert!(!validator.is_valid(&serde_json::json!({"schema": 1})));
    }

    /// A field that the schema does not name is a field that nobody was told about.
    #[test]
    fn the_schema_names_every_field() {
        fn unnamed(
            value: &serde_json::Value,
            schema: &serde_json::Value,
            path: &str,
            found: &mut Vec<String>,
        ) {
            match value {
                serde_json::Value::Object(members) => {
                    for (name, member) in members {
                        let below = format!("{path}/{name}");
                        let rest = &schema["additionalProperties"];
                        match schema["properties"].get(name).or(rest.is_object().then_some(rest)) {
                            Some(schema) => unnamed(member, schema, &below, found),
                            None => found.push(below),
                        }
                    }
                }
                serde_json::Value::Array(items) => {
                    items.iter().for_each(|item| unnamed(item, &schema["items"], path, found));
                }
                _ => {}
            }
        }
        let schema = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/status.schema.json"));
        let schema = serde_json::from_str(schema).unwrap();
        let mut found = Vec::new();
        for status in [fixtures::resets(), fixtures::closed_by_server(), fixtures::dead_with_snapshot()] {
            unnamed(&serde_json::to_value(status).unwrap(), &schema, "", &mut found);
        }
        assert!(found.is_empty(), "{found:?}");
    }
}
