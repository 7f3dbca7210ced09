//! The rules of `ARCHITECTURE.md`, checked against the text of `src/`. Each exception is listed with
//! its reason, and an exception that nothing needs any more is an error too.

use cloudstack_agent::commands::table::TABLE;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each module may use of the others. Order and arrows of the picture in `ARCHITECTURE.md`.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("errors", &[]),
    ("files", &[]),
    ("histogram", &[]),
    ("journal", &["errors"]),
    ("wire", &[]),
    ("config", &["files"]),
    ("tls", &["files", "wire"]),
    ("xml", &[]),
    ("hypervisor", &["errors", "histogram", "xml"]),
    ("host", &["hypervisor"]),
    ("orphans", &["config", "errors", "hypervisor", "network", "storage", "xml"]),
    ("recovery", &["errors", "hypervisor", "journal", "network", "storage"]),
    ("network", &["errors", "host"]),
    ("storage", &["config", "errors", "host", "hypervisor", "tls", "xml"]),
    // `config` for the type of secrets.
    ("guest", &["config", "xml"]),
    ("setup", &["config", "errors", "files", "host", "tls"]),
    // `status` for the one constant that names the version spoken on the wire.
    (
        "commands",
        &[
            "config",
            "errors",
            "files",
            "guest",
            "host",
            "hypervisor",
            "journal",
            "network",
            "orphans",
            "status",
            "storage",
            "tls",
            "wire",
        ],
    ),
    ("dispatch", &["commands", "config", "histogram", "service", "wire"]),
    (
        "session",
        &[
            "commands",
            "config",
            "dispatch",
            "errors",
            "files",
            "host",
            "hypervisor",
            "service",
            "status",
            "tls",
            "wire",
        ],
    ),
    // These two use small things of each other: cleaned text here, growing log intervals there.
    ("service", &["status"]),
    ("status", &["service"]),
    (
        "metrics",
        &[
            "commands",
            "config",
            "dispatch",
            "histogram",
            "host",
            "hypervisor",
            "journal",
            "service",
            "status",
        ],
    ),
    (
        "app",
        &[
            "commands",
            "config",
            "dispatch",
            "errors",
            "host",
            "hypervisor",
            "journal",
            "metrics",
            "network",
            "orphans",
            "recovery",
            "service",
            "session",
            "status",
            "storage",
            "tls",
            "wire",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "commands",
            "config",
            "errors",
            "host",
            "hypervisor",
            "metrics",
            "network",
            "orphans",
            "service",
            "session",
            "setup",
            "status",
            "storage",
            "tls",
            "wire",
        ],
    ),
    ("main", &["cli"]),
    ("sim", &["wire"]),
];

/// Text that may occur only below certain paths of `src/`. `bin/` and `sim/` are not shipped.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("virt::", &["hypervisor/libvirt/"], "libvirt is behind the hypervisor module"),
    ("backoff::{", &["session/backoff.rs"], "the crate is unmaintained: one file to replace it in"),
    ("tokio::process", &["host/exec.rs"], "programs run with argv, deadline and bounded output"),
    (
        "Command::new(",
        &["host/exec.rs", "wire/", "commands/"],
        "the same; the others name CloudStack's commands",
    ),
    (
        "unsafe",
        &["hypervisor/libvirt/events.rs", "hypervisor/libvirt/ffi.rs", "service/memory.rs"],
        "callbacks of libvirt, its calls that the crate does not wrap, one call into the C library",
    ),
    ("quick_xml::", &["xml.rs"], "XML is read within bounds and written escaped in one place"),
    ("flate2::", &["wire/message.rs", "storage/download/", "sim/"], "messages and templates are packed"),
    ("bzip2::", &["storage/download/unpack.rs"], "packed templates are unpacked within bounds"),
    ("lzma_rust2::", &["storage/download/xz.rs"], "the same"),
    ("hyper::", &["metrics/http.rs", "storage/download/"], "HTTP with timeouts, bounds and the right trust"),
    ("prometheus_client::", &["metrics/page.rs"], "figures stay with their owners, not in a registry"),
    ("tokio_rustls::", &["tls/", "session/link.rs", "sim/"], "TLS settings are in one place"),
    ("rcgen::", &["tls/", "sim/"], "so are keys and certificates"),
    ("rsa::", &["tls/", "sim/"], "so are keys and certificates"),
    ("x509_parser::", &["tls/", "sim/"], "so are keys and certificates"),
    ("p12_keystore::", &["tls/keystore.rs"], "so are keys and certificates"),
    ("sd_notify::", &["service/notify.rs"], "systemd is optional"),
    ("socket2::", &["session/link.rs"], "the one place that dials"),
    (
        "tracing_subscriber",
        &["service/journald.rs", "service/logging.rs"],
        "logging is set up once; one file knows the journal",
    ),
];

