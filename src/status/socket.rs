//! The local socket: a client sends one line, the agent writes one JSON document and closes.
//!
//! Only root and the agent's own user are answered (`SO_PEERCRED`), lines and time are bounded, and
//! at most [`MAX_CLIENTS`] are served at once. The socket never changes anything in the agent.
//!
//! One agent per runtime directory: a lock file, held while the process lives, decides; a socket
//! file that nobody listens on is a leftover and is replaced.

use std::fs::{File, OpenOptions, Permissions};
use std::future::Future;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{Board, LOCK_NAME, SOCKET_NAME};

/// Clients served at once; more are told to come back.
pub const MAX_CLIENTS: usize = 8;

/// Longest request line, newline included.
const MAX_REQUEST: u64 = 64;

/// Time one client may take from connect to close.
const CLIENT_DEADLINE: Duration = Duration::from_secs(2);

/// Pause after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("Cannot create the runtime directory {}; run as root or choose another with --runtime-dir", dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    #[error("Cannot lock {}; check that the directory is writable", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("An agent is already running{} in {}; stop it first or choose another --runtime-dir", pid_suffix(*pid), dir.display())]
    AlreadyRunning { dir: PathBuf, pid: Option<u32> },
    #[error("Cannot remove the leftover socket {}; remove it by hand", path.display())]
    Leftover { path: PathBuf, source: io::Error },
    #[error("Cannot open the socket {}; check the directory and that the path is shorter than 108 bytes", path.display())]
    Bind { path: PathBuf, source: io::Error },
}

impl BindError {
    /// Exit code of `agent run` for this error, with the Java agent's meaning of 67 (error).
    pub fn exit_code(&self) -> u8 {
        67
    }
}

fn pid_suffix(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(", pid {pid},"))
}

/// Users whose connections are answered.
#[derive(Debug, Clone)]
pub struct Peers {
    uids: Vec<u32>,
}

impl Peers {
    /// Root and the user this process runs as.
    pub fn root_and_self() -> Self {
        Self { uids: vec![0, rustix::process::geteuid().as_raw()] }
    }

    /// Exactly these user ids.
    pub fn only(uids: Vec<u32>) -> Self {
        Self { uids }
    }

    fn admits(&self, uid: u32) -> bool {
        self.uids.contains(&uid)
    }
}

/// The bound socket, not yet served. Dropping it removes the file and frees the lock.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    peers: Peers,
    /// Never read: the lock goes with the descriptor.
    _lock: File,
}

impl StatusSocket {
    /// Claims `runtime_dir` (created with mode 0750 if missing) for this process and binds
    /// `agent.sock` in it with mode 0660. Needs a tokio runtime.
    pub async fn bind(runtime_dir: &Path, peers: Peers) -> Result<Self, BindError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(runtime_dir)
            .map_err(|source| BindError::Directory { dir: runtime_dir.to_owned(), source })?;
        let lock = claim(runtime_dir)?;
        let path = runtime_dir.join(SOCKET_NAME);
        remove_leftover(runtime_dir, &path).await?;
        let bind = |source| BindError::Bind { path: path.clone(), source };
        let listener = UnixListener::bind(&path).map_err(bind)?;
        // Until here the umask decides; the peer check covers that moment.
        std::fs::set_permissions(&path, Permissions::from_mode(0o660)).map_err(bind)?;
        Ok(Self { listener, path, peers, _lock: lock })
    }

    /// Answers clients from `board` until `stop` completes. The runtime directory is free for another
    /// agent from then on: stop this last.
    pub async fn serve(self, board: Board, stop: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                // The document fits the socket buffer; a client that does not read loses it.
                let _ = stream.try_write(&refusal("busy: too many clients, try again"));
                continue;
            };
            let board = board.clone();
            let peers = self.peers.clone();
            tokio::spawn(async move {
                let _slot = slot;
                // A client that left or stalls costs its own slot for the deadline, nothing else.
                let _ = tokio::time::timeout(CLIENT_DEADLINE, answer(stream, &board, &peers)).await;
            });
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // The lock is still held, so the file is ours.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes the lock file and writes our pid into it.
fn claim(runtime_dir: &Path) -> Result<File, BindError> {
    let path = runtime_dir.join(LOCK_NAME);
    let lock_error = |source| BindError::Lock { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(&path)
        .map_err(lock_error)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let _ = (&mut file).take(32).read_to_string(&mut text);
            let pid = text.trim().parse().ok();
            return Err(BindError::AlreadyRunning { dir: runtime_dir.to_owned(), pid });
        }
        Err(errno) => return Err(lock_error(errno.into())),
    }
    file.set_len(0).map_err(lock_error)?;
    file.rewind().map_err(lock_error)?;
    writeln!(file, "{}", std::process::id()).map_err(lock_error)?;
    Ok(file)
}

/// Removes a socket file that nobody listens on. Someone who does listen (an agent from before the
/// lock file was deleted) keeps it.
async fn remove_leftover(runtime_dir: &Path, path: &Path) -> Result<(), BindError> {
    match tokio::time::timeout(CLIENT_DEADLINE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| BindError::Leftover { path: path.to_owned(), source })
        }
        Ok(Err(source)) => Err(BindError::Bind { path: path.to_owned(), source }),
        Ok(Ok(stream)) => {
            let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).and_then(|pid| pid.try_into().ok());
            Err(BindError::AlreadyRunning { dir: runtime_dir.to_owned(), pid })
        }
        Err(_) => Err(BindError::AlreadyRunning { dir: runtime_dir.to_owned(), pid: None }),
    }
}

