//! Whether this kernel can limit the bandwidth of a guest's card. Where it cannot, a `<bandwidth>`
//! element makes libvirt refuse to start the guest.
//!
//! The question is answered by doing what libvirt does (htb with a sfq leaf one way, a policing filter
//! the other) to the loopback device of a network namespace that exists for as long as that one `tc`
//! runs. Nothing of the host is touched, and modules that the kernel loads on demand count.

use crate::host::exec::{ExecError, Output, Program, find_program};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);

const LIKE_LIBVIRT: &str = "\
qdisc add dev lo root handle 1: htb default 1
class add dev lo parent 1: classid 1:1 htb rate 1000kbps ceil 1000kbps
qdisc add dev lo parent 1:1 handle 2: sfq perturb 10
filter add dev lo parent 1:0 protocol all prio 1 handle 1 fw flowid 1
qdisc add dev lo ingress
filter add dev lo parent ffff: protocol all u32 match u32 0 0 police rate 1000kbps burst 100k mtu 64kb drop flowid :1
";

/// Whether bandwidth can be limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QdiscSupport {
    Usable,
    /// What is missing, in words for a log.
    Missing(String),
    /// It could not be tried: leave it to libvirt.
    Unknown(String),
}

impl QdiscSupport {
    /// Whether to ask libvirt for limits.
    pub fn worth_trying(&self) -> bool {
        !matches!(self, QdiscSupport::Missing(_))
    }
}

pub(super) async fn probe() -> QdiscSupport {
    let Some(tc) = find_program("tc") else {
        return QdiscSupport::Missing(
            "tc is not installed (package iproute2, or iproute-tc on RHEL)".to_owned(),
        );
    };
    let Some(unshare) = find_program("unshare") else {
        return QdiscSupport::Unknown("unshare is not installed (package util-linux)".to_owned());
    };
    let program = Program::new(unshare).args(["--net", "--"]).arg(tc).args(["-batch", "-"]);
    judge(program.stdin(LIKE_LIBVIRT).deadline(DEADLINE).max_output(64 * 1024).run().await)
}

fn judge(outcome: Result<Output, ExecError>) -> QdiscSupport {
    let output = match outcome {
        Ok(output) if output.success() => return QdiscSupport::Usable,
        Ok(output) => output,
        Err(error) => return QdiscSupport::Unknown(crate::errors::chain(&error)),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    let reason = errors.lines().next().unwrap_or("no reason given").trim();
    let line = errors.lines().find_map(|line| line.strip_prefix("Command failed -:")?.trim().parse().ok());
    match line.and_then(|line: usize| LIKE_LIBVIRT.lines().nth(line.checked_sub(1)?)) {
        Some(command) => QdiscSupport::Missing(format!(
            "`tc {command}` was refused ({reason}): install the rest of the kernel's modules and restart the agent"
        )),
        None => QdiscSupport::Unknown(reason.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, stderr: &str) -> Result<Output, ExecError> {
        Ok(Output {
            code: Some(code),
            signal: None,
            stdout: Vec::new(),
            stderr: stderr.into(),
            truncated: false,
        })
    }

    #[test]
    fn only_a_refusal_by_the_kernel_means_no() {
        assert_eq!(judge(ended(0, "")), QdiscSupport::Usable);
        let no = judge(ended(1, "Error: Specified qdisc kind is unknown.\nCommand failed -:3\n"));
        assert!(
            matches!(&no, QdiscSupport::Missing(why) if why.contains("sfq") && why.contains("kind is unknown"))
        );
        assert!(!no.worth_trying());
        let unsure = judge(ended(1, "unshare: unshare failed: Operation not permitted\n"));
        assert!(matches!(&unsure, QdiscSupport::Unknown(_)) && unsure.worth_trying(), "{unsure:?}");
    }
}
