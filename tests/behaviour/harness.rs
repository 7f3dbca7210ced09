//! A host of its own for one test: a directory with agent.properties, the real `agent` program on
//! libvirt's test driver, and the simulated server it belongs to.
//!
//! Everything waits for what is to happen, never for a time to pass; [`LIMIT`] only ends a test that
//! has failed anyway. A test that panics shows the agent's log, and the server's record where that is
//! what it waited for.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

pub use crate::simulated::*;
use cloudstack_agent::sim::SimServer;
use cloudstack_agent::status::fetch::fetch;
use cloudstack_agent::status::snapshot::{SessionState, Status};
use cloudstack_agent::wire::Element;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at something that gives no sign when it changes.
const LOOK: Duration = Duration::from_millis(40);
/// Id of the local pool in every test.
pub const POOL: &str = "2f8a0f51-5d6c-4d7b-8a68-1d2f6c1e9b10";

/// One line of the agent's log.
#[derive(Debug, Clone)]
pub struct Line {
    pub level: String,
    pub message: String,
    pub fields: Value,
}

/// What a run of the program gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A host: its files and, once started, its agent.
pub struct Node {
    directory: TempDir,
    process: Option<Child>,
    guid: String,
    /// What the agent's command line begins with; see [`Node::launched_by`].
    launcher: Vec<String>,
}

impl Node {
    /// A host that was set up for the server at `address`. The agent is not started.
    pub fn new(address: SocketAddr) -> Node {
        let node = Node::bare();
        node.write(&node.usual_properties(address.port()));
        node
    }

    /// A host whose agent was installed but not configured.
    pub fn bare() -> Node {
        let directory = tempfile::tempdir().unwrap();
        for name in ["etc", "run", "pool"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Node { directory, process: None, guid: uuid::Uuid::new_v4().to_string(), launcher: Vec::new() }
    }

    /// A started host.
    pub fn started(server: &SimServer) -> Node {
        let mut node = Node::new(server.address());
        node.start();
        node
    }

    /// A host that has been registered for as long as it takes to know its id.
    pub async fn registered(server: &SimServer) -> Node {
        let node = Node::started(server);
        ready(server, 1).await;
        node.is_registered().await;
        node
    }

    /// What the set-up writes, with the marks of an operator's hand that are to survive.
    pub fn usual_properties(&self, port: u16) -> String {
        let (guid, pool) = (&self.guid, self.path("pool"));
        format!(
            "# Kept by hand; order matters to its owner\n\
             guid={guid}\n\
             resource=com.cloud.hypervisor.kvm.resource.LibvirtComputingResource\n\
             \n\
             ! placement\n\
             zone=1\npod=1\ncluster=1\n\
             host=127.0.0.1@static\nport={port}\n\
             private.network.device=lo\npublic.network.device=lo\nguest.network.device=lo\n\
             hypervisor.uri=test:///default\n\
             local.storage.path={}\nlocal.storage.uuid={POOL}\n\
             \n\
             own.key = with   blanks\n\
             # The last line\n",
            pool.display()
        )
    }

    pub fn resource_guid(&self) -> String {
        format!("{}-LibvirtComputingResource", self.guid)
    }

    /// A path below the directory of this host: `etc`, `run` and `pool` exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config_dir(&self) -> PathBuf {
        self.path("etc")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.path("run")
    }

    fn config_file(&self) -> PathBuf {
        self.path("etc/agent.properties")
    }

    /// Text of agent.properties.
    pub fn properties(&self) -> String {
        std::fs::read_to_string(self.config_file()).unwrap()
    }

