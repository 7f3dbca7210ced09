//! From facts to findings. Pure.
//!
//! Kept is what a guest names, what a request or an unfinished piece of work named, what a process has
//! open, what does not look like CloudStack's, and everything that these are based on. The rest is
//! listed. So what only findings are based on is listed too, behind them.

use super::facts::{FileFact, Place, file_name};
use super::{Facts, Found, Kind, Orphan, names};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A younger unfinished file may belong to the agent that runs, which has it open only at times.
const UNFINISHED_AFTER: u64 = 3600;
const NOT_NAMED: &str = "no request since the agent started named it";

pub fn scan(facts: &Facts) -> Found {
    let mut orphans = domains(facts);
    orphans.extend(files(facts));
    orphans.extend(bridges(facts));
    orphans.extend(mounts(facts));
    orphans.extend(secrets(facts));
    Found { orphans, left_out: facts.left_out.iter().chain(&facts.blind).cloned().collect() }
}

impl Facts {
    fn is_touched(&self, name: &str) -> bool {
        self.touched.contains(name)
            || self.touched.contains(names::stem(name))
            || (!name.is_empty() && self.journal.contains(name))
    }

    fn user(&self, what: &str) -> bool {
        self.guests.iter().any(|guest| guest.uses.contains(what))
    }

    fn file_has_user(&self, path: &Path) -> bool {
        path.to_str().is_none_or(|path| self.user(path)) || self.open.contains(path)
    }

    fn age(&self, changed: u64) -> u64 {
        self.now.saturating_sub(changed)
    }

    fn last_user(&self, name: &str) -> Option<String> {
        self.last_users.get(name.split_once('.').map_or(name, |(id, _)| id)).cloned()
    }
}

fn finding(kind: Kind, name: &str, short: &str, why: String) -> Orphan {
    Orphan {
        id: format!("{}:{short}", kind.word()),
        kind,
        name: name.to_owned(),
        owner: None,
        bytes: 0,
        age_seconds: None,
        why,
        needed_by: Vec::new(),
    }
}

fn domains(facts: &Facts) -> Vec<Orphan> {
    let left = |guest: &&super::facts::GuestFact| {
        !guest.running && names::is_guest(&guest.name) && !facts.is_touched(&guest.name)
    };
    let one = |guest: &super::facts::GuestFact| Orphan {
        owner: Some(guest.name.clone()),
        ..finding(
            Kind::Domain,
            &guest.name,
            &guest.name,
            format!("defined and not running, which CloudStack's guests never are; {NOT_NAMED}"),
        )
    };
    facts.guests.iter().filter(left).map(one).collect()
}

fn kind(file: &FileFact) -> Option<Kind> {
    let name = file.name();
    if names::is_unfinished(name) {
        return Some(Kind::Unfinished);
    }
    match file.place {
        Place::Pool => names::is_volume(name).then_some(Kind::Volume),
        Place::Snapshots => names::is_volume(name).then_some(Kind::Snapshot),
        Place::ConfigDrives => names::is_config_drive(name).then_some(Kind::ConfigDrive),
        Place::Nvram => names::is_nvram(name).then_some(Kind::Nvram),
        Place::Temporary => None,
    }
}

/// Whether nothing speaks for a file by itself.
fn is_left(file: &FileFact, facts: &Facts) -> bool {
    let Some(kind) = kind(file) else { return false };
    let old_enough = kind != Kind::Unfinished || facts.age(file.changed) >= UNFINISHED_AFTER;
    let judged = facts.blind.is_empty() || matches!(kind, Kind::ConfigDrive | Kind::Nvram);
    let guest = names::stem(file.name());
    let guest = guest.strip_suffix("_VARS").unwrap_or(guest);
    let owner_is_here = matches!(kind, Kind::ConfigDrive | Kind::Nvram)
        && facts.guests.iter().any(|known| known.name == guest || known.uses.contains(guest));
    old_enough
        && judged
        && !owner_is_here
        && !facts.file_has_user(&file.path)
        && !facts.is_touched(file.name())
        && !facts.is_touched(guest)
}

fn files(facts: &Facts) -> Vec<Orphan> {
    let by_path: BTreeMap<&Path, &FileFact> =
        facts.files.iter().map(|file| (file.path.as_path(), file)).collect();
    let mut kept: BTreeSet<&Path> = BTreeSet::new();
    for file in facts.files.iter().filter(|file| !is_left(file, facts)) {
        let mut next = Some(file);
        // A chain that bites its tail ends, too.
        while let Some(file) = next.filter(|file| kept.insert(&file.path)) {
            next = file.backing.as_deref().and_then(|backing| by_path.get(backing).copied());
        }
    }
    let left: Vec<(&FileFact, Kind)> = by_path
        .values()
        .filter(|file| !kept.contains(file.path.as_path()))
        .filter_map(|file| Some((*file, kind(file)?)))
        .collect();
    let ids = ids(&left);
    let based_on = |base: &FileFact| -> Vec<&FileFact> {
        left.iter().map(|(file, _)| *file).filter(|file| file.backing.as_ref() == Some(&base.path)).collect()
    };
    let one = |(file, kind): &(&FileFact, Kind)| {
        let above = based_on(file);
        Orphan {
            id: ids.get(&file.path).cloned().unwrap_or_default(),
            kind: *kind,
            name: file.path.display().to_string(),
            owner: owner(file, *kind, &above, facts),
            bytes: file.bytes,
            age_seconds: Some(facts.age(file.changed)),
            why: reason(*kind, !above.is_empty()),
            needed_by: above.iter().filter_map(|above| ids.get(&above.path).cloned()).collect(),
        }
    };
    left.iter().map(one).collect()
}

