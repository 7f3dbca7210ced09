//! `org.apache.cloudstack.ca.PostCertificateRenewalCommand`: let libvirt take over the new
//! certificate.
//!
//! Not sent by servers so far; the reference agent runs it itself and restarts libvirtd. Here
//! libvirtd is told to read its files again, which no guest and no migration notices.

use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply};
use crate::host::exec::{Program, find_program};
use std::path::Path;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, serde::Deserialize)]
pub struct PostCertificateRenewalCommand {}

impl Command for PostCertificateRenewalCommand {
    type Answer = NoFields;
    const ANSWER: &'static str = "org.apache.cloudstack.ca.SetupCertificateAnswer";

    fn claims(&self) -> Claims {
        Key::Certificate.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        match find_program("virt-admin") {
            Some(program) => update_tls(&program, DEADLINE.min(ctx.deadline)).await,
            // libvirtd then serves the old certificate until it is restarted; nothing depends on it.
            None => {
                Ok(Reply::done().details("virt-admin is not installed: restart libvirtd at your convenience"))
            }
        }
    }
}

async fn update_tls(program: &Path, deadline: Duration) -> Result<Reply<NoFields>, Fault> {
    let output =
        Program::new(program).args(["server-update-tls", "libvirtd"]).deadline(deadline).run().await?;
    if output.success() {
        tracing::info!("libvirtd has read its certificate again");
        return Ok(Reply::done());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Fault::new(format!("libvirtd did not read its certificate again, restart it: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{Bench, script};
    use serde_json::json;

    #[tokio::test]
    async fn libvirtd_is_told_and_a_refusal_is_passed_on() {
        let directory = tempfile::tempdir().unwrap();
        let good = script(directory.path(), "good", r#"[ "$*" = "server-update-tls libvirtd" ]"#).await;
        assert!(update_tls(&good, DEADLINE).await.unwrap().result);
        let bad = script(directory.path(), "bad", "echo no such server >&2; exit 1").await;
        let fault = update_tls(&bad, DEADLINE).await.unwrap_err();
        assert!(fault.text().contains("no such server"), "{fault}");
    }

    #[tokio::test]
    async fn the_answer_has_its_class_whatever_is_installed() {
        let class = "org.apache.cloudstack.ca.PostCertificateRenewalCommand";
        let (class, fields) = Bench::new().await.answer(class, json!({})).await;
        assert_eq!(class, "org.apache.cloudstack.ca.SetupCertificateAnswer");
        assert!(
            fields["result"].as_bool().unwrap() || fields["details"].as_str().unwrap().contains("libvirtd")
        );
    }
}
