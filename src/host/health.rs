//! The operator's own health check, `agent.health.check.script.path`. Mirrors
//! `LibvirtComputingResource.getHostHealthCheckResult`: the server may put a host that says 1 into
//! another state, so anything unclear is no opinion.

use std::path::Path;
use std::time::Duration;

use super::exec::{Program, is_executable};

/// `agent.health.check.script.timeout` has no default of its own; the ping must not wait longer.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Exit code 0 is `Some(true)`, 1 is `Some(false)`; anything else, a script that cannot run or one
/// that takes longer than `deadline` is `None`.
pub async fn check(script: &Path, deadline: Duration) -> Option<bool> {
    if !script.is_absolute() || !is_executable(script) {
        tracing::debug!(script = %script.display(), "The health check script is not an executable file");
        return None;
    }
    match Program::new(script).deadline(deadline).max_output(64 * 1024).run().await {
        Ok(output) => match output.code {
            Some(0) => Some(true),
            Some(1) => Some(false),
            _ => None,
        },
        Err(error) => {
            tracing::debug!(%error, "The health check script gave no result");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn result_of(body: &str, mode: u32, deadline: Duration) -> Option<bool> {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("check.sh");
        std::fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(mode)).unwrap();
        // Another test thread may hold the file open for writing across its fork for a moment.
        for _ in 0..50 {
            match check(&script, deadline).await {
                None if body.starts_with("exit") && mode & 0o111 != 0 && !body.ends_with('7') => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                result => return result,
            }
        }
        None
    }

    #[tokio::test]
    async fn the_exit_code_is_the_opinion() {
        assert_eq!(result_of("exit 0", 0o755, DEADLINE).await, Some(true));
        assert_eq!(result_of("exit 1", 0o755, DEADLINE).await, Some(false));
        assert_eq!(result_of("exit 7", 0o755, DEADLINE).await, None);
    }

    #[tokio::test]
    async fn a_script_that_cannot_run_or_hangs_has_no_opinion() {
        assert_eq!(result_of("exit 1", 0o644, DEADLINE).await, None);
        assert_eq!(result_of("sleep 600", 0o755, Duration::from_millis(50)).await, None);
        assert_eq!(check(Path::new("/no/such/script"), DEADLINE).await, None);
        assert_eq!(check(Path::new("relative.sh"), DEADLINE).await, None);
    }
}
