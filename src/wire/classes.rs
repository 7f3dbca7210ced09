//! Every class name that servers 4.19.1, 4.20.2 and 4.22 can put on the wire or expect there.
//!
//! The list is data (`classes.txt`: name, kind, first and last version seen), sorted by name. It lets
//! the agent tell "not supported yet" from "never heard of", and feeds `agent commands`.

use std::sync::LazyLock;

const LIST: &str = include_str!("classes.txt");

/// What a class is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Command,
    Answer,
    /// A transfer object inside commands and answers.
    Value,
    Enum,
}

/// One known class. Versions are those of the schemas: `4.19.1`, `4.20.2`, `4.22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    pub name: &'static str,
    pub kind: Kind,
    pub since: &'static str,
    pub until: &'static str,
}

static CLASSES: LazyLock<Vec<Class>> = LazyLock::new(|| LIST.lines().filter_map(parse).collect());

fn parse(line: &'static str) -> Option<Class> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let kind = match words.next()? {
        "command" => Kind::Command,
        "answer" => Kind::Answer,
        "enum" => Kind::Enum,
        _ => Kind::Value,
    };
    Some(Class { name, kind, since: words.next()?, until: words.next()? })
}

/// All known classes, sorted by name.
pub fn all() -> &'static [Class] {
    &CLASSES
}

/// The class with this fully qualified name.
pub fn find(name: &str) -> Option<&'static Class> {
    let at = CLASSES.binary_search_by(|class| class.name.cmp(name)).ok()?;
    CLASSES.get(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_complete() {
        assert_eq!(all().len(), LIST.lines().count());
        assert!(all().windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(all().iter().filter(|c| c.kind == Kind::Command).count() > 200);
    }

    #[test]
    fn classes_are_found_by_name() {
        assert_eq!(find("com.cloud.agent.api.ReadyCommand").unwrap().kind, Kind::Command);
        let migrate = find("com.cloud.agent.api.MigrateAgentConnectionCommand").unwrap();
        assert_eq!((migrate.since, migrate.until), ("4.22", "4.22"));
        assert!(find("com.cloud.agent.api.NoSuchCommand").is_none());
    }
}
