//! Lossless editor of `agent.properties`: every byte that is not edited is written back as it was read.
//!
//! Reads what `java.util.Properties` reads, including files that the Java agent has rewritten. Matches keys
//! exactly, never by prefix: `host` must not touch `host.reserved.mem.mb`. Does no I/O.

mod syntax;
#[cfg(test)]
mod tests;

use std::fmt;

/// Largest file that is read: 1 MiB, some hundred times a real one.
pub const MAX_BYTES: usize = 1 << 20;

/// Why bytes are not taken as a properties file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    #[error("{length} bytes are more than a properties file may have ({MAX_BYTES}): check what wrote it")]
    TooLarge { length: usize },
}

/// A properties file in memory. Equality is equality of the bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// Logical lines in file order; joined they are the file.
    lines: Vec<Line>,
}

#[derive(Clone, PartialEq, Eq)]
struct Line {
    /// The bytes as they stand in the file, line ends included.
    raw: Vec<u8>,
    /// `None` for comments and blank lines.
    entry: Option<Entry>,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    key: String,
    value: String,
}

impl Line {
    fn new(key: &str, value: &str, line_end: &[u8]) -> Line {
        let mut raw = syntax::entry_text(key, value);
        raw.extend_from_slice(line_end);
        Line { raw, entry: Some(Entry { key: key.to_owned(), value: value.to_owned() }) }
    }

    fn has_key(&self, key: &str) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.key == key)
    }

    fn line_end(&self) -> &[u8] {
        let start = self.raw.len() - syntax::line_end_length(&self.raw);
        self.raw.get(start..).unwrap_or_default()
    }

    /// Whether text that follows would be read as part of this line (a final backslash).
    fn continues(&self) -> bool {
        let mut probe = self.raw.clone();
        probe.push(b'x');
        syntax::logical_line(&probe).length == probe.len()
    }

    fn natural_lines(&self) -> usize {
        let returns = self.raw.iter().filter(|byte| **byte == b'\r').count();
        let feeds = self.raw.iter().filter(|byte| **byte == b'\n').count();
        let pairs = self.raw.windows(2).filter(|pair| *pair == b"\r\n").count();
        returns + feeds - pairs
    }
}

impl Properties {
    /// Parses a file. Any text is accepted; only the size is limited ([`MAX_BYTES`]).
    pub fn parse(bytes: &[u8]) -> Result<Properties, PropertiesError> {
        if bytes.len() > MAX_BYTES {
            return Err(PropertiesError::TooLarge { length: bytes.len() });
        }
        let mut lines = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let logical = syntax::logical_line(rest);
            let (raw, behind) = rest.split_at(logical.length.clamp(1, rest.len()));
            let entry = logical.text.map(|text| {
                let (key, value) = syntax::key_and_value(&text);
                Entry { key, value }
            });
            lines.push(Line { raw: raw.to_vec(), entry });
            rest = behind;
        }
        Ok(Properties { lines })
    }

    /// The unescaped value of `key`; of several lines the last one counts.
    pub fn get(&self, key: &str) -> Option<&str> {
        let line = self.lines.iter().rfind(|line| line.has_key(key))?;
        line.entry.as_ref().map(|entry| entry.value.as_str())
    }

    /// Number (from 1) of the line where the value of `key` starts.
    pub fn line_of(&self, key: &str) -> Option<usize> {
        let index = self.lines.iter().rposition(|line| line.has_key(key))?;
        Some(1 + self.lines.iter().take(index).map(Line::natural_lines).sum::<usize>())
    }

    /// Gives `key` a value: edits the line that counts or appends one. Returns whether anything changed.
    pub fn set(&mut self, key: &str, value: &str) -> bool {
        if self.get(key) == Some(value) {
            return false;
        }
        match self.lines.iter_mut().rfind(|line| line.has_key(key)) {
            Some(line) => {
                let line_end = line.line_end().to_vec();
                *line = Line::new(key, value, &line_end);
            }
            None => self.append(key, value),
        }
        true
    }

    /// Removes every line of `key`. Returns whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| !line.has_key(key));
        self.lines.len() != before
    }

    /// Keys and unescaped values in file order. A repeated key appears each time; its last value counts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines
            .iter()
            .filter_map(|line| line.entry.as_ref())
            .map(|entry| (entry.key.as_str(), entry.value.as_str()))
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.raw.iter().copied()).collect()
    }

    fn append(&mut self, key: &str, value: &str) {
        let file_end = self.lines.iter().map(Line::line_end).find(|end| !end.is_empty());
        let file_end = file_end.unwrap_or(b"\n").to_vec();
        if let Some(last) = self.lines.last_mut() {
            if last.line_end().is_empty() {
                last.raw.extend_from_slice(&file_end);
            }
            if last.continues() {
                // An empty line ends the continuation without changing the value. It has to use the same
                // line end: `\n` after `\r` would merge with it.
                let own_end = last.line_end().to_vec();
                last.raw.extend_from_slice(&own_end);
            }
        }
        self.lines.push(Line::new(key, value, &file_end));
    }
}

/// Keys only: values may be secret.
impl fmt::Debug for Properties {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter().map(|(key, _)| key)).finish()
    }
}
