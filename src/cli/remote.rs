//! `cloudstack-ssh` and `cloudstack-guest-tool`: from a host into what runs on it.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

use super::out::{self, JsonLayout};
use super::setup::RootArg;
use crate::errors::chain;
use crate::host::exec::{Program, find_program};
use crate::service::exit;
use crate::setup::guest::{self, Question};

/// The key that the management server gives every host for its system VMs.
const KEY: &str = "/root/.ssh/id_rsa.cloud";
const PORT: &str = "3922";

#[derive(Debug, Args)]
pub struct SshArgs {
    /// Address of the system VM
    address: String,
    /// Command to run there instead of a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes ssh; returns an exit code only if that fails.
pub fn ssh(args: SshArgs) -> u8 {
    let Some(ssh) = find_program("ssh") else {
        out::complain("ssh is not installed: apt install openssh-client");
        return exit::FAILURE;
    };
    if args.address.is_empty() || args.address.starts_with('-') {
        out::complain(&format!("{:?} is no address of a system VM", args.address));
        return exit::USAGE;
    }
    let error = Program::new(ssh).args(ssh_arguments(&args)).become_it();
    out::complain(&chain(&error));
    exit::FAILURE
}

fn ssh_arguments(args: &SshArgs) -> Vec<OsString> {
    // Every system VM comes with a new host key, on link-local addresses that are used again and again.
    let options =
        ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"];
    let mut arguments: Vec<OsString> = ["-i", KEY, "-p", PORT].map(OsString::from).to_vec();
    arguments.extend(options.map(OsString::from));
    arguments.push(format!("root@{}", args.address).into());
    arguments.extend(args.command.iter().cloned());
    arguments
}

#[derive(Debug, Args)]
pub struct GuestArgs {
    #[command(flatten)]
    root: RootArg,
    /// Name of the guest, such as i-2-3-VM
    instance: String,
    /// What to ask
    #[arg(long, value_enum, default_value = "info")]
    command: GuestCommand,
    /// Seconds that the guest may take
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GuestCommand {
    /// File systems and network interfaces
    Info,
    /// Does the guest agent answer
    Ping,
    /// Give unused blocks back
    Fstrim,
}

/// Prints the answer as JSON and returns the exit code.
pub async fn ask_guest(args: GuestArgs) -> u8 {
    let question = match args.command {
        GuestCommand::Info => Question::Info,
        GuestCommand::Ping => Question::Ping,
        GuestCommand::Fstrim => Question::Fstrim,
    };
    let (answer, code) = guest::ask(&args.root.root(), &args.instance, question, args.timeout).await;
    out::show_json(&answer, JsonLayout::OneLine);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_gets_key_port_and_command() {
        let args = SshArgs { address: "169.254.1.2".to_owned(), command: vec!["uptime".into()] };
        let words = ssh_arguments(&args);
        let text: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(&text[..4], ["-i", "/root/.ssh/id_rsa.cloud", "-p", "3922"]);
        assert_eq!(&text[text.len() - 2..], ["root@169.254.1.2", "uptime"]);
        assert_eq!(ssh(SshArgs { address: "-oProxyCommand=x".to_owned(), command: Vec::new() }), 64);
    }
}
