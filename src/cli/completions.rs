//! `agent completions SHELL`.

use clap_complete::Shell;

use super::out;
use crate::service::exit;

/// Prints the completion script of `grammar`, called by `name`, for `shell` and returns the exit code.
pub fn show(shell: Shell, mut grammar: clap::Command, name: &str) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut grammar, name, &mut script);
    out::show(&String::from_utf8_lossy(&script));
    exit::OK
}
