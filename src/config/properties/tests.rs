use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Properties {
    Properties::parse(text.as_bytes()).expect("small enough")
}

fn text(properties: &Properties) -> String {
    String::from_utf8(properties.to_bytes()).expect("ASCII")
}

#[test]
fn reads_a_file_that_the_java_agent_has_rewritten() {
    let file = parse(
        "#Storage\n#Sat Jul 04 10:11:12 UTC 2026\nhypervisor.uri=qemu\\:///system\n\
         host=10.0.0.5,10.0.0.6@shuffle\nkeystore.passphrase=a\\=b\\#c\\!\nguid=8f337c97\n",
    );
    assert_eq!(file.get("hypervisor.uri"), Some("qemu:///system"));
    assert_eq!(file.get("host"), Some("10.0.0.5,10.0.0.6@shuffle"));
    assert_eq!(file.get("keystore.passphrase"), Some("a=b#c!"));
    assert_eq!(file.line_of("guid"), Some(6));
    assert_eq!(file.iter().count(), 4);
}

#[test]
fn all_separators_and_blanks_are_java_s() {
    let file = parse("  a = 1\nb:2\nc 3\nd\t:\t4 \ne==5\nf\n=6\ng: =7\nh=\\ 8\n");
    let entries: Vec<_> = file.iter().collect();
    let wanted = [
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("d", "4 "),
        ("e", "=5"),
        ("f", ""),
        ("", "6"),
        ("g", "=7"),
        ("h", " 8"),
    ];
    assert_eq!(entries, wanted);
}

#[test]
fn escapes_and_character_set_are_java_s() {
    let file = Properties::parse(
        b"a=\\u0041\\t\\n\\q\\\\\nb=\xe9\\u00e9\\uD83D\\uDE00\nk\\ e\\:y=1\nc=\\u12\nd=\\uD83D!\n",
    )
    .expect("small enough");
    assert_eq!(file.get("a"), Some("A\t\nq\\"));
    assert_eq!(file.get("b"), Some("éé😀"));
    assert_eq!(file.get("k e:y"), Some("1"));
    assert_eq!(file.get("c"), Some("u12"), "a broken escape loses its backslash only");
    assert_eq!(file.get("d"), Some("\u{fffd}!"));
}

#[test]
fn comments_and_continuations_are_java_s() {
    let file = parse("# c \\\na=1,\\\n   2,\\\r\n\t3\n!b=2\nc=x\\\\\nd=y\\\n#z\ne=\\\n\nf=1\\");
    let entries: Vec<_> = file.iter().collect();
    let wanted = [("a", "1,2,3"), ("c", "x\\"), ("d", "y#z"), ("e", ""), ("f", "1")];
    assert_eq!(entries, wanted);
    assert_eq!(file.line_of("c"), Some(6));
    assert_eq!(file.line_of("f"), Some(11));
}

#[test]
fn line_ends_of_windows_and_old_mac_are_understood_and_kept() {
    let mut file = parse("a=1\r\nb=2\r\n");
    assert_eq!(file.get("a"), Some("1"));
    assert_eq!(file.line_of("b"), Some(2));
    assert!(file.set("a", "9"));
    assert!(file.set("c", "3"));
    assert_eq!(text(&file), "a=9\r\nb=2\r\nc=3\r\n");
    let mac = parse("a=1\rb=2");
    assert_eq!((mac.get("a"), mac.get("b"), mac.line_of("b")), (Some("1"), Some("2"), Some(2)));
}

#[test]
fn an_edit_keeps_comments_order_and_other_lines() {
    let before = "# The guid\nguid=old\n\n# hosts: keep = me\nhost : a\n  workers=5\n";
    let mut file = parse(before);
    assert!(file.set("host", "b,c@static"));
    assert!(file.set("new.key", "n"));
    assert_eq!(
        text(&file),
        "# The guid\nguid=old\n\n# hosts: keep = me\nhost=b,c@static\n  workers=5\nnew.key=n\n"
    );
    assert!(file.remove("new.key"));
    assert!(!file.remove("new.key"));
    assert!(file.set("host", "a"));
    assert_eq!(text(&file), before.replace("host : a", "host=a"));
}

#[test]
fn an_equal_value_changes_nothing_even_in_another_notation() {
    let before = "hypervisor.uri = qemu\\:///system\n";
    let mut file = parse(before);
    assert!(!file.set("hypervisor.uri", "qemu:///system"));
    assert_eq!(text(&file), before);
}

#[test]
fn keys_match_exactly() {
    let before = "host.reserved.mem.mb=4096\nhost.cache.location=/x\n#host=commented\nhos=1\n";
    let mut file = parse(before);
    assert_eq!(file.get("host"), None);
    assert!(!file.remove("host"));
    assert!(file.set("host", "10.0.0.1"));
    assert_eq!(text(&file), format!("{before}host=10.0.0.1\n"));
}

