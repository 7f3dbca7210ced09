//! Changes of devices, addresses and routes: `ip` with a list of commands on its standard input, so
//! that a list costs one process. It ends at the first command that the kernel refuses.

use super::error::NetworkError;
use crate::host::exec::{Output, Program, find_program};
use std::time::Duration;

/// The kernel answers at once; only something broken takes longer.
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_OUTPUT: usize = 64 * 1024;

/// Runs commands (without `ip`), one after the other. Their words must have been checked.
pub(super) async fn run(commands: &[String]) -> Result<(), NetworkError> {
    if commands.is_empty() {
        return Ok(());
    }
    let ip = find_program("ip")
        .ok_or(NetworkError::NoProgram { name: "ip", package: "iproute2 (iproute on RHEL)" })?;
    let mut input = commands.join("\n");
    input.push('\n');
    let program =
        Program::new(&ip).args(["-batch", "-"]).stdin(input).deadline(DEADLINE).max_output(MAX_OUTPUT);
    let output = program
        .run()
        .await
        .map_err(|source| NetworkError::Run { program: ip.display().to_string(), source })?;
    if output.success() { Ok(()) } else { Err(refused(commands, &output)) }
}

/// ip writes the reason, and after it `Command failed -:LINE`.
fn refused(commands: &[String], output: &Output) -> NetworkError {
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = errors.lines().find_map(|line| line.strip_prefix("Command failed -:")?.trim().parse().ok());
    let command = line.and_then(|line: usize| commands.get(line.checked_sub(1)?));
    let reasons: Vec<&str> = errors.lines().filter(|line| !line.starts_with("Command failed")).collect();
    let text = reasons.join(" ").trim().to_owned();
    NetworkError::Refused {
        command: command.cloned().unwrap_or_else(|| commands.join("; ")),
        text: if text.is_empty() { "no reason given".to_owned() } else { text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_command_is_named() {
        let output = |stderr: &str| Output {
            code: Some(1),
            signal: None,
            stdout: Vec::new(),
            stderr: stderr.into(),
            truncated: false,
        };
        let commands = ["link add a type bridge".to_owned(), "link set dev a up".to_owned()];
        let told =
            refused(&commands, &output("Error: Unknown device type.\nCommand failed -:2\n")).to_string();
        assert_eq!(told, "`ip link set dev a up` was refused: Error: Unknown device type.");
        let untold = refused(&commands, &output("")).to_string();
        assert!(untold.contains("link add a type bridge; link set dev a up"), "{untold}");
        let odd = refused(&commands, &output("x\nCommand failed -:9\n")).to_string();
        assert!(odd.contains("refused: x"), "{odd}");
    }
}
