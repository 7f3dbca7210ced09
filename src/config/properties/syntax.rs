//! The text rules of Java properties (`java.util.Properties.load`): lines, keys, values, escapes.
//!
//! Pure functions over bytes. Reading never fails: what Java would reject (a broken `\u` escape) is read
//! like any other unneeded backslash, because one odd line must not take the host out of service.

/// Blanks inside a line, as Java counts them.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0c)
}

/// Number of bytes of the line end (`\n`, `\r` or `\r\n`) that `bytes` finish with.
pub(super) fn line_end_length(bytes: &[u8]) -> usize {
    match bytes {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n' | b'\r'] => 1,
        _ => 0,
    }
}

/// Length of the first natural line without and with its line end.
fn natural_line(bytes: &[u8]) -> (usize, usize) {
    let text = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len());
    let end = match bytes.get(text..) {
        Some([b'\r', b'\n', ..]) => 2,
        Some([_, ..]) => 1,
        _ => 0,
    };
    (text, text + end)
}

/// One logical line: how many bytes of the file it spans, and its joined text if it is an entry.
pub(super) struct LogicalLine {
    pub(super) length: usize,
    /// `None` for comments and blank lines.
    pub(super) text: Option<Vec<u8>>,
}

/// Takes the first logical line of `bytes`, joining the natural lines that a final backslash continues.
pub(super) fn logical_line(bytes: &[u8]) -> LogicalLine {
    let mut length = 0;
    let mut text = Vec::new();
    loop {
        let rest = bytes.get(length..).unwrap_or_default();
        let (content_length, whole_length) = natural_line(rest);
        let content = rest.get(..content_length).unwrap_or_default();
        let blanks = content.iter().take_while(|byte| is_blank(**byte)).count();
        let content = content.get(blanks..).unwrap_or_default();
        let first = length == 0;
        length += whole_length;
        // A comment is one only at the start of a logical line, and is never continued.
        if first && matches!(content.first(), None | Some(b'#' | b'!')) {
            return LogicalLine { length, text: None };
        }
        text.extend_from_slice(content);
        if content.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0 {
            break;
        }
        text.pop();
        if length >= bytes.len() {
            break;
        }
    }
    LogicalLine { length, text: (!text.is_empty()).then_some(text) }
}

/// Splits the text of an entry into its unescaped key and value.
pub(super) fn key_and_value(text: &[u8]) -> (String, String) {
    let mut escaped = false;
    let key_length = text
        .iter()
        .position(|byte| {
            let ends = !escaped && (is_blank(*byte) || matches!(byte, b'=' | b':'));
            escaped = *byte == b'\\' && !escaped;
            ends
        })
        .unwrap_or(text.len());
    let (key, rest) = text.split_at(key_length);
    let mut separator_seen = false;
    let between = rest
        .iter()
        .take_while(|byte| match byte {
            b'=' | b':' if !separator_seen => {
                separator_seen = true;
                true
            }
            byte => is_blank(**byte),
        })
        .count();
    (unescape(key), unescape(rest.get(between..).unwrap_or_default()))
}

/// Latin-1 bytes with escapes to text. Surrogate pairs are joined, lone surrogates become U+FFFD.
fn unescape(bytes: &[u8]) -> String {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            units.push(u16::from(*byte));
            continue;
        }
        match rest.next() {
            Some(b't') => units.push(0x09),
            Some(b'n') => units.push(0x0a),
            Some(b'f') => units.push(0x0c),
            Some(b'r') => units.push(0x0d),
            Some(b'u') => match rest.as_slice().get(..4).and_then(hex_unit) {
                Some(unit) => {
                    units.push(unit);
                    rest.nth(3);
                }
                None => units.push(u16::from(b'u')),
            },
            Some(other) => units.push(u16::from(*other)),
            None => {}
        }
    }
    String::from_utf16_lossy(&units)
}

fn hex_unit(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0u16, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some((unit << 4) | u16::try_from(digit).ok()?)
    })
}

/// `key=value` as this agent writes it, without line end.
///
/// Shell scripts cut the raw text after `key=`, so of the characters that Java's writer escapes only those
/// are escaped that would otherwise not read back: backslash, line ends, a leading blank, non-ASCII.
pub(super) fn entry_text(key: &str, value: &str) -> Vec<u8> {
    let mut text = String::with_capacity(key.len() + value.len() + 1);
    for (index, character) in key.chars().enumerate() {
        if matches!(character, ' ' | ':' | '=') || (index == 0 && matches!(character, '#' | '!')) {
            text.push('\\');
            text.push(character);
        } else {
            push_escaped(&mut text, character);
        }
    }
    text.push('=');
    for (index, character) in value.chars().enumerate() {
        if index == 0 && character == ' ' {
            text.push('\\');
        }
        push_escaped(&mut text, character);
    }
    text.into_bytes()
}

fn push_escaped(text: &mut String, character: char) {
    match character {
        '\\' => text.push_str("\\\\"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        '\u{c}' => text.push_str("\\f"),
        ' '..='~' => text.push(character),
        other => {
            for unit in other.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04X}"));
            }
        }
    }
}