    /// Replaces agent.properties in one step.
    pub fn write(&self, text: &str) {
        let beside = self.path("etc/agent.properties.edited");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.config_file()).unwrap();
    }

    /// Value of a key that stands at the beginning of a line.
    pub fn value(&self, key: &str) -> Option<String> {
        let text = self.properties();
        text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
    }

    /// Sets a key the way an operator does: in its place, or at the end.
    pub fn set(&self, key: &str, value: &str) {
        let line = format!("{key}={value}");
        let mut lines: Vec<String> = self.properties().lines().map(str::to_owned).collect();
        match lines.iter_mut().find(|old| old.starts_with(&format!("{key}="))) {
            Some(old) => *old = line,
            None => lines.push(line),
        }
        self.write(&(lines.join("\n") + "\n"));
    }

    fn program(&self, subcommand: &str) -> Command {
        let agent = env!("CARGO_BIN_EXE_agent");
        let mut program = match self.launcher.split_first() {
            Some((launcher, options)) => {
                let mut program = Command::new(launcher);
                program.args(options).arg(agent);
                program
            }
            None => Command::new(agent),
        };
        program.arg(subcommand).arg("--config").arg(self.config_file());
        program.arg("--runtime-dir").arg(self.runtime_dir());
        program
            .env("AGENT_STATE_DIR", self.path("state"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        program
    }

    /// Lets another program start the agent, in its own process.
    pub fn launched_by(&mut self, launcher: Vec<String>) {
        self.launcher = launcher;
    }

    /// Starts the agent.
    pub fn start(&mut self) {
        let log = File::options().append(true).create(true).open(self.log_file()).unwrap();
        let mut program = self.program("run");
        program.args(["--log-format", "json"]).stdout(Stdio::null()).stderr(log);
        self.process = Some(program.spawn().unwrap());
    }

    /// Runs another agent on the same directories until it ends by itself.
    pub async fn run_beside(&self) -> Run {
        ended(self.program("run")).await
    }

    /// Runs `agent status` with these options.
    pub async fn ask(&self, options: &[&str]) -> Run {
        self.run("status", options).await
    }

    /// Runs any subcommand with these options.
    pub async fn run(&self, subcommand: &str, options: &[&str]) -> Run {
        let mut program = self.program(subcommand);
        program.args(options);
        ended(program).await
    }

    /// Id of the running process; `None` if it has ended.
    pub fn pid(&mut self) -> Option<u32> {
        let process = self.process.as_mut()?;
        assert_eq!(process.try_wait().unwrap(), None, "the agent has ended");
        process.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.as_ref().and_then(Child::id).expect("the agent runs");
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Tells the agent to read its configuration now.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks the agent to end; gives its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.end().await
    }

    /// Ends the agent without giving it a chance.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end().await;
    }

    /// Waits until the agent has ended by itself.
    pub async fn ended(&mut self) {
        self.end().await;
    }

    async fn end(&mut self) -> Option<i32> {
        let mut process = self.process.take().expect("the agent runs");
        let status = timeout(LIMIT, process.wait()).await.expect("the agent does not end").unwrap();
        status.code()
    }

    /// What the running agent says of itself.
    pub async fn status(&self) -> Status {
        self.wait_for("an answer", |_| true).await
    }

    /// Waits until the running agent says something that `wanted` accepts.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let socket = self.runtime_dir().join(cloudstack_agent::status::SOCKET_NAME);
        let end = Instant::now() + LIMIT;
        loop {
            let status = fetch(&socket, LIMIT).await;
            match status {
                Ok(status) if wanted(&status) => return status,
                Ok(status) if Instant::now() > end => panic!("{what} did not come: {status:#?}"),
                Err(error) if Instant::now() > end => panic!("{what} did not come: {error}"),
                Ok(_) | Err(_) => sleep(LOOK).await,
            }
        }
    }

    pub async fn is_registered(&self) -> Status {
        self.wait_for("registration", |status| status.session.state == SessionState::Registered).await
    }

    fn log_file(&self) -> PathBuf {
        self.path("log")
    }

    /// The log so far.
    pub fn log(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        // The last line may be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(Line::parse).collect()
    }

    /// Lines of a level, or of any, whose message contains `text`.
    pub fn logged(&self, level: &str, text: &str) -> Vec<Line> {
        let wanted = |line: &Line| (level.is_empty() || line.level == level) && line.message.contains(text);
        self.log().into_iter().filter(wanted).collect()
    }

    /// Waits until the log has `count` lines that contain `text`.
    pub async fn logs(&self, text: &str, count: usize) {
        let found = async {
            while self.logged("", text).len() < count {
                sleep(LOOK).await;
            }
        };
        timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("{text:?} is not logged {count} times"));
    }

    /// Waits until `holds` is true of this host's files.
    pub async fn until(&self, what: &str, holds: impl Fn(&Node) -> bool) {
        let found = async {
            while !holds(self) {
                sleep(LOOK).await;
            }
        };
        timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("{what} did not happen"));
    }
}

impl Line {
    fn parse(text: &str) -> Line {
        let fields: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("log line {text:?}: {e}"));
        let word = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
        Line { level: word("level"), message: word("message"), fields }
    }
}

async fn ended(mut program: Command) -> Run {
    let output = timeout(LIMIT, program.output()).await.expect("the program does not end").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
            eprintln!("log of the agent:\n{log}");
        }
    }
}

/// A port of this machine on which nothing listens.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A command of the server's API package, with the fields common to all.
pub fn command(class: &str, fields: Value) -> Element {
    let class = if class.contains('.') { class.to_owned() } else { format!("com.cloud.agent.api.{class}") };
    let mut whole =
        serde_json::json!({"contextMap": {"logid": "5eed"}, "wait": 0, "bypassHostMaintenance": false});
    for (name, value) in fields.as_object().unwrap() {
        whole[name] = value.clone();
    }
    Element::new(&class, &whole).unwrap()
}

/// Writes an executable shell script. A copy is what runs: a file that this process had open for
/// writing could be inherited by another test's child at that moment, and would not execute.
pub async fn script(path: &Path, body: &str) {
    let source = path.with_extension("source");
    std::fs::write(&source, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut copy = Command::new("/bin/cp");
    copy.arg(&source).arg(path);
    assert_eq!(ended(copy).await.code, 0);
}

/// The stage that [`long_command`] runs on a host prepared by [`Node::with_long_command`].
const STAGE: &str = "PreMaintenance";

/// A command that begins and then takes as long as the test likes.
pub fn long_command() -> Element {
    command("RollingMaintenanceCommand", serde_json::json!({"stage": STAGE, "payload": "", "wait": 300}))
}

impl Node {
    /// Prepares this host for [`long_command`].
    pub async fn with_long_command(&self) {
        let body = format!(
            "touch {0}/begun; while [ ! -e {0}/finish ]; do sleep 0.05; done",
            self.directory.path().display()
        );
        script(&self.path(&format!("etc/{STAGE}")), &body).await;
        self.set("rolling.maintenance.hooks.dir", &self.config_dir().display().to_string());
        self.set("rolling.maintenance.service.executor.disabled", "true");
    }

    /// Waits until the long command has begun.
    pub async fn long_command_begins(&self) {
        self.until("the long command", |node| node.path("begun").exists()).await;
    }

    /// Lets the long command come to its end.
    pub fn finish_long_command(&self) {
        std::fs::write(self.path("finish"), "").unwrap();
    }
}
