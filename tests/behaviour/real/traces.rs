//! What a host has of guests: taken before and after, the difference is debris.

use super::cage::Cage;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    domains: Vec<String>,
    pools: Vec<String>,
    secrets: Vec<String>,
    files: Vec<String>,
    links: Vec<String>,
    mounts: Vec<String>,
    processes: Vec<String>,
}

impl Traces {
    /// Of the guests whose names are `ours`, since others may come and go; files are those below
    /// `directories`, as this process sees them.
    pub async fn of(cage: &Cage, ours: impl Fn(&str) -> bool, directories: &[PathBuf]) -> Traces {
        let mut domains = lines(&cage.virsh(&["list", "--all", "--name"]).await);
        domains.retain(|name| ours(name));
        let links = cage.run(&["ip", "-br", "link"]).await.unwrap();
        let links = links.lines().filter_map(|line| line.split_whitespace().next());
        // Taps are of guests of other tests; the control network is the host's.
        let links = links.filter(|link| !link.starts_with("tap") && *link != "cloud0");
        let mut processes = lines(&cage.run(&["ps", "-eo", "comm="]).await.unwrap());
        processes.retain(|line| line.starts_with("qemu-img") || line.starts_with("dnsmasq"));
        let mut files = Vec::new();
        directories.iter().for_each(|directory| walk(directory, &mut files));
        files.sort();
        Traces {
            domains,
            pools: lines(&cage.virsh(&["pool-list", "--all", "--name"]).await),
            secrets: lines(&cage.virsh(&["secret-list"]).await),
            files,
            links: lines(&links.collect::<Vec<_>>().join("\n")),
            mounts: lines(&cage.run(&["cat", "/proc/self/mounts"]).await.unwrap()),
            processes,
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines
}

fn walk(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), found);
        } else {
            found.push(entry.path().display().to_string());
        }
    }
}