fn short(file: &FileFact, kind: Kind) -> String {
    match kind {
        Kind::Snapshot => {
            let below = file.path.strip_prefix(&file.root).unwrap_or(&file.path).display().to_string();
            below.trim_start_matches("snapshots/").to_owned()
        }
        Kind::ConfigDrive => names::stem(file.name()).to_owned(),
        _ => file.name().to_owned(),
    }
}

fn ids(left: &[(&FileFact, Kind)]) -> BTreeMap<PathBuf, String> {
    let short_id = |file: &FileFact, kind: Kind| format!("{}:{}", kind.word(), short(file, kind));
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (file, kind) in left {
        *count.entry(short_id(file, *kind)).or_default() += 1;
    }
    let one = |(file, kind): &(&FileFact, Kind)| {
        let id = short_id(file, *kind);
        let unique = count.get(&id) == Some(&1);
        let id = if unique { id } else { format!("{}:{}", kind.word(), file.path.display()) };
        (file.path.clone(), id)
    };
    left.iter().map(one).collect()
}

fn owner(file: &FileFact, kind: Kind, above: &[&FileFact], facts: &Facts) -> Option<String> {
    let stem = names::stem(file.name());
    match kind {
        Kind::ConfigDrive => return Some(stem.to_owned()),
        Kind::Nvram if names::is_guest(stem.strip_suffix("_VARS").unwrap_or(stem)) => {
            return Some(stem.strip_suffix("_VARS").unwrap_or(stem).to_owned());
        }
        _ => {}
    }
    let of = |file: &FileFact| facts.last_user(file.name());
    let below = || {
        let name = file_name(file.backing.as_deref()?);
        (kind == Kind::Snapshot).then(|| facts.last_user(name).unwrap_or_else(|| format!("volume {name}")))
    };
    of(file).or_else(|| above.iter().find_map(|above| of(above))).or_else(below)
}

fn reason(kind: Kind, is_base: bool) -> String {
    let stopped = "so it is with a stopped guest, too: ask the server";
    match kind {
        Kind::Volume if is_base => {
            format!("only what is listed here is based on it, no guest of this host uses it, and {NOT_NAMED}")
        }
        Kind::Volume => format!("no guest of this host uses it, and {NOT_NAMED} ({stopped})"),
        Kind::Snapshot => {
            format!(
                "a snapshot that no guest of this host uses, and {NOT_NAMED} (the server may still list it)"
            )
        }
        Kind::ConfigDrive => format!("there is no guest of that name, and {NOT_NAMED} ({stopped})"),
        Kind::Nvram => format!("UEFI variables of no guest of this host, and {NOT_NAMED} ({stopped})"),
        _ => "not finished, and not written to for an hour".to_owned(),
    }
}

fn bridges(facts: &Facts) -> Vec<Orphan> {
    let one = |bridge: &super::facts::BridgeFact| {
        let uplink = names::uplink(&bridge.name)?;
        let unused = bridge.ports.iter().all(|port| *port == uplink);
        let free = unused && !facts.user(&bridge.name) && !facts.is_touched(&bridge.name);
        let why = "no guest is plugged into it (so it is with a persistent network, too: ask the server)";
        free.then(|| finding(Kind::Bridge, &bridge.name, &bridge.name, why.to_owned()))
    };
    facts.bridges.iter().filter_map(one).collect()
}

fn mounts(facts: &Facts) -> Vec<Orphan> {
    let one = |mount: &super::facts::MountFact| {
        let (target, name) = (mount.target.to_str()?, file_name(&mount.target));
        let below = format!("{target}/");
        let named = facts.guests.iter().any(|guest| guest.uses.iter().any(|used| used.starts_with(&below)));
        let open = facts.open.iter().any(|open| open.starts_with(&mount.target));
        let free = mount.user.is_none() && !named && !open && !facts.is_touched(name);
        free.then(|| Orphan {
            owner: Some(mount.source.clone()),
            ..finding(Kind::Mount, target, name, format!("no pool and no guest uses it, and {NOT_NAMED}"))
        })
    };
    facts.mounts.iter().filter_map(one).collect()
}

fn secrets(facts: &Facts) -> Vec<Orphan> {
    let one = |secret: &super::facts::SecretFact| {
        let name = file_name(Path::new(&secret.volume));
        let free = names::is_volume(name)
            && !facts.user(&secret.uuid)
            && !facts.user(&secret.volume)
            && !facts.is_touched(name)
            && !facts.is_touched(&secret.uuid);
        free.then(|| Orphan {
            owner: facts.last_user(name).or_else(|| Some(format!("volume {name}"))),
            ..finding(
                Kind::Secret,
                &secret.uuid,
                &secret.uuid,
                format!("passphrase of a volume that no guest of this host uses, and {NOT_NAMED}"),
            )
        })
    };
    facts.secrets.iter().filter_map(one).collect()
}
