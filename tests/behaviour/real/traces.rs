//! What the host of a cage has of guests: taken before and after, the difference is debris. The cage must
//! belong to one test, or others leave traces, too.

use super::cage::Cage;
use super::edge::Edge;
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

/// Directories below that of a host that its agent writes to.
const DIRECTORIES: [&str; 4] = ["pool", "cache", "temporary", "state/journal"];

impl Traces {
    /// Those of a host, with its files as the cage sees them.
    pub async fn of_host(edge: &Edge<'_>) -> Traces {
        let inside = |name: &str| edge.cage.file(edge.host.node.path(name).to_str().unwrap());
        Traces::of(edge.cage, &DIRECTORIES.map(inside)).await
    }

    /// Files are those below `directories`, as this process sees them.
    pub async fn of(cage: &Cage, directories: &[PathBuf]) -> Traces {
        let links = cage.run(&["ip", "-br", "link"]).await.unwrap();
        let links = links.lines().filter_map(|line| line.split_whitespace().next());
        // The control network is the host's.
        let links = links.filter(|link| *link != "cloud0");
        let mut processes = lines(&cage.run(&["ps", "-eo", "comm="]).await.unwrap());
        processes.retain(|line| line.starts_with("qemu-img") || line.starts_with("dnsmasq"));
        let mut files = Vec::new();
        directories.iter().for_each(|directory| walk(directory, &mut files));
        files.sort();
        Traces {
            domains: lines(&cage.virsh(&["list", "--all", "--name"]).await),
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
