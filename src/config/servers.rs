//! The list of management servers (`host` in `agent.properties`, `AgentShell.setHosts` in Java).

use super::value;
use std::fmt;

/// Most servers of a list, and most characters of a name: lists also come from the network.
const MAX_SERVERS: usize = 64;
const MAX_NAME: usize = 253;

/// Management servers in order of preference. `Display` gives the notation of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerList {
    /// Host names or addresses, at least one.
    pub hosts: Vec<String>,
    /// Balancing algorithm as the server names it (`static`, `roundrobin`, `shuffle`).
    pub algorithm: Option<String>,
}

impl ServerList {
    /// Parses `a,b@shuffle`. `None` for an empty list, an unreplaced template (`@...@`), or anything that
    /// cannot be a host name or address.
    pub fn parse(text: &str) -> Option<ServerList> {
        let text = text.trim();
        if value::is_template(text) {
            return None;
        }
        let (hosts, algorithm) = match text.split_once('@') {
            Some((hosts, algorithm)) => (hosts, Some(algorithm.trim())),
            None => (text, None),
        };
        let algorithm = algorithm.filter(|name| !name.is_empty());
        if algorithm.is_some_and(|name| name.len() > 64 || !name.chars().all(|c| c.is_ascii_alphanumeric())) {
            return None;
        }
        let hosts: Vec<String> =
            hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect();
        let sane = (1..=MAX_SERVERS).contains(&hosts.len()) && hosts.iter().all(|host| is_host(host));
        sane.then(|| ServerList { hosts, algorithm: algorithm.map(str::to_owned) })
    }
}

fn is_host(text: &str) -> bool {
    let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%' | '[' | ']');
    text.len() <= MAX_NAME && text.chars().all(sane)
}

impl fmt::Display for ServerList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.hosts.join(","))?;
        match &self.algorithm {
            Some(algorithm) => write!(out, "@{algorithm}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> Vec<String> {
        ServerList::parse(text).expect("a list").hosts
    }

    #[test]
    fn parses_hosts_and_algorithm() {
        let list = ServerList::parse("10.0.0.5, ms2.example.net@shuffle").expect("a list");
        assert_eq!(list.hosts, ["10.0.0.5", "ms2.example.net"]);
        assert_eq!(list.algorithm.as_deref(), Some("shuffle"));
        assert_eq!(list.to_string(), "10.0.0.5,ms2.example.net@shuffle");
        assert_eq!(hosts("fe80::1%eth0,[::1],,"), ["fe80::1%eth0", "[::1]"]);
        assert_eq!(ServerList::parse("a@").map(|list| list.to_string()).as_deref(), Some("a"));
    }

    #[test]
    fn refuses_templates_empty_lists_and_strange_names() {
        for text in ["@MSHOST@", "@@", "@static", "", ",", "a b", "a\nb", "http://a/", "a@b@c", "é"] {
            assert_eq!(ServerList::parse(text), None, "{text:?}");
        }
        assert!(ServerList::parse(&vec!["a"; 65].join(",")).is_none());
        assert!(ServerList::parse(&"a".repeat(254)).is_none());
        assert_eq!(hosts(&vec!["a"; 64].join(",")).len(), 64);
    }
}
