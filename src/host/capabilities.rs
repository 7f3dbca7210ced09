//! What this node can do beyond running guests: encrypt volumes, convert foreign guests, boot with
//! UEFI. Each question is a program to run, some of them slow, so they are asked once in the
//! background; until then the answer is no. Mirrors `hostSupportsVolumeEncryption`,
//! `hostSupportsInstanceConversion` and `isUefiPropertiesFileLoaded` of `LibvirtComputingResource`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::exec::{Output, Program, find_program};

const DEADLINE: Duration = Duration::from_secs(20);
/// Package lists can be long.
const MAX_OUTPUT: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CapabilityFacts {
    /// `host.volume.encryption`: qemu-img knows LUKS and cryptsetup works.
    pub volume_encryption: bool,
    /// `host.instance.conversion`: virt-v2v works, and nbdkit is there where it is a package apart.
    pub instance_conversion: bool,
    /// Only with `instance_conversion`.
    pub virtv2v_version: Option<String>,
    pub ovftool_version: Option<String>,
    /// `host.uefi.enable`: OVMF is installed and uefi.properties names firmware.
    pub uefi: bool,
}

/// Handle to the answers.
#[derive(Debug, Clone)]
pub struct Capabilities {
    facts: watch::Receiver<Option<CapabilityFacts>>,
}

impl Capabilities {
    /// Starts asking and returns at once.
    pub fn spawn(uefi_properties: PathBuf) -> Self {
        let (sender, facts) = watch::channel(None);
        tokio::spawn(async move {
            let found = probe(&uefi_properties).await;
            tracing::debug!(?found, "Capabilities of the node are known");
            sender.send_replace(Some(found));
            // Without readers left the answers are of no use.
            sender.closed().await;
        });
        Self { facts }
    }

    /// The answers so far: all no until the probes have ended.
    pub fn current(&self) -> CapabilityFacts {
        self.facts.borrow().clone().unwrap_or_default()
    }

    /// The answers, once the probes have ended.
    pub async fn known(&self) -> CapabilityFacts {
        let mut facts = self.facts.clone();
        facts.wait_for(Option::is_some).await.ok().and_then(|facts| facts.clone()).unwrap_or_default()
    }
}

async fn probe(uefi_properties: &Path) -> CapabilityFacts {
    let (luks, cryptsetup, v2v, ovftool, ovmf) = tokio::join!(
        run("qemu-img", &["--help"]),
        run("cryptsetup", &["--version"]),
        run("virt-v2v", &["--version"]),
        run("ovftool", &["--version"]),
        has_ovmf(),
    );
    let v2v = v2v.filter(Output::success);
    let instance_conversion = v2v.is_some() && has_nbdkit().await;
    CapabilityFacts {
        volume_encryption: luks.is_some_and(|output| knows_luks(&output.text()))
            && cryptsetup.is_some_and(|output| output.success()),
        instance_conversion,
        virtv2v_version: v2v.filter(|_| instance_conversion).and_then(|output| v2v_version(&output.text())),
        ovftool_version: ovftool
            .filter(Output::success)
            .and_then(|output| output.text().split_whitespace().nth(2).map(str::to_owned)),
        uefi: ovmf && names_firmware(&std::fs::read_to_string(uefi_properties).unwrap_or_default()),
    }
}

/// `None` if the program is not installed or gives no answer.
async fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let path = find_program(program)?;
    let run = Program::new(path).args(arguments).deadline(DEADLINE).max_output(MAX_OUTPUT).run();
    run.await.inspect_err(|error| tracing::debug!(%error, "A capability probe failed")).ok()
}

async fn has_debian_package(name: &str) -> Option<bool> {
    let output = run("dpkg-query", &["-W", "-f", "${db:Status-Status}", name]).await?;
    Some(output.success() && output.text() == "installed")
}

/// Whether the drivers are there that converted Windows guests need.
pub async fn has_windows_drivers() -> bool {
    has_package("virtio-win").await
}

async fn has_ovmf() -> bool {
    has_package("ovmf").await
}

/// By the exact name in Debian's family, by a part of it in RPM's.
async fn has_package(name: &str) -> bool {
    if has_debian_package(name).await == Some(true) {
        return true;
    }
    let packages = run("rpm", &["-qa"]).await.map(|output| output.text().to_ascii_lowercase());
    packages.is_some_and(|packages| packages.contains(name))
}

/// Where packages are not Debian's, virt-v2v brings nbdkit along.
async fn has_nbdkit() -> bool {
    has_debian_package("nbdkit").await.unwrap_or(true)
}

fn knows_luks(help: &str) -> bool {
    let formats = help.lines().find_map(|line| line.strip_prefix("Supported formats:"));
    formats.is_some_and(|formats| formats.split_whitespace().any(|format| format == "luks"))
}

/// "virt-v2v 2.2.0rhel=9,release=1" is "2.2.0rhel=9".
fn v2v_version(text: &str) -> Option<String> {
    let word = text.split_whitespace().nth(1)?;
    word.split(',').next().filter(|version| !version.is_empty()).map(str::to_owned)
}

fn names_firmware(properties: &str) -> bool {
    properties.lines().map(str::trim).any(|line| {
        let comment = line.starts_with(['#', '!']);
        !comment && line.split_once(['=', ':']).is_some_and(|(_, value)| !value.trim().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luks_counts_as_a_format_of_its_own() {
        assert!(knows_luks("usage\nSupported formats: blkdebug luks qcow2 raw\n"));
        assert!(!knows_luks("Supported formats: luksoid qcow2\nluks\n"));
        assert!(!knows_luks(""));
    }

    #[test]
    fn versions_end_at_the_first_comma() {
        assert_eq!(v2v_version("virt-v2v 2.2.0rhel=9,release=1.el9\n").as_deref(), Some("2.2.0rhel=9"));
        assert_eq!(v2v_version("virt-v2v 1.44.2\n").as_deref(), Some("1.44.2"));
        assert_eq!(v2v_version("virt-v2v"), None);
    }

    #[test]
    fn firmware_must_be_named_outside_comments() {
        assert!(names_firmware("# x=y\nguest.loader.legacy=/usr/share/OVMF/OVMF_CODE_4M.fd\n"));
        assert!(!names_firmware("#guest.loader.legacy=/x\n\nguest.loader.secure=\n"));
        assert!(!names_firmware(""));
    }

    #[tokio::test]
    async fn the_answers_come_after_the_handle() {
        let capabilities = Capabilities::spawn("/no/such/uefi.properties".into());
        assert_eq!(capabilities.current(), CapabilityFacts::default());
        let known = capabilities.known().await;
        assert!(!known.uefi, "there is no uefi.properties");
        assert_eq!(capabilities.current(), known);
        assert_eq!(known.instance_conversion, known.virtv2v_version.is_some());
    }
}