#[test]
fn of_repeated_keys_the_last_counts_and_all_go() {
    let mut file = parse("a=1\nb=x\na=2\n");
    assert_eq!(file.get("a"), Some("2"));
    assert_eq!(file.line_of("a"), Some(3));
    assert!(file.set("a", "3"));
    assert_eq!(text(&file), "a=1\nb=x\na=3\n");
    assert!(file.remove("a"));
    assert_eq!(text(&file), "b=x\n");
}

#[test]
fn appending_does_not_join_an_unfinished_last_line() {
    for (before, after) in [
        ("", "k=v\n"),
        ("a=1", "a=1\nk=v\n"),
        ("# note \\", "# note \\\nk=v\n"),
        ("a=1\\", "a=1\\\n\nk=v\n"),
        ("a=1\\\n", "a=1\\\n\nk=v\n"),
        ("b=2\r\na=1\\", "b=2\r\na=1\\\r\n\r\nk=v\r\n"),
        ("b=2\na=1\\\r", "b=2\na=1\\\r\rk=v\n"),
    ] {
        let mut file = parse(before);
        let old = file.get("a").map(str::to_owned);
        assert!(file.set("k", "v"));
        assert_eq!(text(&file), after);
        let again = parse(after);
        assert_eq!((again.get("a"), again.get("k")), (old.as_deref(), Some("v")));
    }
}

#[test]
fn written_values_suit_scripts_that_read_the_raw_text() {
    let mut file = Properties::default();
    file.set("keystore.passphrase", "p:a=s#s!");
    file.set("host", "a,b@shuffle");
    file.set("x", " lead\\trail \nnext\u{1}é😀");
    assert_eq!(
        text(&file),
        "keystore.passphrase=p:a=s#s!\nhost=a,b@shuffle\n\
         x=\\ lead\\\\trail \\nnext\\u0001\\u00E9\\uD83D\\uDE00\n"
    );
}

#[test]
fn a_value_cannot_smuggle_in_another_line() {
    let mut file = parse("guid=g\n");
    file.set("host", "a\nguid=evil\r\nguid=evil\\");
    let again = Properties::parse(&file.to_bytes()).expect("small enough");
    assert_eq!(again.get("guid"), Some("g"));
    assert_eq!(again.iter().count(), 2);
}

#[test]
fn files_over_the_limit_are_refused() {
    assert!(Properties::parse(&vec![b'a'; MAX_BYTES]).is_ok());
    let error = Properties::parse(&vec![b'a'; MAX_BYTES + 1]).expect_err("too large");
    assert_eq!(error, PropertiesError::TooLarge { length: MAX_BYTES + 1 });
}

#[test]
fn debug_output_has_no_values() {
    let shown = format!("{:?}", parse("keystore.passphrase=canary-7c1\nhost=h\n"));
    assert_eq!(shown, r#"{"keystore.passphrase", "host"}"#);
}

/// Bytes that are rich in the characters with a meaning.
fn file_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => proptest::sample::select(&b"ab=: \\\n\r\t#!u0\x0c"[..]),
        1 => any::<u8>(),
    ];
    proptest::collection::vec(byte, 0..120)
}

fn any_text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => proptest::sample::select(vec!['a', 'b', '=', ':', ' ', '\\', '\n', '\r', '\t', '#', '!', 'u', '\u{c}', '\0']),
        1 => any::<char>(),
    ];
    proptest::collection::vec(character, 0..12).prop_map(String::from_iter)
}

fn entries(file: &Properties) -> Vec<(String, String)> {
    file.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

proptest! {
    #[test]
    fn unchanged_files_keep_every_byte(bytes in file_bytes()) {
        let file = Properties::parse(&bytes).expect("small enough");
        prop_assert_eq!(file.to_bytes(), bytes);
    }

    #[test]
    fn a_set_value_reads_back_and_nothing_else_changes(
        bytes in file_bytes(), key in any_text(), value in any_text(),
    ) {
        let before = Properties::parse(&bytes).expect("small enough");
        let mut file = before.clone();
        let changed = file.set(&key, &value);
        prop_assert_eq!(changed, before.get(&key) != Some(value.as_str()));
        let again = Properties::parse(&file.to_bytes()).expect("small enough");
        prop_assert_eq!(again.get(&key), Some(value.as_str()));
        prop_assert_eq!(entries(&again), entries(&file));
        let others = |file: &Properties| -> Vec<_> {
            entries(file).into_iter().filter(|(other, _)| *other != key).collect()
        };
        prop_assert_eq!(others(&again), others(&before));
        prop_assert!(!file.set(&key, &value));
    }

    #[test]
    fn a_removed_key_is_gone_and_nothing_else_changes(bytes in file_bytes(), pick in any::<prop::sample::Index>()) {
        let before = Properties::parse(&bytes).expect("small enough");
        prop_assume!(before.iter().count() > 0);
        let key = pick.get(&entries(&before)).0.clone();
        let mut file = before.clone();
        prop_assert!(file.remove(&key));
        let again = Properties::parse(&file.to_bytes()).expect("small enough");
        prop_assert_eq!(again.get(&key), None);
        let kept: Vec<_> = entries(&before).into_iter().filter(|(other, _)| *other != key).collect();
        prop_assert_eq!(entries(&again), kept);
    }
}
