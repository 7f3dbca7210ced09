//! Running programs in a system VM over ssh.
//!
//! The far side is a shell, and ssh joins the arguments with blanks: so each of them may consist of
//! harmless characters only, whatever its caller has checked before. Host keys are not compared:
//! system VMs make theirs anew at each start, and are reached over the link-local network.

use crate::commands::host::modify_ssh_keys::PRIVATE_KEY_FILE;
use crate::commands::{Ctx, Fault};
use crate::host::exec::{Output, Program, find_program};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Port of sshd in system VMs.
const PORT: &str = "3922";
/// Seconds until a system VM that does not answer is given up.
const CONNECT_TIMEOUT: &str = "5";
/// Exit code of ssh itself when it gets no connection.
const NO_CONNECTION: i32 = 255;

/// The way into one system VM.
#[derive(Debug, Clone)]
pub struct Router {
    ssh: PathBuf,
    key: PathBuf,
    address: IpAddr,
}

impl Router {
    /// `address` as it came from the wire.
    pub fn at(ctx: &Ctx, address: &str) -> Result<Router, Fault> {
        let Ok(parsed) = address.parse() else {
            let shown: String = address.chars().take(60).collect();
            return Err(Fault::new(format!("The router's address {shown:?} is not an IP address")));
        };
        let Some(ssh) = find_program("ssh") else {
            return Err(Fault::new("ssh is not installed on this host: install openssh-client"));
        };
        Ok(Router { ssh, key: ctx.services.ssh_dir.join(PRIVATE_KEY_FILE), address: parsed })
    }

    #[cfg(test)]
    pub fn with_program(ssh: PathBuf, address: IpAddr) -> Router {
        Router { ssh, key: "/keys/id_rsa.cloud".into(), address }
    }

    /// Runs a program. Its exit code is the caller's business; no connection is a fault.
    pub async fn run(&self, arguments: &[&str], deadline: Duration) -> Result<Output, Fault> {
        if let Some(odd) = arguments.iter().find(|argument| !is_harmless(argument)) {
            return Err(Fault::new(format!("Argument {odd:?} is not passed to a router")));
        }
        let options =
            ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"];
        let output = Program::new(&self.ssh)
            // No settings of the user that the agent runs as.
            .args(["-F", "/dev/null", "-p", PORT, "-i"])
            .arg(&self.key)
            .args(options.iter().flat_map(|option| ["-o", option]))
            .args(["-o", "IdentitiesOnly=yes", "-o", &format!("ConnectTimeout={CONNECT_TIMEOUT}")])
            .arg(format!("root@{}", self.address))
            .arg("--")
            .args(arguments)
            .deadline(deadline)
            .max_output(64 * 1024)
            .run()
            .await?;
        if output.code == Some(NO_CONNECTION) {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Fault::new(format!("Cannot reach the router at {}: {reason}", self.address)));
        }
        Ok(output)
    }
}

fn is_harmless(argument: &str) -> bool {
    !argument.is_empty() && argument.chars().all(|c| c.is_ascii_alphanumeric() || "/._:-,@%".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{Bench, script};
    use std::net::Ipv4Addr;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_router_is_reached_by_key_on_its_own_port() {
        let directory = tempfile::tempdir().unwrap();
        let ssh = script(directory.path(), "ssh", r#"for a in "$@"; do echo "$a"; done"#).await;
        let router = Router::with_program(ssh, Ipv4Addr::new(169, 254, 1, 2).into());
        let output = router.run(&["/opt/cloud/bin/netusage.sh", "-g"], DEADLINE).await.unwrap();
        let arguments = output.text();
        let arguments: Vec<_> = arguments.lines().collect();
        assert!(arguments.windows(2).any(|pair| pair == ["-p", "3922"]));
        assert!(arguments.windows(2).any(|pair| pair == ["-i", "/keys/id_rsa.cloud"]));
        assert!(arguments.ends_with(&["root@169.254.1.2", "--", "/opt/cloud/bin/netusage.sh", "-g"]));
    }

    #[tokio::test]
    async fn a_router_that_cannot_be_reached_is_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let ssh = script(directory.path(), "ssh", "echo Connection refused >&2; exit 255").await;
        let router = Router::with_program(ssh, Ipv4Addr::LOCALHOST.into());
        let fault = router.run(&["true"], DEADLINE).await.unwrap_err();
        assert!(fault.text().contains("127.0.0.1: Connection refused"), "{fault}");
    }

    #[tokio::test]
    async fn nothing_that_a_shell_would_interpret_gets_through() {
        let directory = tempfile::tempdir().unwrap();
        let ran = directory.path().join("ran");
        let ssh = script(directory.path(), "ssh", &format!("touch {}", ran.display())).await;
        let router = Router::with_program(ssh, Ipv4Addr::LOCALHOST.into());
        for odd in ["", "a b", "$(id)", "a;b", "`id`", "a|b", "a\nb", "a>b", "~", "*", "'"] {
            assert!(router.run(&["echo", odd], DEADLINE).await.is_err(), "{odd:?}");
        }
        assert!(!ran.exists());
        let bench = Bench::new().await;
        assert!(Router::at(&bench.ctx, "10.0.0.1 -oProxyCommand=x").is_err());
        assert!(Router::at(&bench.ctx, "-oProxyCommand=x").is_err());
    }
}
