//! Reads typed values out of [`Properties`] and remembers everything that is wrong with them.

use super::error::InvalidValue;
use super::keys::{self, KEYS, Key, Kind, Reload};
use super::properties::Properties;
use super::value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Unknown keys that are named one by one in warnings.
const MOST_UNKNOWN_KEYS: usize = 20;

/// The values that keys with [`Reload::Restart`] had when the agent started to use the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pins(BTreeMap<&'static str, Option<String>>);

impl Pins {
    pub(super) fn of(file: &Properties) -> Pins {
        let pinned = KEYS.iter().filter(|key| key.reload == Reload::Restart);
        Pins(pinned.map(|key| (key.name, given(file, key.name).map(str::to_owned))).collect())
    }

    /// Takes over a value that the agent itself has stored.
    pub(super) fn update(&mut self, key: &str, value: Option<&str>) {
        if let Some(pin) = self.0.get_mut(key) {
            *pin = value.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned);
        }
    }

    /// Keys whose value in the file waits for a restart.
    pub(super) fn differing(&self, file: &Properties) -> Vec<String> {
        let differs = |(key, pin): &(&&'static str, &Option<String>)| given(file, key) != pin.as_deref();
        self.0.iter().filter(differs).map(|(key, _)| (*key).to_owned()).collect()
    }
}

/// The trimmed value of a key; blank counts as missing.
fn given<'a>(file: &'a Properties, key: &str) -> Option<&'a str> {
    file.get(key).map(str::trim).filter(|value| !value.is_empty())
}

/// One pass over a file.
pub(super) struct Reader<'a> {
    file: &'a Properties,
    pins: Option<&'a Pins>,
    used: BTreeSet<&'static str>,
    invalid: Vec<InvalidValue>,
    warnings: Vec<String>,
}

/// What a pass has found besides values.
pub(super) struct Findings {
    pub(super) invalid: Vec<InvalidValue>,
    pub(super) warnings: Vec<String>,
    /// Usable values that are given in the file, of every known key that is not secret.
    pub(super) values: BTreeMap<&'static str, String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Properties, pins: Option<&'a Pins>) -> Reader<'a> {
        Reader { file, pins, used: BTreeSet::new(), invalid: Vec::new(), warnings: Vec::new() }
    }

    fn given(&self, key: &str) -> Option<&'a str> {
        match self.pins.and_then(|pins| pins.0.get(key)) {
            Some(pin) => pin.as_deref(),
            None => given(self.file, key),
        }
    }

    /// The value or the default of `key` as `parse` understands it. A given value that `parse` refuses is
    /// remembered as invalid.
    pub(super) fn read<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let expected = keys::find(key).map_or("text", |key| key.kind.expected());
        self.read_expecting(key, expected, parse)
    }

    /// Like [`Reader::read`], with other words for what is expected.
    pub(super) fn read_expecting<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.used.insert(key);
        let default = keys::find(key).and_then(|key| key.default);
        let Some(text) = self.given(key) else { return default.and_then(parse) };
        let parsed = parse(text);
        if parsed.is_none() {
            self.invalid(key, expected.to_owned());
        }
        parsed
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.read(key, |text| Some(text.to_owned()))
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> bool {
        self.read(key, value::boolean).unwrap_or_default()
    }

    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<T> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.read_expecting(key, &expected, |text| {
            let number = text.parse().ok().filter(|number| range.contains(number))?;
            T::try_from(number).ok()
        })
    }

    /// The untrimmed value: every blank of a secret counts.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<&'a str> {
        self.used.insert(key);
        self.file.get(key).filter(|value| !value.trim().is_empty())
    }

    /// Remembers that the value of `key` cannot be used.
    pub(super) fn invalid(&mut self, key: &'static str, expected: String) {
        let finding = self.finding(key, expected);
        self.invalid.push(finding);
    }

    /// Remembers an oddity of `key` that does no harm; `text` follows the key's name.
    pub(super) fn warn(&mut self, key: &str, text: &str) {
        let place = self.file.line_of(key).map(|line| format!("line {line}: ")).unwrap_or_default();
        self.warnings.push(format!("{place}{key} {text}"));
    }

    fn finding(&self, key: &str, expected: String) -> InvalidValue {
        let shown = match keys::find(key).map(|key| key.kind) {
            Some(Kind::Secret) => "***".to_owned(),
            _ => self.given(key).unwrap_or_default().chars().take(80).collect(),
        };
        InvalidValue { key: key.to_owned(), line: self.file.line_of(key), found: shown, expected }
    }

    /// Checks the keys that nobody has read so far and ends the pass.
    pub(super) fn finish(mut self) -> Findings {
        let mut values = BTreeMap::new();
        for key in KEYS.iter().filter(|key| key.kind != Kind::Secret) {
            let Some(text) = self.given(key.name) else { continue };
            if self.used.contains(key.name) || key.kind.accepts(text) {
                values.insert(key.name, text.to_owned());
            } else {
                self.warn_of_default(key);
            }
        }
        self.warn_of_unknown_and_repeated_keys();
        Findings { invalid: self.invalid, warnings: self.warnings, values }
    }

    fn warn_of_default(&mut self, key: &Key) {
        let finding = self.finding(key.name, key.kind.expected().to_owned());
        let default = key.default.unwrap_or("nothing");
        self.warnings.push(format!("{finding}; the default ({default}) is used"));
    }

    fn warn_of_unknown_and_repeated_keys(&mut self) {
        let mut seen = BTreeSet::new();
        let mut unknown = BTreeSet::new();
        let mut repeated = BTreeSet::new();
        for (key, _) in self.file.iter() {
            if keys::find(key).is_none() {
                unknown.insert(key);
            } else if !seen.insert(key) {
                repeated.insert(key);
            }
        }
        for key in repeated {
            self.warn(key, "is given more than once: this last value counts, remove the others");
        }
        for key in unknown.iter().take(MOST_UNKNOWN_KEYS) {
            self.warn(key, "is not a known key and has no effect: check the spelling");
        }
        if let Some(more @ 1..) = unknown.len().checked_sub(MOST_UNKNOWN_KEYS) {
            self.warnings.push(format!("{more} more keys are not known and have no effect"));
        }
    }
}
