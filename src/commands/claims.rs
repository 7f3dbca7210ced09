//! What a command needs to itself, or needs not to change, while it runs.

use std::collections::BTreeMap;

/// A thing that commands must not touch at the same time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A guest, by its internal name (`i-2-10-VM`).
    Guest(String),
    /// A volume, template or snapshot: pool id and file name.
    Volume { pool: String, name: String },
    /// A storage pool, by its id.
    Pool(String),
    /// Key and certificate files of this host.
    Certificate,
    /// The list of management servers and other agent settings.
    Settings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Shared,
    Exclusive,
}

/// Keys with the way they are used. Commands whose claims conflict run in order of arrival; two that
/// only share a key (clones of one template) run at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<Key, Mode>);

impl Claims {
    pub fn none() -> Claims {
        Claims::default()
    }

    /// Nothing else may use `key` meanwhile.
    #[must_use]
    pub fn exclusive(mut self, key: Key) -> Claims {
        self.0.insert(key, Mode::Exclusive);
        self
    }

    /// `key` must stay as it is meanwhile.
    #[must_use]
    pub fn shared(mut self, key: Key) -> Claims {
        self.0.entry(key).or_insert(Mode::Shared);
        self
    }

    /// The claims of both.
    #[must_use]
    pub fn and(mut self, other: Claims) -> Claims {
        for (key, mode) in other.0 {
            let held = self.0.entry(key).or_insert(mode);
            *held = mode.max(*held);
        }
        self
    }

    /// Names of the guests and files that are claimed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|key| match key {
            Key::Guest(name) | Key::Volume { name, .. } => Some(name.as_str()),
            Key::Pool(_) | Key::Certificate | Key::Settings => None,
        })
    }

    /// Whether both may hold at the same time.
    pub fn compatible(&self, other: &Claims) -> bool {
        let (few, many) = if self.0.len() <= other.0.len() { (self, other) } else { (other, self) };
        few.0.iter().all(|(key, mode)| match many.0.get(key) {
            None => true,
            Some(held) => (*mode, *held) == (Mode::Shared, Mode::Shared),
        })
    }
}

impl From<Key> for Claims {
    fn from(key: Key) -> Claims {
        Claims::none().exclusive(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str) -> Key {
        Key::Guest(name.into())
    }

    #[test]
    fn only_sharing_is_compatible() {
        let shared = Claims::none().shared(guest("a"));
        let exclusive = Claims::none().exclusive(guest("a"));
        assert!(shared.compatible(&shared));
        assert!(!shared.compatible(&exclusive) && !exclusive.compatible(&shared));
        assert!(!exclusive.compatible(&exclusive));
        assert!(exclusive.compatible(&Claims::none().exclusive(guest("b"))));
        assert!(exclusive.compatible(&Claims::none()));
    }

    #[test]
    fn the_stronger_claim_wins() {
        let both = Claims::none().exclusive(guest("a")).shared(guest("a"));
        assert_eq!(both, Claims::from(guest("a")));
        assert_eq!(Claims::none().shared(guest("a")).and(Claims::from(guest("a"))), both);
    }
}
