//! The bridges. They are only looked at: a set-up that comes in over the network must not change it.
//! What is missing is a problem, told with the netplan text that makes it.

use std::collections::BTreeSet;

use super::{Facts, Placement, Plan};

pub(super) fn check(plan: &mut Plan, placement: &Placement, facts: &Facts) {
    let wanted: BTreeSet<&str> =
        [&placement.private_nic, &placement.public_nic, &placement.guest_nic].map(String::as_str).into();
    let missing: Vec<&str> =
        wanted.into_iter().filter(|name| !name.is_empty() && !facts.interfaces.contains(*name)).collect();
    if missing.is_empty() {
        return;
    }
    let nic = facts.default_nic.as_deref().filter(|nic| !missing.contains(nic)).unwrap_or("eth0");
    plan.problems.push(format!(
        "There is no interface {}: make it, then add the host again. With netplan, put the addresses and \
         routes of {nic} to the bridge in a file such as /etc/netplan/01-cloudstack.yaml, and check it with \
         `netplan try`:\n{}",
        missing.join(", "),
        netplan(&missing, nic)
    ));
}

/// One bridge over the interface of the default route; any other over one that only the operator knows.
fn netplan(bridges: &[&str], nic: &str) -> String {
    let mut text =
        format!("network:\n  version: 2\n  ethernets:\n    {nic}:\n      dhcp4: false\n  bridges:\n");
    for (number, bridge) in bridges.iter().enumerate() {
        let port = if number == 0 { nic } else { "ANOTHER-INTERFACE" };
        let dhcp = number == 0;
        text.push_str(&format!(
            "    {bridge}:\n      interfaces: [{port}]\n      dhcp4: {dhcp}\n      parameters:\n        stp: false\n        forward-delay: 0\n"
        ));
    }
    text
}
