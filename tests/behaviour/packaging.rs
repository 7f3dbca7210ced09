//! What the package ships besides the program is in step with it.
//!
//! `UPDATE_MAN=1 cargo test --features sim --test behaviour packaging` writes the manual pages anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One page for the program, one for each subcommand that is not hidden.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut grammar = cloudstack_agent::cli::grammar().name("cloudstack-agent");
    grammar.build();
    let mut pages = BTreeMap::new();
    let mut add = |name: String, command: clap::Command| {
        let text = page(&name, command).unwrap();
        pages.insert(root().join(format!("packaging/man/{name}.8")), text);
    };
    for sub in grammar.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("cloudstack-agent-{}", sub.get_name());
        // clap keeps names for ever.
        let kept: &'static str = name.clone().leak();
        add(name, sub.clone().name(kept).version(env!("CARGO_PKG_VERSION")));
    }
    add("cloudstack-agent".to_owned(), grammar.clone());
    pages
}

fn page(name: &str, command: clap::Command) -> std::io::Result<String> {
    let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let subcommands = command.has_subcommands();
    let man = clap_mangen::Man::new(command)
        .title(name.to_uppercase())
        .section("8")
        .date("")
        .source("cloudstack-agent")
        .manual("CloudStack KVM agent");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut text = String::from_utf8(text).unwrap();
    sections(&mut text, &examples);
    Ok(text)
}

/// The long help below the options has columns, which a manual page must not fill: each `Title:`
/// becomes a section of lines as they are.
fn sections(text: &mut String, help: &str) {
    let mut open = false;
    // Sentences before the first title belong to nothing above them.
    if help.lines().next().is_some_and(|line| !line.ends_with(':')) {
        text.push_str(".SH NOTES\n");
    }
    for line in help.lines() {
        let title = line.strip_suffix(':').filter(|title| !title.contains(' ') || *title == "Exit codes");
        if let Some(title) = title {
            text.push_str(if open { ".fi\n" } else { "" });
            text.push_str(&format!(".SH \"{}\"\n.nf\n", title.to_uppercase()));
            open = true;
        } else {
            text.push_str(&format!("\\&{}\n", line.replace('\\', "\\\\").replace('-', "\\-")));
        }
    }
    text.push_str(if open { ".fi\n" } else { "" });
}

#[test]
fn manual_pages_are_those_of_the_command_line() {
    let update = std::env::var_os("UPDATE_MAN").is_some();
    for (path, wanted) in pages() {
        if update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, wanted).unwrap();
            continue;
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            written,
            wanted,
            "{}: write it anew: UPDATE_MAN=1 cargo test --features sim --test behaviour packaging",
            path.display()
        );
    }
}

/// Other names of the program: their pages are those of the subcommands.
#[test]
fn other_names_have_the_page_of_their_subcommand() {
    for (name, page) in [("setup-agent", "setup"), ("ssh", "ssh"), ("guest-tool", "guest")] {
        let text = read(&format!("packaging/man/cloudstack-{name}.8"));
        assert_eq!(text, format!(".so man8/cloudstack-agent-{page}.8\n"));
        let target = root().join(format!("packaging/man/cloudstack-agent-{page}.8"));
        assert!(pages().contains_key(&target), "{name} points to nothing");
    }
}

#[test]
fn the_package_has_the_version_of_the_program() {
    let changelog = read("debian/changelog");
    let first = changelog.lines().next().unwrap();
    let version = first.split(['(', ')']).nth(1).unwrap();
    let upstream = version.split(['-', '~', '+']).next().unwrap();
    assert_eq!(upstream, env!("CARGO_PKG_VERSION"), "{first}");
}

/// FNV-1a of it. A host that is taken over keeps its agent.properties without a question only as long as the text
/// that the package ships never changes (dpkg compares it with what it shipped before).
const FROZEN: u64 = 0xa098_2130_f41f_2876;

#[test]
fn the_shipped_agent_properties_never_change() {
    let text = read("packaging/agent.properties");
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    assert_eq!(hash, FROZEN, "put the old text back: see the comment in debian/cloudstack-agent-rs.preinst");
}

/// The unit promises what the program keeps.
#[test]
fn the_unit_fits_the_program() {
    let unit = read("systemd/cloudstack-agent.service");
    let lines: Vec<&str> = unit.lines().collect();
    let runtime = cloudstack_agent::cli::DEFAULT_RUNTIME_DIR.strip_prefix("/run/").unwrap();
    let state = cloudstack_agent::cli::DEFAULT_STATE_DIR.strip_prefix("/var/lib/").unwrap();
    for needed in [
        "Type=notify".to_owned(),
        format!("RuntimeDirectory={runtime}"),
        format!("StateDirectory={state}"),
        format!("RestartPreventExitStatus={}", cloudstack_agent::service::exit::USAGE),
    ] {
        assert!(lines.contains(&needed.as_str()), "{needed}");
    }
    // Each of these makes mounts of the agent invisible to QEMU, or breaks a child: see the unit.
    for harmful in [
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "ReadWritePaths",
        "PrivateMounts",
        "PrivateDevices",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectControlGroups",
        "NoNewPrivileges=yes",
        "ProtectClock",
        "SystemCallFilter",
        "MemoryDenyWriteExecute",
        "Requires=",
    ] {
        assert!(!lines.iter().any(|line| line.starts_with(harmful)), "{harmful}");
    }
}
