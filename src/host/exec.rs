//! The only place that starts processes.
//!
//! A program is started by absolute path with an argument vector, never through a shell, with a
//! small fixed environment, in a process group of its own. At the deadline, or when the caller goes
//! away, the whole group is killed. Output is kept up to a bound and read on beyond it, so a chatty
//! program neither fills memory nor blocks. Arguments and input may hold secrets: they are never
//! logged or shown.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
const DEFAULT_MAX_OUTPUT: usize = 1024 * 1024;
/// Where `find_program` looks, in this order; the PATH that programs get.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long output is awaited after the program has ended, while a descendant holds the pipes.
const DRAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Error)]
pub enum ExecError {
    #[error("Program {program:?} is not an absolute path: name it from the root, it is not searched for")]
    RelativePath { program: PathBuf },
    #[error("Cannot start {program}: check that it is installed and executable")]
    Start { program: String, source: std::io::Error },
    #[error("{program} did not end within {} s and was killed: run it by hand to see what it waits for", .after.as_secs_f32())]
    Deadline { program: String, after: Duration },
    #[error("Cannot follow {program} while it runs")]
    Wait { program: String, source: std::io::Error },
}

/// What a program left behind.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; `None` if a signal ended the program.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Whether output beyond the bound was thrown away.
    pub truncated: bool,
}

impl Output {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output as text, invalid bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("code", &self.code)
            .field("signal", &self.signal)
            .field("stdout_bytes", &self.stdout.len())
            .field("stderr_bytes", &self.stderr.len())
            .field("truncated", &self.truncated)
            .finish()
    }
}

/// Sees standard output while the program runs.
type Tap = Box<dyn FnMut(&[u8]) + Send>;

static COUNT: AtomicU64 = AtomicU64::new(0);
static NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// Programs that this process has run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ran {
    pub count: u64,
    /// From their start to their end, added up.
    pub took: Duration,
}

/// What was run until now.
pub fn ran() -> Ran {
    let took = Duration::from_nanos(NANOSECONDS.load(Ordering::Relaxed));
    Ran { count: COUNT.load(Ordering::Relaxed), took }
}

/// A program to run, by absolute path.
#[must_use = "nothing is started before `run`"]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    deadline: Duration,
    max_output: usize,
    tap: Option<Tap>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("path", &self.path)
            .field("arguments", &self.arguments.len())
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: None,
            deadline: DEFAULT_DEADLINE,
            max_output: DEFAULT_MAX_OUTPUT,
            tap: None,
        }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Adds to the environment, which otherwise has PATH, HOME and the C locale only.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Written to standard input, which is then closed; without it, input is empty.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// 60 s unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Bytes kept of each of the two outputs, 1 MiB unless set.
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// Also hands standard output to `tap` as it comes, in pieces of any size, without a bound; `tap`
    /// must not block. For programs that tell their progress.
    pub fn on_stdout(mut self, tap: impl FnMut(&[u8]) + Send + 'static) -> Self {
        self.tap = Some(Box::new(tap));
        self
    }

    /// Runs the program to its end. An exit code other than 0 is not an error.
    pub async fn run(self) -> Result<Output, ExecError> {
        let begin = Instant::now();
        let ended = self.run_to_its_end().await;
        let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        COUNT.fetch_add(1, Ordering::Relaxed);
        NANOSECONDS.fetch_add(took, Ordering::Relaxed);
        ended
    }

    async fn run_to_its_end(mut self) -> Result<Output, ExecError> {
        if !self.path.is_absolute() {
            return Err(ExecError::RelativePath { program: self.path });
        }
        let program = self.path.display().to_string();
        let mut group = self.start(&program)?;
        let max = self.max_output;
        let mut stdout = Capture::new(group.child.stdout.take(), max, self.tap.take());
        let mut stderr = Capture::new(group.child.stderr.take(), max, None);
        let input = group.child.stdin.take();
        let bytes = self.stdin.unwrap_or_default();
        let ended = tokio::time::timeout(self.deadline, async {
            let all = async { tokio::join!(feed(input, bytes), stdout.fill(), stderr.fill()) };
            tokio::pin!(all);
            tokio::select! {
                status = group.child.wait() => {
                    // The pipes usually close with the program; a daemon that it left may hold them.
                    let _ = tokio::time::timeout(DRAIN, all).await;
                    status
                }
                _ = &mut all => group.child.wait().await,
            }
        })
        .await;
        match ended {
            Ok(Ok(status)) => Ok(output(status, stdout, stderr)),
            Ok(Err(source)) => Err(ExecError::Wait { program, source }),
            Err(_) => Err(ExecError::Deadline { program, after: self.deadline }),
        }
    }

    /// Becomes the program, which gets this process's terminal and environment; returns only if that fails.
    /// For command-line tools that hand over to another, never for the agent. Input and limits do not apply.
    #[allow(clippy::disallowed_methods)]
    pub fn become_it(self) -> ExecError {
        use std::os::unix::process::CommandExt;
        if !self.path.is_absolute() {
            return ExecError::RelativePath { program: self.path };
        }
        let program = self.path.display().to_string();
        let source = std::process::Command::new(&self.path).args(&self.arguments).exec();
        ExecError::Start { program, source }
    }

    // The one exception to the ban on starting processes.
    #[allow(clippy::disallowed_methods)]
    fn start(&self, program: &str) -> Result<Group, ExecError> {
        let child = Command::new(&self.path)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ExecError::Start { program: program.to_owned(), source })?;
        yield_to_the_agent(child.id());
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Group { child, leader })
    }
}

