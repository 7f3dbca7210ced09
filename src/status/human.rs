//! Numbers and durations as people read them, and text from outside made safe for a terminal.

use std::time::Duration;

/// Longest piece of foreign text shown on one line, in characters.
const MAX_TEXT: usize = 300;

/// `0.2ms`, `14ms`, `1.9s`: a latency given in milliseconds.
pub fn latency(ms: f64) -> String {
    if ms < 9.95 {
        format!("{ms:.1}ms")
    } else if ms < 999.5 {
        format!("{ms:.0}ms")
    } else {
        format!("{:.1}s", ms / 1000.0)
    }
}

/// `17s`, `4m12s`, `5h03m`, `3d 04h`.
pub fn duration(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d {:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// Like [`duration`], but days carry a clock: `3d 04:12`.
pub fn uptime(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..86_400 => duration(span),
        _ => format!("{}d {:02}:{:02}", s / 86_400, s % 86_400 / 3_600, s % 3_600 / 60),
    }
}

/// Binary units with one decimal: `251.5 GiB`.
pub fn bytes_exact(bytes: u64) -> String {
    let (value, unit) = scale(bytes);
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Binary units, one decimal below ten: `1.8 TiB`, `412 GiB`.
pub fn bytes(bytes: u64) -> String {
    let (value, unit) = scale(bytes);
    if unit == "B" || value >= 9.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn scale(bytes: u64) -> (f64, &'static str) {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        // Just under 1024 already reads as the next unit, instead of "1024 MiB".
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    (value, unit)
}

/// Digits in groups of three: `18 204`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 warning`, `2 warnings`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Every UUID in `text` cut to its first four digits: `/mnt/9a71...`.
pub fn short_uuids(text: &str) -> String {
    let mut rest = text;
    let mut short = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        match rest.get(..36).filter(|head| is_uuid(head)) {
            Some(head) => {
                short.push_str(head.get(..4).unwrap_or(head));
                short.push_str("...");
                rest = rest.get(36..).unwrap_or("");
            }
            None => {
                short.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or("");
            }
        }
    }
    short
}

fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

/// Text from the network or a file for one line of a terminal: no control characters (escape
/// sequences would let a server paint the operator's screen), no direction marks, bounded length.
pub fn clean(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { ' ' } else { c };
    let tricky =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let all = text.chars().filter(|c| !tricky(*c)).map(harmless);
    let mut clean: String = all.skip_while(|c| c.is_whitespace()).take(MAX_TEXT + 1).collect();
    clean.truncate(clean.trim_end().len());
    if clean.chars().count() > MAX_TEXT {
        clean = clean.chars().take(MAX_TEXT - 3).collect();
        clean.push_str("...");
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let text = |s| duration(Duration::from_secs(s));
        assert_eq!(text(3), "3s");
        assert_eq!(text(252), "4m12s");
        assert_eq!(text(5 * 3_600 + 200), "5h03m");
        assert_eq!(text(273_600), "3d 04h");
        assert_eq!(uptime(Duration::from_secs(274_320)), "3d 04:12");
        assert_eq!(uptime(Duration::from_secs(59)), "59s");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(412 << 30), "412 GiB");
        assert_eq!(bytes(20 << 40), "20 TiB");
        assert_eq!(bytes(1_979_120_929_996), "1.8 TiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes_exact(270_046_082_662), "251.5 GiB");
        assert_eq!(bytes_exact(1 << 30), "1.0 GiB");
    }

    #[test]
    fn numbers() {
        assert_eq!(grouped(18_204), "18 204");
        assert_eq!(grouped(204), "204");
        assert_eq!(grouped(1_000_000), "1 000 000");
        assert_eq!(count(1, "VM"), "1 VM");
        assert_eq!(count(0, "VM"), "0 VMs");
        assert_eq!(latency(14.2), "14ms");
        assert_eq!(latency(999.9), "1.0s");
    }

    #[test]
    fn uuids_are_cut_anywhere_in_the_text() {
        let uuid = "9a71bc00-1234-4abc-8def-0123456789ab";
        assert_eq!(short_uuids(&format!("/mnt/{uuid}/x")), "/mnt/9a71.../x");
        assert_eq!(
            short_uuids(&format!("{uuid}-LibvirtComputingResource")),
            "9a71...-LibvirtComputingResource"
        );
        assert_eq!(short_uuids("größe"), "größe");
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(clean("\u{1b}[2Jhello\r\nworld\u{202e}"), "[2Jhello  world");
        let long = clean(&"x".repeat(5_000));
        assert_eq!(long.len(), 300);
        assert!(long.ends_with("..."));
    }
}
