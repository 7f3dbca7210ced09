//! URLs of templates: read, resolved, and shown without what is secret in them. Pure.

use hyper::Uri;

/// The URL of a template; what is wrong with it is not repeated, as it may hold credentials.
pub(super) fn parse_url(text: &str) -> Option<Uri> {
    let url: Uri = text.trim().parse().ok()?;
    (url.scheme().is_some() && url.host().is_some_and(|host| !host.is_empty())).then_some(url)
}

/// The beginning of a URL, without credentials and query, for a message.
pub(super) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{rest}").chars().take(200).collect()
        }
        None => plain.chars().take(200).collect(),
    }
}

/// Where a `Location` leads; RFC 3986, 5.2 without dot segments, which servers resolve themselves.
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?.trim();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?.as_str());
    let absolute = if location.contains("://") && !location.starts_with(['/', '?']) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    parse_url(&absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_the_url() {
        let base = parse_url("http://h:8000/a/b?c").unwrap();
        for (location, expected) in [
            ("https://x/y", "https://x/y"),
            ("//x/y", "http://x/y"),
            ("/y", "http://h:8000/y"),
            ("y", "http://h:8000/a/y"),
            ("?d", "http://h:8000/a/b?d"),
            ("/y?u=http://z/#part", "http://h:8000/y?u=http://z/"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn messages_do_not_repeat_credentials() {
        assert_eq!(shown("ftp://user:canary@h/x?token=canary"), "ftp://h/x");
    }
}
