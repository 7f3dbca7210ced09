//! JSON written the way the servers' serializer writes it (Gson, HTML-safe).
//!
//! Non-ASCII characters are escaped, because the peer decodes with its JVM's default charset.

use serde::Serialize;
use serde_json::ser::Formatter;
use std::io;

/// Compact JSON; `< > & = '` and everything outside ASCII become `\uXXXX`.
#[derive(Debug, Clone, Copy, Default)]
pub struct GsonFormatter;

fn needs_escape(c: char) -> bool {
    matches!(c, '<' | '>' | '&' | '=' | '\'') || !c.is_ascii()
}

impl Formatter for GsonFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(needs_escape) {
            let (plain, tail) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// `value` as JSON text. Fails only if `value`'s own `Serialize` fails.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let mut out = Vec::with_capacity(256);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, GsonFormatter))?;
    // The formatter writes ASCII only, so this never replaces anything.
    Ok(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_like_the_server_does() {
        assert_eq!(
            to_string("a<b>&c='d'/\n\"é😀").unwrap(),
            r#""a\u003cb\u003e\u0026c\u003d\u0027d\u0027/\n\"\u00e9\ud83d\ude00""#
        );
    }
}