async fn answer(mut stream: UnixStream, board: &Board, peers: &Peers) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    // Read in any case: closing with unread data would reset the connection and lose the reason.
    let mut line = String::new();
    BufReader::new((&mut stream).take(MAX_REQUEST)).read_line(&mut line).await?;
    let document = match (peers.admits(uid), line.trim()) {
        (false, _) => refusal(&format!("user id {uid} may not ask; use root")),
        (true, "status") => serde_json::to_vec(&board.snapshot()).map_err(io::Error::other)?,
        (true, _) => refusal("unknown request; this agent knows: status"),
    };
    stream.write_all(&document).await?;
    stream.shutdown().await
}

/// A refusal instead of a document.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
}

fn refusal(error: &str) -> Vec<u8> {
    serde_json::to_vec(&Refusal { error: error.to_owned() }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::super::fetch::{FetchError, fetch};
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    struct Served {
        dir: tempfile::TempDir,
        stop: Option<oneshot::Sender<()>>,
        task: JoinHandle<()>,
    }

    impl Served {
        async fn start(peers: Peers) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let socket = StatusSocket::bind(dir.path(), peers).await.unwrap();
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(socket.serve(Board::new(), async {
                let _ = stopped.await;
            }));
            Self { dir, stop: Some(stop), task }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join(SOCKET_NAME)
        }

        async fn stop(mut self) -> tempfile::TempDir {
            drop(self.stop.take());
            self.task.await.unwrap();
            self.dir
        }
    }

    async fn raw(path: &Path, request: &[u8]) -> serde_json::Value {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[tokio::test]
    async fn a_document_makes_the_round_trip() {
        let served = Served::start(Peers::root_and_self()).await;
        let mode = std::fs::metadata(served.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let status = fetch(&served.path(), LONG).await.unwrap();
        assert_eq!(status.agent.pid, Some(std::process::id()));
        let dir = served.stop().await;
        assert!(!dir.path().join(SOCKET_NAME).exists());
        let error = fetch(&dir.path().join(SOCKET_NAME), LONG).await.unwrap_err();
        assert!(matches!(error, FetchError::NoSocket { .. }));
    }

    #[tokio::test]
    async fn strangers_get_a_reason_and_no_document() {
        let own = rustix::process::geteuid().as_raw();
        let served = Served::start(Peers::only(vec![own + 1])).await;
        let error = fetch(&served.path(), LONG).await.unwrap_err();
        let FetchError::Refused { reason } = error else { panic!("{error:?}") };
        assert!(reason.contains(&format!("user id {own}")), "{reason}");
        assert!(Peers::root_and_self().admits(0) && Peers::root_and_self().admits(own));
        assert!(!Peers::root_and_self().admits(own + 12_345));
        served.stop().await;
    }

    #[tokio::test]
    async fn unknown_and_endless_requests_are_refused() {
        let served = Served::start(Peers::root_and_self()).await;
        assert!(raw(&served.path(), b"reboot\n").await["error"].is_string());
        assert!(raw(&served.path(), &[b'x'; MAX_REQUEST as usize]).await["error"].is_string());
        served.stop().await;
    }

    #[tokio::test]
    async fn the_ninth_client_is_told_to_come_back() {
        let served = Served::start(Peers::root_and_self()).await;
        let mut idle = Vec::new();
        for _ in 0..MAX_CLIENTS {
            idle.push(UnixStream::connect(served.path()).await.unwrap());
        }
        let error = fetch(&served.path(), LONG).await.unwrap_err();
        assert!(matches!(&error, FetchError::Refused { reason } if reason.starts_with("busy")), "{error:?}");
        drop(idle);
        served.stop().await;
    }

    #[tokio::test]
    async fn a_second_agent_is_refused_and_a_leftover_is_replaced() {
        let served = Served::start(Peers::root_and_self()).await;
        let error = StatusSocket::bind(served.dir.path(), Peers::root_and_self()).await.unwrap_err();
        let pid = std::process::id();
        assert!(matches!(&error, BindError::AlreadyRunning { pid: Some(found), .. } if *found == pid));
        assert!(error.to_string().contains(&format!("already running, pid {pid}")), "{error}");
        assert_eq!(error.exit_code(), 67);
        // Someone removed the lock file; the living socket still speaks for its owner.
        std::fs::remove_file(served.dir.path().join(LOCK_NAME)).unwrap();
        let error = StatusSocket::bind(served.dir.path(), Peers::root_and_self()).await.unwrap_err();
        assert!(matches!(error, BindError::AlreadyRunning { pid: Some(found), .. } if found == pid));
        let dir = served.stop().await;

        let path = dir.path().join(SOCKET_NAME);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let error = fetch(&path, LONG).await.unwrap_err();
        assert!(error.proves_absence(), "{error:?}");
        StatusSocket::bind(dir.path(), Peers::root_and_self()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_never_answers_ends_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_NAME);
        let _silent = UnixListener::bind(&path).unwrap();
        let error = fetch(&path, Duration::from_millis(1_800)).await.unwrap_err();
        assert!(matches!(error, FetchError::Timeout { .. }), "{error:?}");
        assert!(!error.proves_absence());
    }

    #[tokio::test]
    async fn nonsense_is_not_a_status() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_NAME);
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"<html>").await.unwrap();
        });
        let error = fetch(&path, LONG).await.unwrap_err();
        assert!(matches!(error, FetchError::Garbled { .. }), "{error:?}");
        server.await.unwrap();
    }
}
