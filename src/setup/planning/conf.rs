//! Editor of files with lines `key = value`, as libvirt's and those in /etc/default: keys match exactly,
//! and every line that is not edited stays as it was.

/// The value of `key` that is in force, as written in the file; `None` if it is not set.
pub fn get<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    // Of several, libvirt takes the first.
    text.lines().find_map(|line| value_in(line, key))
}

/// The text with `key` set to `value` (quotes included); `None` if it is so already. A key that is not set
/// goes below its commented-out line, if there is one.
pub fn set(text: &str, key: &str, value: &str) -> Option<String> {
    let found: Vec<&str> = text.lines().filter_map(|line| value_in(line, key)).collect();
    if !found.is_empty() && found.iter().all(|old| unquoted(old) == unquoted(value)) {
        return None;
    }
    // Without blanks: files for the shell need it so, and CloudStack's scripts look for it so.
    let line = format!("{key}={value}");
    Some(if found.is_empty() { inserted(text, key, &line) } else { replaced(text, key, &line) })
}

/// Sets `key` unless it is not in the file and the program's own default is the same.
pub fn set_unless_default(text: &str, key: &str, value: &str) -> Option<String> {
    get(text, key).and_then(|_| set(text, key, value))
}

/// A value without its quotes.
pub fn unquoted(value: &str) -> &str {
    let inner = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

/// Replaces the first line of `key` and drops the others: whichever counts for the reader, it is this one.
fn replaced(text: &str, key: &str, line: &str) -> String {
    let mut line = Some(line);
    let mut result = String::with_capacity(text.len());
    for old in text.split_inclusive('\n') {
        if value_in(old, key).is_none() {
            result.push_str(old);
        } else if let Some(new) = line.take() {
            result.push_str(new);
            result.push('\n');
        }
    }
    result
}

fn inserted(text: &str, key: &str, line: &str) -> String {
    let is_example = |old: &str| old.strip_prefix('#').is_some_and(|rest| value_in(rest, key).is_some());
    let last = text.split_inclusive('\n').enumerate().filter(|(_, old)| is_example(old)).last();
    let mut result = String::with_capacity(text.len() + line.len() + 2);
    for (number, old) in text.split_inclusive('\n').enumerate() {
        result.push_str(old);
        if last.is_some_and(|(example, _)| example == number) {
            end_line(&mut result);
            result.push_str(line);
            result.push('\n');
        }
    }
    if last.is_none() {
        end_line(&mut result);
        result.push_str(line);
        result.push('\n');
    }
    result
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// The value in a line, if the line sets exactly `key`.
fn value_in<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.trim().strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
    let quoted = |quote: char| {
        let inner = rest.strip_prefix(quote)?;
        rest.get(..inner.find(quote)? + 2)
    };
    quoted('"').or_else(|| quoted('\'')).or_else(|| Some(rest.split('#').next().unwrap_or(rest).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBVIRTD: &str = "# Flag\n#listen_tls = 0\n\n#tls_port = \"16514\"\nauth_tls = \"sasl\" # why\n";

    #[test]
    fn a_key_goes_below_its_example() {
        let text = set(LIBVIRTD, "listen_tls", "1").unwrap();
        assert_eq!(
            text,
            "# Flag\n#listen_tls = 0\nlisten_tls=1\n\n#tls_port = \"16514\"\nauth_tls = \"sasl\" # why\n"
        );
        assert_eq!(get(&text, "listen_tls"), Some("1"));
        assert_eq!(set(&text, "listen_tls", "1"), None, "the second time changes nothing");
    }

    #[test]
    fn a_value_is_replaced_in_its_place() {
        assert_eq!(get(LIBVIRTD, "auth_tls"), Some("\"sasl\""));
        let text = set(LIBVIRTD, "auth_tls", "\"none\"").unwrap();
        assert!(text.ends_with("#tls_port = \"16514\"\nauth_tls=\"none\"\n"), "{text}");
    }

    #[test]
    fn only_the_whole_key_counts() {
        let text = "user_name = \"x\"\nmyuser = 1\nusers=2\n";
        assert_eq!(get(text, "user"), None);
        assert_eq!(set(text, "user", "\"root\"").unwrap(), format!("{text}user=\"root\"\n"));
    }

    #[test]
    fn repeated_keys_become_one() {
        let text = set("a=1\nb=2\n a = 3\n", "a", "4").unwrap();
        assert_eq!(text, "a=4\nb=2\n");
        assert_eq!(set("a=1\na = \"1\"\n", "a", "1"), None);
    }

    #[test]
    fn files_without_a_last_line_end_and_empty_ones() {
        assert_eq!(set("x=1", "y", "2").unwrap(), "x=1\ny=2\n");
        assert_eq!(set("", "y", "2").unwrap(), "y=2\n");
        assert_eq!(set("#y=1", "y", "2").unwrap(), "#y=1\ny=2\n");
    }

    #[test]
    fn defaults_need_no_line() {
        assert_eq!(set_unless_default("#tcp_port = 1\n", "tcp_port", "\"16509\""), None);
        assert!(set_unless_default("tcp_port = \"1\"\n", "tcp_port", "\"16509\"").is_some());
    }
}
