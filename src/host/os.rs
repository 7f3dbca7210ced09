//! Operating system facts. `name` and `version` are compared by the server among the hosts of a
//! cluster, so they must be exactly what `versions.sh` of the Java agent prints.

use std::path::Path;

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OsFacts {
    /// `Host.OS`, such as "Ubuntu", "Debian GNU/Linux" or "Rocky Linux".
    pub name: String,
    /// `Host.OS.Version`, such as "22.04".
    pub version: String,
    /// `Host.OS.Kernel.Version`: `uname -r`.
    pub kernel: String,
}

/// Blank fields mean that the release files do not say.
pub fn os(root: &Path) -> OsFacts {
    let (name, version) = distribution(root).unwrap_or_default();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    OsFacts { name, version, kernel }
}

fn distribution(root: &Path) -> Option<(String, String)> {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).ok();
    if let Some(text) = read("etc/redhat-release") {
        return Some(redhat(&text));
    }
    let pairs = |text: &str, name: &str, version: &str| {
        (value_of(text, name).unwrap_or_default(), value_of(text, version).unwrap_or_default())
    };
    if let Some(text) = read("etc/lsb-release") {
        return Some(pairs(&text, "DISTRIB_ID", "DISTRIB_RELEASE"));
    }
    read("etc/os-release").map(|text| pairs(&text, "NAME", "VERSION_ID"))
}

/// "Rocky Linux release 9.3 (Blue Onyx)" is "Rocky Linux", "9.3".
fn redhat(text: &str) -> (String, String) {
    let line = text.lines().next().unwrap_or_default();
    let (name, rest) = line.split_once("release").unwrap_or((line, ""));
    let version = rest.split_whitespace().next().unwrap_or_default();
    (collapse(name), version.to_owned())
}

/// The value of a shell-style `KEY=value` line, unquoted; the last one counts, as in a shell.
fn value_of(text: &str, key: &str) -> Option<String> {
    let value = text.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    Some(collapse(value.trim().trim_matches(['"', '\''])))
}

/// Runs of blanks become one, as when a shell prints an unquoted variable.
fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The node name of the kernel, as `hostname` prints it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Machine name as `arch` prints it: "x86_64", "aarch64".
pub fn arch() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// iSCSI initiator name, if the node has one.
pub fn iqn(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("etc/iscsi/initiatorname.iscsi")).ok()?;
    let name = text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="))?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn named(files: &[(&str, &str)]) -> (String, String) {
        let facts = os(root(files).path());
        (facts.name, facts.version)
    }

    fn pair(name: &str, version: &str) -> (String, String) {
        (name.to_owned(), version.to_owned())
    }

    const OS_RELEASE: (&str, &str) = (
        "etc/os-release",
        "PRETTY_NAME=\"Debian 12\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\n",
    );
    const LSB: (&str, &str) =
        ("etc/lsb-release", "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=22.04\nDISTRIB_CODENAME=jammy\n");

    #[test]
    fn release_files_are_asked_in_order() {
        assert_eq!(named(&[]), pair("", ""));
        assert_eq!(named(&[OS_RELEASE]), pair("Debian GNU/Linux", "12"));
        assert_eq!(named(&[OS_RELEASE, LSB]), pair("Ubuntu", "22.04"));
        let redhat = ("etc/redhat-release", "Rocky Linux release 9.3 (Blue Onyx)\n");
        assert_eq!(named(&[OS_RELEASE, LSB, redhat]), pair("Rocky Linux", "9.3"));
    }

    #[test]
    fn odd_release_files_do_no_harm() {
        assert_eq!(named(&[("etc/redhat-release", "")]), pair("", ""));
        assert_eq!(named(&[("etc/redhat-release", "Fedora")]), pair("Fedora", ""));
        assert_eq!(named(&[("etc/os-release", "NAME='A   B'\n")]), pair("A B", ""));
    }

    #[test]
    fn the_kernel_tells_its_release_and_machine() {
        let running = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(os(Path::new("/")).kernel, running.trim());
        assert_eq!(arch(), std::env::consts::ARCH);
        assert_eq!(hostname(), std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    }

    #[test]
    fn the_initiator_name_is_read_past_comments() {
        let text = "## DO NOT EDIT\nInitiatorName=iqn.1993-08.org.debian:01:abcdef \n";
        let with = root(&[("etc/iscsi/initiatorname.iscsi", text)]);
        assert_eq!(iqn(with.path()).as_deref(), Some("iqn.1993-08.org.debian:01:abcdef"));
        assert_eq!(iqn(root(&[]).path()), None);
    }
}