/// The service manager protects the agent when the kernel runs out of memory, and children inherit
/// that: a program that grows must go before the agent does.
fn yield_to_the_agent(child: Option<u32>) {
    if let Some(id) = child {
        // Fails where the agent itself may be killed first, or for a child that has ended already.
        let _ = std::fs::write(format!("/proc/{id}/oom_score_adj"), "0");
    }
}

/// A child and the process group that it leads; dropping it kills what is left of the group.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        // Before the child is reaped its id cannot be reused; afterwards the id stays taken for as
        // long as the group has members. An empty group is an error of no interest.
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// One output of the program, kept up to a bound.
struct Capture<R> {
    from: Option<R>,
    kept: Vec<u8>,
    max: usize,
    truncated: bool,
    tap: Option<Tap>,
}

impl<R: AsyncRead + Unpin> Capture<R> {
    fn new(from: Option<R>, max: usize, tap: Option<Tap>) -> Self {
        Self { from, kept: Vec::new(), max, truncated: false, tap }
    }

    async fn fill(&mut self) {
        let Some(from) = &mut self.from else { return };
        let mut buffer = vec![0; 8 * 1024];
        // An error on a pipe means the same as its end.
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let room = self.max.saturating_sub(self.kept.len());
            let piece = buffer.get(..count).unwrap_or_default();
            if let Some(tap) = &mut self.tap {
                tap(piece);
            }
            self.kept.extend(piece.iter().take(room));
            self.truncated |= count > room;
        }
    }
}

async fn feed(input: Option<ChildStdin>, bytes: Vec<u8>) {
    if let Some(mut input) = input {
        // A program that does not read its input is free to do so.
        let _ = input.write_all(&bytes).await;
        let _ = input.shutdown().await;
    }
}

fn output<A, B>(status: ExitStatus, stdout: Capture<A>, stderr: Capture<B>) -> Output {
    Output {
        code: status.code(),
        signal: status.signal(),
        truncated: stdout.truncated || stderr.truncated,
        stdout: stdout.kept,
        stderr: stderr.kept,
    }
}

/// The full path of a program by its bare name, from the system's program directories only.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| is_executable(path))
}

/// Whether `path` is a regular file that somebody may execute.
pub fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests;