/// Files that see both the wire and the hypervisor: the commands, and the tasks that feed the wire.
const BOTH_WORLDS: &[(&str, &str)] = &[
    ("commands/", "that is what commands are"),
    ("session/pings.rs", "puts the guests' states into pings"),
    ("app/feeds.rs", "shows commands and guests in the status"),
    ("cli/offline.rs", "prints the inventory as it would be sent"),
];

/// Pure parts: no runtime, no clock, no files, no randomness. Events and times are handed in.
const PURE: &[&str] = &[
    "wire/",
    "config/properties/",
    "dispatch/policy.rs",
    "guest/",
    "histogram.rs",
    "metrics/page.rs",
    "orphans/facts.rs",
    "orphans/names.rs",
    "orphans/scan.rs",
    "session/inbound.rs",
    "session/machine.rs",
    "session/servers.rs",
    "session/survivors.rs",
    "setup/planning/",
    "status/human.rs",
    "status/render.rs",
    "status/sections.rs",
    "storage/download/checksum.rs",
    "storage/download/metalink.rs",
    "storage/download/url.rs",
    "storage/qcow2.rs",
];
const IMPURE: &[&str] =
    &["tokio", "std::fs", "std::net", "Instant::now", "SystemTime::now", "Timestamp::now", "fastrand"];

/// Command files that use something of another command file.
const SHARED_COMMANDS: &[(&str, &str, &str)] = &[
    ("commands/agent/migrate_connection.rs", "ready", "both carry the same bounded number of seconds"),
    ("commands/agent/setup_ms_list.rs", "ready", "both carry the same bounded number of seconds"),
];

const LONGEST_FILE: usize = 450;
/// Longer files with the reason: none.
const LONG_FILES: &[(&str, &str)] = &[];

/// One file below `src/`.
struct Source {
    /// Relative to `src/`.
    path: String,
    text: String,
    /// Without tests and comments.
    code: String,
}

impl Source {
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Components of the module path: how many `super::` lead to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.path.trim_end_matches(".rs").split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    fn shipped(&self) -> bool {
        !self.path.starts_with("bin/") && !self.path.starts_with("sim/")
    }

    /// Modules of the crate that the code names, through `crate::` or through enough `super::`.
    fn uses(&self) -> BTreeSet<String> {
        let root = format!("{}{}", "super::".repeat(self.depth()), "");
        let after = |start: &str| -> Vec<String> {
            self.code.match_indices(start).map(|(at, _)| identifier(&self.code[at + start.len()..])).collect()
        };
        assert!(!self.code.contains("crate::{"), "{}: name the module, use crate::module::..", self.path);
        let mut found: BTreeSet<String> = after("crate::").into_iter().collect();
        found.extend(
            after(&root).into_iter().filter(|name| DEPENDENCIES.iter().any(|(module, _)| module == name)),
        );
        found.remove(self.module());
        found.remove("");
        found
    }
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// All files but those that exist for tests only.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let tests: BTreeSet<String> = files.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    let kept = files.into_iter().filter(|(path, _)| !tests.contains(path));
    kept.map(|(path, text)| Source { code: code(&text), path, text }).collect()
}

/// Paths of `#[cfg(test)] mod name;` in a file.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let directory = path.strip_suffix("mod.rs").map_or_else(|| path.replace(".rs", "/"), str::to_owned);
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| **line == "#[cfg(test)]") {
        let rest = &lines[at + 1..];
        if let Some(name) = rest.first().and_then(|line| line.strip_prefix("#[path = \"")) {
            let beside = Path::new(path).parent().unwrap().join(name.trim_end_matches("\"]"));
            found.push(beside.to_str().unwrap().to_owned());
        } else if let Some(line) = rest.first().filter(|line| line.ends_with(';')) {
            let name = line.rsplit(' ').next().unwrap().trim_end_matches(';');
            found.push(format!("{directory}{name}.rs"));
        }
    }
    found
}

/// The text without comments, and without the test module that ends a file.
fn code(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    shipped
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn below<'a>(path: &str, places: impl IntoIterator<Item = &'a &'a str>) -> bool {
    places
        .into_iter()
        .any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == *place })
}

/// Whether `code` names `word`, not as the end of a longer name.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn modules_use_only_what_the_picture_shows() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in
        sources().iter().filter(|source| source.path != "lib.rs" && !source.path.starts_with("bin/"))
    {
        let module = source.module();
        let allowed = DEPENDENCIES.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
        let allowed = allowed
            .unwrap_or_else(|| panic!("module {module} is not in DEPENDENCIES and not in the picture"));
        for other in source.uses() {
            assert!(allowed.contains(&other.as_str()), "src/{} uses {other}, {module} must not", source.path);
            used.entry(module.to_owned()).or_default().insert(other);
        }
    }
    for (module, allowed) in DEPENDENCIES.iter().filter(|(module, _)| *module != "main") {
        let used = used.remove(*module).unwrap_or_default();
        for other in *allowed {
            assert!(
                used.contains(*other),
                "{module} does not use {other} any more: take it out of DEPENDENCIES"
            );
        }
    }
}

