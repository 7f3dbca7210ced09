//! br_netfilter: without it the rules of security groups do not see what passes a bridge.

use super::{Edit, Facts, Plan, Topic, Undo};

const FILE: &str = "/etc/modules-load.d/cloudstack-agent.conf";

pub(super) fn plan(plan: &mut Plan, facts: &Facts) {
    if !facts.has_kvm {
        plan.notes.push(
            "There is no /dev/kvm: the management server refuses this host. Enable virtualisation in the \
             firmware, then load kvm_intel or kvm_amd"
                .to_owned(),
        );
    }
    if !facts.module_configured {
        let content = "# Security groups need it.\nbr_netfilter\n".to_owned();
        let edit = Edit::Write { path: FILE.into(), content, mode: 0o644 };
        plan.step(Topic::Kernel, "load br_netfilter at boot", edit);
    }
    if !facts.module_loaded {
        plan.run(Topic::Kernel, &["modprobe", "br_netfilter"], Undo::Nothing);
    }
}
