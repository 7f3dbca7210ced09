//! The operator's own programs at turns of a guest's life, in `agent.hooks.basedir`: one may change the
//! XML that a guest starts from, others hear of starts and stops. Mirrors the shell hooks of
//! `LibvirtComputingResource`; hooks in Groovy need a Java machine and are only named in the log.
//!
//! A hook is called with the name of a method and one value. What fails in it never fails the guest.

use crate::config::Config;
use crate::host::exec::{Output, Program, is_executable};
use crate::hypervisor::xml;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);
/// Far more than any domain has.
const MAX_OUTPUT: usize = 1024 * 1024;

/// Turns at which a hook is called, by the middle of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Transform,
    Start,
    Stop,
}

impl Turn {
    fn key(self, end: &str) -> String {
        let middle = match self {
            Turn::Transform => "libvirt_vm_xml_transformer",
            Turn::Start => "libvirt_vm_on_start",
            Turn::Stop => "libvirt_vm_on_stop",
        };
        format!("agent.hooks.{middle}.{end}")
    }
}

/// The XML as the hook wants it; as it was without a hook, or with one that fails or gives no domain of
/// that name.
pub(in crate::commands) async fn transform(config: &Config, guest: &str, domain: String) -> String {
    let Some(hook) = find(config, Turn::Transform, guest) else { return domain };
    let Some(output) = run(config, Turn::Transform, &hook, guest, &domain).await else { return domain };
    let text = output.text();
    if text.trim().is_empty() {
        return domain;
    }
    let same = !output.truncated && xml::domain(&text).is_ok_and(|domain| domain.name == guest);
    if same {
        tracing::info!(guest, hook = %hook.display(), "The XML of the guest is the hook's");
        return text;
    }
    tracing::warn!(guest, hook = %hook.display(), "The hook did not print the XML of this guest: it is not used");
    domain
}

pub(in crate::commands) async fn started(config: &Config, guest: &str) {
    tell(config, Turn::Start, guest).await;
}

pub(in crate::commands) async fn stopped(config: &Config, guest: &str) {
    tell(config, Turn::Stop, guest).await;
}

async fn tell(config: &Config, turn: Turn, guest: &str) {
    if let Some(hook) = find(config, turn, guest) {
        run(config, turn, &hook, guest, guest).await;
    }
}

/// The hook that is installed for a turn.
fn find(config: &Config, turn: Turn, guest: &str) -> Option<PathBuf> {
    let base = Path::new(config.text("agent.hooks.basedir")?);
    let named = |end: &str| config.text(&turn.key(end)).map(|name| base.join(name));
    if let Some(groovy) = named("script").filter(|path| path.exists()) {
        tracing::warn!(guest, hook = %groovy.display(), "This agent does not run hooks in Groovy: write it as a shell hook");
    }
    let hook = named("shell_script").filter(|path| path.is_absolute() && path.exists())?;
    if is_executable(&hook) {
        return Some(hook);
    }
    tracing::warn!(guest, hook = %hook.display(), "The hook is not executable and is not run: chmod +x it");
    None
}

async fn run(config: &Config, turn: Turn, hook: &Path, guest: &str, value: &str) -> Option<Output> {
    let method = config.text(&turn.key("method")).unwrap_or_default();
    let program = Program::new(hook).args([method, value]).deadline(DEADLINE).max_output(MAX_OUTPUT);
    match program.run().await {
        Ok(output) if output.success() => Some(output),
        Ok(output) => {
            let code = output.code;
            tracing::warn!(guest, hook = %hook.display(), method, code, "The hook failed and is passed over");
            None
        }
        Err(error) => {
            let reason = crate::errors::chain(&error);
            tracing::warn!(guest, hook = %hook.display(), method, "The hook is passed over: {reason}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{Bench, script};

    const XML: &str = "<domain type='qemu'><name>i-2-3-VM</name></domain>";

    async fn host() -> (Bench, PathBuf) {
        let hooks = tempfile::tempdir().unwrap().keep();
        let bench = Bench::with_properties(&format!("agent.hooks.basedir={}\n", hooks.display())).await;
        (bench, hooks)
    }

    #[tokio::test]
    async fn a_hook_changes_the_xml() {
        let (bench, hooks) = host().await;
        let config = bench.config();
        assert_eq!(transform(&config, "i-2-3-VM", XML.into()).await, XML);
        let body = r#"test "$1" = transform && echo "$2" | sed s/qemu/kvm/"#;
        script(&hooks, "libvirt-vm-xml-transformer.sh", body).await;
        let changed = transform(&config, "i-2-3-VM", XML.into()).await;
        assert_eq!(changed.trim(), XML.replace("qemu", "kvm"));
        std::fs::remove_dir_all(hooks).unwrap();
    }

    #[tokio::test]
    async fn what_is_no_domain_of_that_name_is_not_used() {
        let (bench, hooks) = host().await;
        let config = bench.config();
        for body in [
            "exit 3",
            "true",
            "echo '<domain><name>other</name></domain>'",
            "echo '<domain><name>i-2-3-VM</name>'",
            "echo nonsense",
            "kill -9 $$",
        ] {
            script(&hooks, "libvirt-vm-xml-transformer.sh", body).await;
            assert_eq!(transform(&config, "i-2-3-VM", XML.into()).await, XML, "{body}");
            std::fs::remove_file(hooks.join("libvirt-vm-xml-transformer.sh")).unwrap();
        }
        std::fs::remove_dir_all(hooks).unwrap();
    }

    #[tokio::test]
    async fn starts_and_stops_are_told() {
        let (bench, hooks) = host().await;
        let config = bench.config();
        let log = hooks.join("log");
        script(&hooks, "libvirt-vm-state-change.sh", &format!(r#"echo "$@" >> {}"#, log.display())).await;
        started(&config, "i-2-3-VM").await;
        stopped(&config, "i-2-3-VM").await;
        assert_eq!(std::fs::read_to_string(log).unwrap(), "onStart i-2-3-VM\nonStop i-2-3-VM\n");
        std::fs::remove_dir_all(hooks).unwrap();
    }
}
