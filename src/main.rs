//! The `agent` program: hands its arguments to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloudstack_agent::cli::parse_and_run(std::env::args_os())
}
