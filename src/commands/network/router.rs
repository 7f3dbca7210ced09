//! Running programs in a system VM over ssh.
//!
//! The far side is a shell, and ssh joins the arguments with blanks: so each of them may consist of
//! harmless characters only, whatever its caller has checked before. Host keys are not compared:
//! system VMs make theirs anew at each start, and are reached over the link-local network.

use crate::commands::host::modify_ssh_keys::PRIVATE_KEY_FILE;
use crate::commands::{Ctx, Fault};
use crate::host::exec::{Output, Program, find_program};
use std::ffi::OsString;
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
    /// Only some commands need it.
    scp: Option<PathBuf>,
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
        let key = ctx.services.ssh_dir.join(PRIVATE_KEY_FILE);
        Ok(Router { ssh, scp: find_program("scp"), key, address: parsed })
    }

    #[cfg(test)]
    pub fn with_program(ssh: PathBuf, address: IpAddr) -> Router {
        Router { scp: Some(ssh.clone()), ssh, key: "/keys/id_rsa.cloud".into(), address }
    }

    /// Runs a program. Its exit code is the caller's business; no connection is a fault.
    pub async fn run(&self, arguments: &[&str], deadline: Duration) -> Result<Output, Fault> {
        if let Some(odd) = arguments.iter().find(|argument| !is_harmless(argument)) {
            return Err(Fault::new(format!("Argument {odd:?} is not passed to a router")));
        }
        let output = Program::new(&self.ssh)
            .args(["-p", PORT])
            .args(self.options())
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

    /// Copies files of this host into a directory there.
    pub async fn copy(&self, files: &[PathBuf], directory: &str, deadline: Duration) -> Result<(), Fault> {
        if !is_harmless(directory) {
            return Err(Fault::new(format!("Nothing is copied to {directory:?} of a router")));
        }
        let Some(scp) = self.scp.as_ref() else {
            return Err(Fault::new("scp is not installed on this host: install openssh-client"));
        };
        // By its old protocol, which needs no subsystem there; programs too old to be asked know no other.
        let mut said = String::new();
        for protocol in [&["-O"][..], &[]] {
            let copy =
                Program::new(scp).args(protocol).args(["-q", "-P", PORT]).args(self.options()).args(files);
            let target = match self.address {
                IpAddr::V4(address) => format!("root@{address}:{directory}"),
                IpAddr::V6(address) => format!("root@[{address}]:{directory}"),
            };
            let output = copy.arg(target).deadline(deadline).max_output(64 * 1024).run().await?;
            if output.success() {
                return Ok(());
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
            if !["unknown option", "illegal option"].iter().any(|words| said.contains(words)) {
                break;
            }
        }
        Err(Fault::new(format!("Cannot copy to {directory} of the router at {}: {said}", self.address)))
    }

    /// No settings of the user that the agent runs as.
    fn options(&self) -> Vec<OsString> {
        let timeout = format!("ConnectTimeout={CONNECT_TIMEOUT}");
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "LogLevel=ERROR",
            "IdentitiesOnly=yes",
            &timeout,
        ];
        let first: [OsString; 4] = ["-F".into(), "/dev/null".into(), "-i".into(), self.key.clone().into()];
        let options = options.into_iter().flat_map(|option| [OsString::from("-o"), OsString::from(option)]);
        first.into_iter().chain(options).collect()
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
    async fn files_are_copied_by_the_old_protocol_if_there_is_a_choice() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let files = [PathBuf::from("/vms/agent.zip"), PathBuf::from("/vms/patch.sh")];
        for (number, refuses) in [("1", "exit 0"), ("2", "echo scp: unknown option -- O >&2; exit 1")] {
            let body = format!("echo \"$@\" >> {}; case \"$1\" in -O) {refuses};; esac", log.display());
            let scp = script(directory.path(), &format!("scp{number}"), &body).await;
            let router = Router::with_program(scp, Ipv4Addr::new(169, 254, 1, 2).into());
            router.copy(&files, "/var/cache/cloud/", DEADLINE).await.unwrap();
        }
        let calls = std::fs::read_to_string(log).unwrap();
        let calls: Vec<&str> = calls.lines().collect();
        assert_eq!(calls.len(), 3);
        let ends = "/vms/agent.zip /vms/patch.sh root@169.254.1.2:/var/cache/cloud/";
        assert!(calls.iter().all(|call| call.ends_with(ends) && call.contains("-P 3922")), "{calls:?}");
        assert!(calls[1].starts_with("-O") && !calls[2].contains("-O"), "{calls:?}");
        let scp = script(directory.path(), "scp3", "echo No space left >&2; exit 1").await;
        let router = Router::with_program(scp, Ipv4Addr::LOCALHOST.into());
        let fault = router.copy(&files, "/var/cache/cloud/", DEADLINE).await.unwrap_err();
        assert!(fault.text().contains("No space left"), "{fault}");
        assert!(router.copy(&files, "/tmp;id", DEADLINE).await.is_err());
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
