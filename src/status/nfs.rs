//! The check of `/etc/nfsmount.conf`: defaults that hold for every NFS mount of the host, those of pools
//! included. Set-up of the Java agent switches the attribute cache off there; this agent leaves it alone.

use std::path::{Path, PathBuf};

use super::checks::Check;

/// Files of nfs-utils below `etc`, the main one first.
fn files(etc: &Path) -> Vec<PathBuf> {
    let more = std::fs::read_dir(etc.join("nfsmount.conf.d")).into_iter().flatten().flatten();
    let mut more: Vec<PathBuf> = more.map(|entry| entry.path()).collect();
    more.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    more.sort();
    more.insert(0, etc.join("nfsmount.conf"));
    more
}

/// Reports defaults that matter to storage pools.
pub fn defaults(etc: &Path) -> Check {
    let mut found = Found::default();
    for path in files(etc) {
        let text = std::fs::read(&path).unwrap_or_default();
        found.read(&String::from_utf8_lossy(&text), &path);
    }
    if !found.soft.is_empty() {
        let summary =
            format!("NFS mounts are soft ({}): guests get errors when a server is slow", said(&found.soft));
        return Check::warn("nfs", summary, "remove it: pools need hard mounts, which wait for their server");
    }
    if found.uncached.is_empty() {
        return Check::ok("nfs", "no defaults that change how pools are mounted");
    }
    let summary = format!(
        "the attribute cache is off for all NFS mounts ({}), as set-up of the Java agent leaves it: safe, but slow",
        said(&found.uncached)
    );
    Check::ok("nfs", summary)
}

/// Settings as they stand in the files.
#[derive(Default)]
struct Found {
    soft: Vec<String>,
    uncached: Vec<String>,
}

impl Found {
    /// Sections are not told apart: each can hold for a pool.
    fn read(&mut self, text: &str, path: &Path) {
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().to_ascii_lowercase());
            let yes = matches!(value.as_str(), "true" | "t" | "yes" | "y" | "on" | "1");
            let no = matches!(value.as_str(), "false" | "f" | "no" | "n" | "off" | "0");
            let list = match key.as_str() {
                "soft" if yes => &mut self.soft,
                "hard" if no => &mut self.soft,
                "ac" if no => &mut self.uncached,
                "actimeo" if value == "0" => &mut self.uncached,
                _ => continue,
            };
            list.push(format!("{} in {}", line.trim(), path.display()));
        }
    }
}

fn said(settings: &[String]) -> String {
    settings.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::checks::CheckResult;
    use super::*;

    fn checked(files: &[(&str, &str)]) -> Check {
        let etc = tempfile::tempdir().unwrap();
        std::fs::create_dir(etc.path().join("nfsmount.conf.d")).unwrap();
        for (name, text) in files {
            std::fs::write(etc.path().join(name), text).unwrap();
        }
        defaults(etc.path())
    }

    #[test]
    fn the_usual_file_of_comments_is_fine() {
        let usual =
            "[ NFSMount_Global_Options ]\n# Hard=False\n# Soft=False\n#actimeo=0\n Vers = 4.1\nHard=True\n";
        for check in [checked(&[]), checked(&[("nfsmount.conf", usual)])] {
            assert_eq!((check.result, check.remedy), (CheckResult::Ok, None), "{}", check.summary);
            assert!(check.summary.contains("no defaults"), "{}", check.summary);
        }
    }

    #[test]
    fn what_the_java_agent_wrote_is_a_fact_and_no_alarm() {
        let check = checked(&[("nfsmount.conf", "[ NFSMount_Global_Options ]\nAc=False\nactimeo=0\n")]);
        assert_eq!(check.result, CheckResult::Ok);
        assert!(
            check.summary.contains("Ac=False in ") && check.summary.contains("actimeo=0"),
            "{}",
            check.summary
        );
    }

    #[test]
    fn soft_mounts_are_a_warning_wherever_they_are_set() {
        for (name, text) in [
            ("nfsmount.conf", "[ NFSMount_Global_Options ]\nSoft = True\n"),
            ("nfsmount.conf.d/site.conf", "[ Server \"nas\" ]\nhard=no\n"),
        ] {
            let check = checked(&[(name, text)]);
            assert_eq!(check.result, CheckResult::Warn, "{text}");
            assert!(check.remedy.is_some() && check.summary.contains(name), "{}", check.summary);
        }
        let other = checked(&[("nfsmount.conf.d/site.conf.bak", "soft=true\n")]);
        assert_eq!(other.result, CheckResult::Ok);
    }
}
