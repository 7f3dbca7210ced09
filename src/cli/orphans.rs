//! `agent orphans`: what is left on this host, and its removal by name. Needs no agent.

use super::offline::read_config;
use super::out::{self, JsonLayout};
use super::{DEFAULT_STATE_DIR, Paths};
use crate::app::bridge_settings;
use crate::errors::chain;
use crate::hypervisor::Hypervisor;
use crate::network::Bridges;
use crate::orphans::{Found, Orphan, Outcome, Places, Tools};
use crate::service::exit;
use crate::service::logging::{self, LogFormat};
use crate::status::human;
use crate::storage::disk::Disks;
use crate::storage::qemu_img::QemuImg;
use clap::Args;
use std::fmt::Write;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

/// For libvirt to answer at all.
const CONNECT: Duration = Duration::from_secs(20);

/// What was asked for.
#[derive(Debug, Args)]
pub struct OrphansArgs {
    #[command(flatten)]
    paths: Paths,
    /// Directory of the journal of unfinished work
    #[arg(long, value_name = "DIR", env = "AGENT_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Remove these, and nothing else
    #[arg(long, value_name = "ID", num_args = 1..)]
    remove: Vec<String>,
    /// Do not ask
    #[arg(long, requires = "remove")]
    yes: bool,
}

/// Lists or removes, and returns the exit code.
pub async fn run(args: OrphansArgs) -> u8 {
    let removing = !args.remove.is_empty();
    if removing {
        // Into the journal, which is there after the terminal is closed.
        let journal = logging::init(LogFormat::Journald, "warn");
        if journal.is_err()
            && let Err(error) = logging::init(LogFormat::Text, "warn")
        {
            out::complain(&chain(&error));
            return exit::FAILURE;
        }
    }
    let (tools, found) = match look(&args).await {
        Ok(looked) => looked,
        Err(error) => {
            out::complain(&error);
            return exit::FAILURE;
        }
    };
    if !removing {
        return list(&found, args.json);
    }
    if !args.yes && !confirmed(&found, &args.remove) {
        return exit::FAILURE;
    }
    report(&tools.remove(&args.remove).await, args.json)
}

async fn look(args: &OrphansArgs) -> Result<(Tools, Found), String> {
    let config = read_config(&args.paths.config)?;
    let hypervisor = Hypervisor::spawn(&config.hypervisor_uri);
    if tokio::time::timeout(CONNECT, hypervisor.connected()).await.is_err() {
        let (uri, limit) = (&config.hypervisor_uri, CONNECT.as_secs());
        return Err(format!("libvirt at {uri} did not answer within {limit} s: what is in use is not known"));
    }
    let disks = Disks::default();
    let tools = Tools {
        places: Places::of(&config, &args.paths.runtime_dir, &args.state_dir),
        hypervisor,
        images: QemuImg::find(disks.clone()),
        disks,
        bridges: Bridges::new(bridge_settings(&config)),
    };
    let found = tools.scan().await.map_err(|error| chain(&error))?;
    Ok((tools, found))
}

fn list(found: &Found, json: bool) -> u8 {
    if json {
        out::show_json(found, JsonLayout::Indented);
    } else {
        out::show(&page(found));
    }
    if found.orphans.is_empty() { exit::OK } else { exit::WARNINGS }
}

fn page(found: &Found) -> String {
    let mut text = String::new();
    for orphan in &found.orphans {
        text.push_str(&paragraph(orphan));
    }
    let number = found.orphans.len() as u64;
    let _ = match number {
        0 => writeln!(text, "no orphans"),
        _ => writeln!(text, "{}, {}", human::count(number, "orphan"), human::bytes_exact(found.bytes())),
    };
    for line in &found.left_out {
        let _ = writeln!(text, "not looked at: {}", human::clean(line));
    }
    text
}

fn paragraph(orphan: &Orphan) -> String {
    let mut facts = vec![human::clean(&orphan.name)];
    facts.push(format!("owner {}", human::clean(orphan.owner.as_deref().unwrap_or("unknown"))));
    if orphan.bytes > 0 {
        facts.push(human::bytes_exact(orphan.bytes));
    }
    facts.extend(
        orphan.age_seconds.map(|age| format!("changed {} ago", human::duration(Duration::from_secs(age)))),
    );
    let mut text = format!("{}\n    {}\n", human::clean(&orphan.id), facts.join(", "));
    let _ = writeln!(text, "    {}", human::clean(&orphan.why));
    if !orphan.needed_by.is_empty() {
        let _ = writeln!(text, "    only after {}", human::clean(&orphan.needed_by.join(", ")));
    }
    text
}

/// Asks on the terminal; without one the answer is no.
fn confirmed(found: &Found, ids: &[String]) -> bool {
    if !io::stdin().is_terminal() {
        out::complain("not removed: there is no terminal to ask on; say --yes if you are sure");
        return false;
    }
    let listed = found.orphans.iter().filter(|orphan| ids.contains(&orphan.id));
    let text: String = listed.map(paragraph).collect();
    out::show(&format!("{text}Remove this for good? The server may still know it. [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let yes = read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes");
    if !yes {
        out::complain("nothing was removed");
    }
    yes
}

fn report(outcomes: &[Outcome], json: bool) -> u8 {
    let refused = outcomes.iter().any(|outcome| outcome.result.is_err());
    if json {
        let one = |outcome: &Outcome| {
            let reason = outcome.result.as_ref().err().map(|error| chain(error));
            serde_json::json!({"id": outcome.id, "removed": reason.is_none(), "reason": reason})
        };
        out::show_json(&outcomes.iter().map(one).collect::<Vec<_>>(), JsonLayout::Indented);
    } else {
        for Outcome { id, result } in outcomes {
            let id = human::clean(id);
            match result {
                Ok(orphan) => {
                    out::show(&format!("removed {id} ({})\n", human::bytes_exact(orphan.bytes)));
                }
                Err(error) => out::complain(&format!("not removed: {id}: {}", human::clean(&chain(error)))),
            }
        }
    }
    if refused { exit::WARNINGS } else { exit::OK }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orphans::{Kind, Refused};

    fn orphan() -> Orphan {
        Orphan {
            id: "volume:x".into(),
            kind: Kind::Volume,
            name: "/pool/x".into(),
            owner: Some("r-4-VM".into()),
            bytes: 3 << 20,
            age_seconds: Some(7200),
            why: "no guest uses it\u{1b}".into(),
            needed_by: vec!["volume:y".into()],
        }
    }

    #[test]
    fn a_list_tells_everything_and_ends_with_the_sum() {
        let found = Found { orphans: vec![orphan()], left_out: vec!["/mnt/a is shared".into()] };
        assert_eq!(
            page(&found),
            "volume:x\n    /pool/x, owner r-4-VM, 3.0 MiB, changed 2h00m ago\n    no guest uses it\n    \
             only after volume:y\n1 orphan, 3.0 MiB\nnot looked at: /mnt/a is shared\n"
        );
        assert_eq!(page(&Found::default()), "no orphans\n");
    }

    #[test]
    fn exit_codes_tell_found_and_refused() {
        assert_eq!(list(&Found::default(), false), 0);
        assert_eq!(list(&Found { orphans: vec![orphan()], left_out: Vec::new() }, true), 1);
        let outcome = |result| Outcome { id: "a".into(), result };
        assert_eq!(report(&[outcome(Ok(orphan()))], false), 0);
        assert_eq!(report(&[outcome(Ok(orphan())), outcome(Err(Refused::NotListed))], true), 1);
    }
}
