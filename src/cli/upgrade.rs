//! `cloudstack-agent-upgrade`: the Java agent's program that renames guest bridges of releases before
//! 4.1 (`cloudVirBr<vlan>`). Hosts without any have nothing to upgrade; others learn what to do.

use std::path::Path;

use super::out;
use crate::service::exit;

const OLD: &str = "cloudVirBr";

/// Changes nothing. The exit code tells whether there are such bridges.
pub fn run() -> u8 {
    match old_bridges(Path::new("/sys/class/net")).as_slice() {
        [] => {
            out::show("nothing to upgrade\n");
            exit::OK
        }
        bridges => {
            out::complain(&format!(
                "{} are bridges of a release before 4.1, which new guests do not use: move the guests on them to another host, then remove them (ip link delete NAME)",
                bridges.join(", ")
            ));
            exit::WARNINGS
        }
    }
}

/// Names of such bridges, sorted.
fn old_bridges(devices: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(devices).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let old = |name: &String| {
        name.strip_prefix(OLD)
            .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut bridges: Vec<String> = names.filter(old).collect();
    bridges.sort();
    bridges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bridges_named_by_a_vlan_are_old() {
        let devices = tempfile::tempdir().unwrap();
        for name in ["cloudVirBr77", "cloudVirBr5", "cloudVirBr", "cloudVirBrX", "cloudbr0", "breth0-77"] {
            std::fs::create_dir(devices.path().join(name)).unwrap();
        }
        assert_eq!(old_bridges(devices.path()), ["cloudVirBr5", "cloudVirBr77"]);
        assert!(old_bridges(&devices.path().join("absent")).is_empty());
    }
}
