//! Reading single values.

use std::net::SocketAddr;
use uuid::Uuid;

/// Accepts what Java's converter accepts, in any case of letters.
pub(super) fn boolean(text: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is(&["true", "yes", "y", "on", "1"]) {
        Some(true)
    } else if is(&["false", "no", "n", "off", "0"]) {
        Some(false)
    } else {
        None
    }
}

/// Entries between commas, trimmed. Empty entries at the end do not count, as with Java's `split`.
pub(super) fn list(text: &str) -> Vec<&str> {
    let mut entries: Vec<&str> = text.split(',').map(str::trim).collect();
    while entries.last().is_some_and(|entry| entry.is_empty()) {
        entries.pop();
    }
    entries
}

/// A UUID in its usual notation only: the text is compared and stored on the server.
pub(super) fn uuid(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

/// Where to listen: names would be looked up at some other time. Port 0 would be another one each time.
pub(super) fn socket(text: &str) -> Option<SocketAddr> {
    text.parse().ok().filter(|address: &SocketAddr| address.port() != 0)
}

/// What the kernel takes as interface name (`dev_valid_name`): it becomes part of paths below /sys.
pub(super) fn is_device_name(text: &str) -> bool {
    let sane = |character: char| !character.is_whitespace() && !matches!(character, '/' | ':' | '\0');
    (1..=15).contains(&text.len()) && !matches!(text, "." | "..") && text.chars().all(sane)
}

/// Whether a value is a placeholder `@...@` that an installation script did not replace.
pub(super) fn is_template(text: &str) -> bool {
    text.len() > 1 && text.starts_with('@') && text.ends_with('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_in_any_case() {
        assert!(["true", "YES", "y", "On", "1"].iter().all(|text| boolean(text) == Some(true)));
        assert!(["false", "NO", "n", "Off", "0"].iter().all(|text| boolean(text) == Some(false)));
        assert!(["", "t", "2", "truе"].iter().all(|text| boolean(text).is_none()));
    }

    #[test]
    fn lists_drop_only_trailing_empty_entries() {
        assert_eq!(list(" a , b,,c,, "), ["a", "b", "", "c"]);
        assert!(list(" , ").is_empty());
    }

    #[test]
    fn device_names_follow_the_kernel() {
        assert!(["eth0", "cloudbr1", "bond0.100", "fifteen-letters"].iter().all(|name| is_device_name(name)));
        assert!(
            ["", ".", "..", "a b", "a/b", "a:b", "sixteen-letters!"].iter().all(|name| !is_device_name(name))
        );
    }

    #[test]
    fn uuids_need_their_hyphens() {
        assert!(uuid("8F337C97-3339-3d70-9388-3bd28ddb6588").is_some());
        assert!(uuid("8f337c9733393d7093883bd28ddb6588").is_none());
        assert!(uuid("8f337c97-3339-3d70-9388-3bd28ddb658x").is_none());
    }
}
