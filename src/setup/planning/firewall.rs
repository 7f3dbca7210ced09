//! ufw, where it is active: consoles, migrations and libvirt's port have to get through. Only what the
//! chosen mode needs is opened; the port that the set-up itself comes in by is open already.

use super::{Facts, Plan, Topic, Undo, words};

pub(super) fn plan(plan: &mut Plan, secure: bool, facts: &Facts) {
    let Some(rules) = &facts.ufw_rules else { return };
    let libvirt = if secure { "16514/tcp" } else { "16509/tcp" };
    for ports in [libvirt, "5900:6100/tcp", "49152:49216/tcp"] {
        if rules.iter().any(|rule| allows(rule, ports)) {
            continue;
        }
        let undo = Undo::Run(words(&format!("ufw delete allow {ports}")));
        plan.run(Topic::Firewall, &["ufw", "allow", ports], undo);
    }
}

/// Whether a rule as the operator gave it opens these ports, to everybody or to some.
fn allows(rule: &str, ports: &str) -> bool {
    let mut words = rule.split_whitespace();
    if words.next() != Some("allow") {
        return false;
    }
    let number = ports.trim_end_matches("/tcp");
    let words: Vec<&str> = words.collect();
    match words.as_slice() {
        [first, ..] if *first == ports || *first == number => true,
        // The long form: allow from 10.0.0.0/8 to any port 16514 proto tcp
        all => {
            let port = all.iter().skip_while(|word| **word != "port").nth(1);
            port.is_some_and(|port| *port == number) && !all.contains(&"udp")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn rules_in_both_forms_are_understood() {
        for rule in ["allow 16514/tcp", "allow 16514", "allow from 10.0.0.0/8 to any port 16514 proto tcp"] {
            assert!(allows(rule, "16514/tcp"), "{rule}");
        }
        for rule in
            ["deny 16514/tcp", "allow 1651/tcp", "allow 16514/udp", "allow to any port 16514 proto udp", ""]
        {
            assert!(!allows(rule, "16514/tcp"), "{rule}");
        }
        assert!(allows("allow 5900:6100/tcp", "5900:6100/tcp"));
    }
}