#[test]
fn foreign_crates_stay_in_their_place() {
    for (word, places, reason) in ONLY_IN {
        let mut seen = false;
        for source in sources().iter().filter(|source| names(&source.code.replace("unsafe_code", ""), word)) {
            let allowed = below(&source.path, *places) || source.path.starts_with("bin/");
            assert!(allowed, "src/{} has {word}, which belongs to {places:?}: {reason}", source.path);
            seen = true;
        }
        assert!(seen, "{word} does not occur any more: take it out of ONLY_IN");
    }
}

#[test]
fn unsafe_code_is_allowed_in_three_files_and_explained_there() {
    let all = sources();
    let allowing: Vec<_> = all.iter().filter(|s| s.code.contains("allow(unsafe_code)")).collect();
    let mut paths: Vec<&str> = allowing.iter().map(|s| s.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["hypervisor/libvirt/events.rs", "hypervisor/libvirt/ffi.rs", "service/memory.rs"]);
    for source in allowing {
        let blocks = source.code.matches("unsafe {").count();
        let explained = source.text.matches("// SAFETY:").count();
        let path = &source.path;
        assert!(
            blocks > 0 && explained >= blocks,
            "{path}: {blocks} unsafe blocks, {explained} explanations"
        );
    }
}

#[test]
fn only_commands_and_their_feeders_see_wire_and_hypervisor() {
    let places: Vec<&str> = BOTH_WORLDS.iter().map(|(place, _)| *place).collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for source in sources().iter().filter(|source| source.shipped()) {
        let uses = source.uses();
        if uses.contains("wire") && uses.contains("hypervisor") {
            assert!(
                below(&source.path, &places),
                "src/{} sees both the wire and the hypervisor",
                source.path
            );
            seen.extend(places.iter().copied().filter(|place| below(&source.path, [place])));
        }
    }
    assert_eq!(seen.len(), places.len(), "only {seen:?} need to be in BOTH_WORLDS");
}

#[test]
fn what_is_called_pure_is_pure() {
    let pure: Vec<_> = sources().into_iter().filter(|source| below(&source.path, PURE)).collect();
    assert!(pure.len() >= PURE.len(), "a file of PURE does not exist");
    for source in pure {
        for word in IMPURE {
            assert!(!names(&source.code, word), "src/{} is to be pure and has {word}", source.path);
        }
    }
}

/// Handlers as `(path, domain directory, struct)`.
fn handlers(sources: &[Source]) -> Vec<(&Source, &str, String)> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("commands/")) {
        let domain = source.path.split('/').nth(1).unwrap();
        for (at, start) in source.code.match_indices("\nimpl Command for ") {
            found.push((source, domain, identifier(&source.code[at + start.len()..])));
        }
    }
    found
}

#[test]
fn every_handler_is_in_the_table_under_its_domain() {
    let sources = sources();
    let handlers = handlers(&sources);
    for (source, domain, name) in &handlers {
        let entry = TABLE.iter().find(|entry| {
            entry.class.rsplit('.').next().is_some_and(|class| class.eq_ignore_ascii_case(name))
        });
        let entry = entry.unwrap_or_else(|| panic!("{name} of src/{} is not in the table", source.path));
        assert_eq!(entry.domain.name(), *domain, "{name} is in src/{}", source.path);
    }
    assert_eq!(handlers.len(), TABLE.len(), "one handler for each line of the table");
}

#[test]
fn commands_do_not_use_each_other() {
    let sources = sources();
    let handlers = handlers(&sources);
    let stem = |path: &str| path.rsplit('/').next().unwrap().trim_end_matches(".rs").to_owned();
    let files: BTreeSet<String> = handlers.iter().map(|(source, _, _)| stem(&source.path)).collect();
    let mut needed = BTreeSet::new();
    for (source, _, _) in &handlers {
        for file in files.iter().filter(|file| **file != stem(&source.path)) {
            let used = [format!("super::{file}"), format!("::{file}::")]
                .iter()
                .any(|path| source.code.contains(path));
            if used {
                let listed =
                    SHARED_COMMANDS.iter().find(|(path, other, _)| *path == source.path && other == file);
                assert!(
                    listed.is_some(),
                    "src/{} uses the command {file}: move what they share",
                    source.path
                );
                needed.insert((source.path.clone(), file.clone()));
            }
        }
    }
    assert_eq!(needed.len(), SHARED_COMMANDS.len(), "only {needed:?} need to be in SHARED_COMMANDS");
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for source in sources() {
        let lines = source.text.lines().count();
        let listed = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        assert_eq!(
            lines > LONGEST_FILE,
            listed,
            "src/{} has {lines} lines, the limit is {LONGEST_FILE}",
            source.path
        );
        assert!(source.text.starts_with("//!"), "src/{} does not begin with what it is for", source.path);
    }
}
