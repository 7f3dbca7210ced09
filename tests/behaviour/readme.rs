//! The table of commands in `README.md` is that of the registry.
//!
//! `UPDATE_README=1 cargo test --features sim --test behaviour readme` writes it anew.

use cloudstack_agent::commands::registry::{Domain, Entry, Support, display_name};
use cloudstack_agent::commands::table::{TABLE, unsupported};
use std::collections::BTreeMap;
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- commands:begin -->";
const END: &str = "<!-- commands:end -->";

fn table() -> String {
    let mut domains: BTreeMap<Domain, Vec<&Entry>> = BTreeMap::new();
    for entry in TABLE {
        domains.entry(entry.domain).or_default().push(entry);
    }
    let mut text = String::from("| domain | command | state |\n|---|---|---|\n");
    for (domain, entries) in domains {
        for entry in entries {
            let state = match entry.support {
                Support::Done => "done".to_owned(),
                Support::Partial(note) => format!("partly: {note}"),
                Support::Refused(why) => format!("refused: {why}"),
            };
            let _ = writeln!(text, "| {} | `{}` | {state} |", domain.name(), display_name(entry.class));
        }
    }
    let others = unsupported().count();
    let handled = TABLE.iter().filter(|entry| !matches!(entry.support, Support::Refused(_))).count();
    let _ = writeln!(
        text,
        "\n{handled} of the {} command classes that the servers 4.19 to 4.22 know are handled. Every other one \
         gets the answer `UnsupportedAnswer`, which servers understand.",
        TABLE.len() + others
    );
    text
}

#[test]
fn the_table_of_commands_is_that_of_the_registry() {
    let readme = std::fs::read_to_string(PATH).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("README.md has the mark where the table begins");
    let (written, after) = rest.split_once(END).expect("README.md has the mark where the table ends");
    let wanted = format!("\n{}", table());
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(PATH, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        written, wanted,
        "write it anew: UPDATE_README=1 cargo test --features sim --test behaviour readme"
    );
}
