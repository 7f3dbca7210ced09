//! `com.cloud.agent.api.UpdateHostPasswordCommand`: set the password of a user of this host.
//!
//! The reference agent passes it as an argument, for every process to see; here it goes through the
//! input of `chpasswd`. It is never logged or shown.

use crate::commands::{Command, Ctx, Fault, NoFields, Reply, secret};
use crate::config::Secret;
use crate::host::exec::{Program, find_program};
use crate::wire::lenient;
use std::path::Path;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);
/// As useradd has it.
const LONGEST_NAME: usize = 32;
const LONGEST_PASSWORD: usize = 512;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateHostPasswordCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub username: String,
    #[serde(default = "secret::none", deserialize_with = "secret::text")]
    pub new_password: Secret,
}

impl UpdateHostPasswordCommand {
    /// One line for `chpasswd`, which takes as many as it gets: nothing in it may start another.
    fn line(&self) -> Result<String, Fault> {
        let name = self.username.as_str();
        let usable = (1..=LONGEST_NAME).contains(&name.len())
            && !name.starts_with('-')
            && name.chars().all(|c| c.is_ascii_graphic() && c != ':');
        if !usable {
            return Err(Fault::new("The user name in the command cannot be one of this host"));
        }
        let password = self.new_password.expose();
        if !(1..=LONGEST_PASSWORD).contains(&password.len()) || password.chars().any(char::is_control) {
            return Err(Fault::new("The new password is empty, too long, or has control characters"));
        }
        Ok(format!("{name}:{password}\n"))
    }
}

impl Command for UpdateHostPasswordCommand {
    type Answer = NoFields;

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let line = self.line()?;
        let Some(program) = find_program("chpasswd") else {
            return Err(Fault::new("chpasswd is not installed on this host: install the package passwd"));
        };
        change(&program, line, &self.username, DEADLINE.min(ctx.deadline)).await
    }
}

async fn change(
    program: &Path,
    line: String,
    user: &str,
    deadline: Duration,
) -> Result<Reply<NoFields>, Fault> {
    let output = Program::new(program).stdin(line).deadline(deadline).run().await?;
    if !output.success() {
        // Its own words may repeat the input, so they stay here.
        return Err(Fault::new(format!("chpasswd refused the new password of {user}: does the user exist?")));
    }
    tracing::info!(user, "Password changed");
    Ok(Reply::done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{Bench, script};
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.UpdateHostPasswordCommand";

    #[tokio::test]
    async fn the_password_goes_through_the_input() {
        let directory = tempfile::tempdir().unwrap();
        let seen = directory.path().join("seen");
        let body = format!("echo \"$#\" > {0}; cat >> {0}", seen.display());
        let program = script(directory.path(), "chpasswd", &body).await;
        let command: UpdateHostPasswordCommand =
            serde_json::from_value(json!({"username": "root", "newPassword": "a b:$(c)"})).unwrap();
        assert!(!format!("{command:?}").contains("$(c)"));
        let line = command.line().unwrap();
        assert!(change(&program, line, "root", DEADLINE).await.unwrap().result);
        assert_eq!(std::fs::read_to_string(seen).unwrap(), "0\nroot:a b:$(c)\n");
    }

    #[tokio::test]
    async fn a_refusal_does_not_repeat_the_password() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "chpasswd", "cat >&2; exit 1").await;
        let fault = change(&program, "u:canary\n".into(), "u", DEADLINE).await.unwrap_err();
        assert!(fault.text().contains('u') && !fault.text().contains("canary"), "{fault}");
    }

    #[tokio::test]
    async fn names_and_passwords_that_could_be_more_are_refused() {
        let mut bench = Bench::new().await;
        for (name, password) in [
            ("", "x"),
            ("-R", "x"),
            ("a:b", "x"),
            ("a\nroot", "x"),
            ("a b", "x"),
            ("a", ""),
            ("a", "x\nroot:y"),
        ] {
            let command = json!({"username": name, "newPassword": password, "hostIp": "10.0.0.1"});
            let (class, fields) = bench.answer(CLASS, command).await;
            assert_eq!((class.as_str(), &fields["result"]), ("com.cloud.agent.api.Answer", &json!(false)));
        }
    }
}
