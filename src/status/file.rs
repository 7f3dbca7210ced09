//! The snapshot file: what the agent last knew, for the time after it died.
//!
//! Written beside and renamed over, so that a reader sees one whole document or the one before.

use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::snapshot::{SCHEMA, Status};
use super::{Board, SNAPSHOT_NAME};
use crate::service::repeat::Repeat;

/// A change is written after this pause: a reconnect is several changes within milliseconds.
const SETTLE: Duration = Duration::from_millis(250);

/// Written at least this often, so that the counters and the time of the file stay near the truth.
const PERIOD: Duration = Duration::from_secs(30);

/// Largest snapshot read back.
const MAX_SNAPSHOT: u64 = 4 * 1024 * 1024;

/// Writes `<runtime_dir>/status.json` after each change of the board and every 30 s, and once more
/// when `stop` completes. Failures are logged at growing intervals and tried again.
pub async fn keep_writing(board: Board, runtime_dir: PathBuf, stop: impl Future<Output = ()>) {
    let path = runtime_dir.join(SNAPSHOT_NAME);
    let mut changed = board.changed();
    let mut failures = Repeat::default();
    tokio::pin!(stop);
    loop {
        changed.mark_unchanged();
        match write(&path, &board.snapshot()) {
            Ok(()) => failures.reset(),
            Err(error) => {
                if let Some(times) = failures.seen() {
                    tracing::warn!(path = %path.display(), %error, times, "Cannot write the status snapshot");
                }
            }
        }
        let next = async {
            let _ = tokio::time::timeout(PERIOD, changed.changed()).await;
            tokio::time::sleep(SETTLE).await;
        };
        tokio::select! {
            () = &mut stop => break,
            () = next => {}
        }
    }
    let _ = write(&path, &board.snapshot());
}

/// Writes `status` to `path` atomically, mode 0640.
pub fn write(path: &Path, status: &Status) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let document = serde_json::to_vec(status).map_err(io::Error::other)?;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&beside)?;
    file.write_all(&document)?;
    drop(file);
    std::fs::rename(&beside, path)
}

/// Reads a snapshot back. `None` when there is none, or none that this version understands.
pub fn read(path: &Path) -> Option<Status> {
    let mut document = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_SNAPSHOT).read_to_end(&mut document).ok()?;
    let status: Status = serde_json::from_slice(&document).ok()?;
    (status.schema == SCHEMA).then_some(status)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::snapshot::{SessionSection, SessionState};
    use super::super::timestamp::Timestamp;
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SNAPSHOT_NAME);
        assert_eq!(read(&path), None);
        let status = super::super::fixtures::healthy();
        write(&path, &status).unwrap();
        assert_eq!(read(&path), Some(status));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(&path, b"{\"schema\": 1").unwrap();
        assert_eq!(read(&path), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_reaches_the_file_and_so_does_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SNAPSHOT_NAME);
        let board = Board::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let writer = tokio::spawn(keep_writing(board.clone(), dir.path().to_owned(), async {
            let _ = stopped.await;
        }));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(read(&path).unwrap().session.state, SessionState::Idle);
        board.session(SessionSection::new(SessionState::Backoff, Timestamp::now()));
        tokio::time::sleep(SETTLE * 2).await;
        assert_eq!(read(&path).unwrap().session.state, SessionState::Backoff);
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(PERIOD * 2).await;
        assert!(read(&path).is_some());
        board.session(SessionSection::new(SessionState::Stopped, Timestamp::now()));
        stop.send(()).unwrap();
        writer.await.unwrap();
        assert_eq!(read(&path).unwrap().session.state, SessionState::Stopped);
    }
}
