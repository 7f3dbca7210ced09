use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(rewrite(words(line)))
}

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_status_flag_is_the_subcommand() {
    for (given, meant) in [
        ("agent --status", "agent status"),
        ("agent --status --json", "agent status --json"),
        ("agent --json --status", "agent status --json"),
        ("agent --config /x --status --watch", "agent status --config /x --watch"),
        ("agent status --json", "agent status --json"),
        ("agent run --status", "agent run --status"),
        ("agent --help", "agent --help"),
        ("agent", "agent"),
        ("/usr/bin/cloudstack-setup-agent -a -s", "/usr/bin/cloudstack-setup-agent setup -a -s"),
        ("keystore-setup a b c 365 d", "keystore-setup keystore-setup a b c 365 d"),
        ("cloudstack-guest-tool --status", "cloudstack-guest-tool guest --status"),
        ("/usr/bin/cloudstack-agent run", "/usr/bin/cloudstack-agent run"),
        ("/usr/bin/cloudstack-agent-upgrade", "/usr/bin/cloudstack-agent-upgrade upgrade"),
    ] {
        assert_eq!(rewrite(words(given)), words(meant), "{given}");
    }
}

#[test]
fn defaults_and_options_of_status() {
    let Command::Status(args) = parse("agent --status").unwrap().command else { panic!() };
    assert_eq!(args.paths.runtime_dir, PathBuf::from(DEFAULT_RUNTIME_DIR));
    assert!(!args.json && !args.watch && args.wait.is_none());
    let line = "agent --status --json --wait registered --timeout 120 --runtime-dir /x";
    let Command::Status(args) = parse(line).unwrap().command else { panic!() };
    assert_eq!((args.wait, args.timeout), (Some(WaitFor::Registered), 120));
    assert_eq!(args.paths.runtime_dir, PathBuf::from("/x"));
    assert!(args.json);
}

#[test]
fn options_of_run() {
    let Command::Run(args) = parse("agent run --log-format json --log-level a=debug").unwrap().command else {
        panic!()
    };
    assert_eq!((args.log_format, args.log_level.as_str()), (LogFormat::Json, "a=debug"));
    assert_eq!(args.paths.config, PathBuf::from(DEFAULT_CONFIG));
}

#[test]
fn wrong_usage_is_64_and_help_is_not() {
    for line in [
        "agent",
        "agent frobnicate",
        "agent run --status",
        "agent --status --wat",
        "agent --status --timeout 3",
        "agent --status --watch --wait registered",
        "agent --status --wait lunch",
        "agent run --log-level a=b=c",
        "agent check nonsense",
    ] {
        assert_eq!(usage_code(parse(line).unwrap_err().kind()), 64, "{line}");
    }
    for line in ["agent --help", "agent status --help", "agent --status --help", "agent --version"] {
        assert_eq!(usage_code(parse(line).unwrap_err().kind()), 0, "{line}");
    }
}

#[test]
fn help_reads_like_a_manual_page() {
    for line in ["agent --help", "agent status --help", "agent run --help", "agent check --help"] {
        let text = parse(line).unwrap_err().to_string();
        for section in ["Examples:", "Environment:", "Exit codes:"] {
            assert!(text.contains(section), "{line} lacks {section}");
        }
    }
    let text = parse("agent --help").unwrap_err().to_string();
    assert!(text.contains("Files:") && text.contains("--status"));
}
