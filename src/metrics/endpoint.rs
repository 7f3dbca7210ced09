//! Where pages are served: a unix socket in the runtime directory, for whoever may open the file, and
//! the TCP address of `metrics.listen`, for whoever reaches it. Neither can hold up or end the agent.

use super::{SOCKET_NAME, Source, http};
use crate::config::{ConfigStore, FileState};
use crate::service::repeat::Repeat;
use crate::status::checks::Check;
use std::fs::Permissions;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

/// Clients served at once on each of the two; others are closed at once.
pub const MAX_CLIENTS: usize = 8;

/// Pause after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Until an address that cannot be had is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(30);

/// The name under which a TCP address that cannot be had is shown by `--status`.
const CHECK: &str = "metrics";

/// Serves pages until it is dropped, which also removes the socket. The caller holds the lock of the
/// runtime directory. Needs a tokio runtime.
pub async fn serve(runtime_dir: PathBuf, source: Source, config: ConfigStore) {
    tokio::join!(on_socket(runtime_dir.join(SOCKET_NAME), source.clone()), on_address(source, config));
}

/// Removes the socket when nobody listens on it any more.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn on_socket(path: PathBuf, source: Source) {
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "Metrics cannot be served on {}", path.display());
            return;
        }
    };
    let _file = SocketFile(path);
    accept(|context| listener.poll_accept(context).map_ok(|(stream, _)| stream), source).await;
}

/// The lock of the runtime directory is held, so a file that is there is a leftover.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Follows the configuration: another address takes the place of the old one at once.
async fn on_address(source: Source, config: ConfigStore) {
    let mut file = config.subscribe();
    let mut wanted = None;
    loop {
        // A file that cannot be read changes nothing.
        if let FileState::Loaded(config) = &**file.borrow_and_update() {
            wanted = config.metrics_listen();
        }
        let listening = async {
            match wanted {
                Some(address) => listen(address, &source).await,
                None => {
                    source.board.checks(CHECK, Vec::new());
                    std::future::pending().await
                }
            }
        };
        let news = |state: &Arc<FileState>| match &**state {
            FileState::Loaded(config) => config.metrics_listen() != wanted,
            FileState::Missing { .. } | FileState::Invalid { .. } => false,
        };
        tokio::select! {
            () = listening => {}
            changed = file.wait_for(news) => if changed.is_err() { return },
        }
    }
}

async fn listen(address: SocketAddr, source: &Source) {
    let mut failures = Repeat::default();
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                if let Some(times) = failures.seen() {
                    tracing::warn!(%error, times, "Metrics cannot be served on {address}");
                }
                let summary = format!("metrics cannot be served on {address}: {error}");
                let remedy = "correct metrics.listen in agent.properties";
                source.board.checks(CHECK, vec![Check::warn(CHECK, summary, remedy)]);
                tokio::time::sleep(BIND_PAUSE).await;
            }
        }
    };
    tracing::info!("Metrics are served on http://{address}/metrics");
    source.board.checks(CHECK, Vec::new());
    accept(|context| listener.poll_accept(context).map_ok(|(stream, _)| stream), source.clone()).await;
}

async fn accept<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut next: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    source: Source,
) {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(stream) = poll_fn(&mut next).await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let source = source.clone();
        tokio::spawn(async move {
            let _slot = slot;
            http::serve(stream, source).await;
        });
    }
}

#[cfg(test)]
mod tests;
