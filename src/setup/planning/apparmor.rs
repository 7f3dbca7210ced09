//! AppArmor: the profiles of libvirt are switched off, as CloudStack expects. This takes the mandatory
//! access control of all guests away, so that `setup.apparmor.disable=false` in agent.properties keeps it.

use super::{Edit, Facts, Plan, Topic, Undo, agent};

pub(super) const KEY: &str = "setup.apparmor.disable";

/// Whether libvirt's profiles and QEMU's security driver are to stay.
pub(super) fn is_kept(facts: &Facts) -> bool {
    agent::boolean(facts, KEY) == Some(false)
}

pub(super) fn plan(plan: &mut Plan, facts: &Facts) {
    let Some(confinement) = &facts.confinement else { return };
    if is_kept(facts) {
        plan.notes.push(format!("AppArmor stays on for libvirt and guests, as {KEY} says"));
        return;
    }
    for profile in confinement.profiles.iter().filter(|profile| !profile.disabled) {
        let file = format!("/etc/apparmor.d/{}", profile.file);
        let path = format!("/etc/apparmor.d/disable/{}", profile.file).into();
        let edit = Edit::Link { path, target: file.clone().into() };
        plan.step(Topic::AppArmor, format!("disable the profile {}", profile.file), edit);
        let reload = ["apparmor_parser", "-r", &file].map(str::to_owned).to_vec();
        plan.run(Topic::AppArmor, &["apparmor_parser", "-R", &file], Undo::RunAtEnd(reload));
    }
}
