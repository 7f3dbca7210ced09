//! The list of management servers: whose turn it is, whom to avoid, who is preferred. Pure.
//!
//! The order is the server side's business (it shuffles or rotates per host); this agent goes round
//! the list as given. A list emptied by avoidance falls back to the full one.

/// Rotation over the configured servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    hosts: Vec<String>,
    /// Servers that are not up, as the servers themselves say (4.21).
    avoid: Vec<String>,
    next: usize,
}

impl Servers {
    pub fn new(hosts: Vec<String>) -> Servers {
        Servers { hosts, avoid: Vec::new(), next: 0 }
    }

    /// Takes over a list. The rotation starts anew only if the list really differs.
    pub fn set_hosts(&mut self, hosts: &[String]) {
        if self.hosts != hosts {
            self.hosts = hosts.to_vec();
            self.next = 0;
        }
    }

    pub fn set_avoid(&mut self, avoid: &[String]) {
        self.avoid = avoid.to_vec();
    }

    /// The server to dial now; `None` only if none is configured.
    pub fn take(&mut self) -> Option<String> {
        let count = self.hosts.len();
        let start = self.next % count.max(1);
        let order = (0..count).map(|n| (start + n) % count);
        let allowed =
            order.clone().find(|at| self.hosts.get(*at).is_some_and(|host| !self.avoid.contains(host)));
        let at = allowed.or_else(|| order.clone().next())?;
        self.next = at + 1;
        self.hosts.get(at).cloned()
    }

    /// Starts the next round with the first server of the list.
    pub fn prefer_first(&mut self) {
        self.next = 0;
    }

    /// First of the list that is not to be avoided: where this host should be.
    pub fn preferred(&self) -> Option<&str> {
        self.hosts.iter().find(|host| !self.avoid.contains(host)).or(self.hosts.first()).map(String::as_str)
    }

    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(hosts: &[&str]) -> Servers {
        Servers::new(hosts.iter().map(|h| (*h).to_owned()).collect())
    }

    fn taken(servers: &mut Servers, n: usize) -> Vec<String> {
        (0..n).map(|_| servers.take().unwrap()).collect()
    }

    #[test]
    fn all_servers_are_tried_in_turn() {
        assert_eq!(taken(&mut servers(&["a", "b", "c"]), 5), ["a", "b", "c", "a", "b"]);
        assert_eq!(servers(&[]).take(), None);
    }

    #[test]
    fn avoided_servers_are_passed_over_unless_that_leaves_none() {
        let mut list = servers(&["a", "b", "c"]);
        list.set_avoid(&["b".into()]);
        assert_eq!(taken(&mut list, 4), ["a", "c", "a", "c"]);
        list.set_avoid(&["a".into(), "b".into(), "c".into()]);
        assert_eq!(taken(&mut list, 3), ["a", "b", "c"]);
        assert_eq!(list.preferred(), Some("a"));
        list.set_avoid(&["a".into()]);
        assert_eq!(list.preferred(), Some("b"));
    }

    #[test]
    fn an_equal_list_does_not_restart_the_rotation() {
        let mut list = servers(&["a", "b"]);
        assert_eq!(list.take().as_deref(), Some("a"));
        list.set_hosts(&["a".into(), "b".into()]);
        assert_eq!(list.take().as_deref(), Some("b"));
        list.set_hosts(&["x".into(), "y".into()]);
        assert_eq!(list.take().as_deref(), Some("x"));
        list.prefer_first();
        assert_eq!(list.take().as_deref(), Some("x"));
    }
}
