//! Plans: what happens at the door (before and during TLS) and the steps from the startup request
//! on. The connection task only interprets plans.

use super::profile::{Command, Profile};
use super::scenario::{Knobs, Scenario, SshKeys};
use std::time::Duration;

/// What happens before and during TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Close,
    PlainText,
    Alert,
    OtherCa,
    NeedCertificate,
}

/// Malformed input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    HalfFrame,
    LongFrame,
    SwappedFrames,
    RandomFrame,
    GzipBomb,
    DeepJson,
}

/// Whether a step waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Answer,
    No,
}

/// How `PingAnswer` asks for a startup beyond what the host's state asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Never,
    /// In the next answer only.
    Once,
}

/// One step from the startup request on.
#[derive(Debug, Clone)]
pub(super) enum Step {
    AnswerStartup {
        accepted: bool,
    },
    Attach,
    Send(Command, Wait),
    Pause(Duration),
    /// Until this long after the startup request.
    PauseSinceStartup(Duration),
    Refuse,
    Ask(Asking),
    /// The host row falls to Alert while the link stays.
    LoseHost,
    Storm,
    RestartServer,
    Mischief(Malformed),
    Deaf,
    Cut,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub door: Door,
    pub steps: Vec<Step>,
    /// How late every message leaves.
    pub delay: Duration,
}

/// The plan of `scenario`. `given` are batches to be sent after Ready, one after the other.
pub(super) fn plan(
    scenario: Scenario,
    profile: Profile,
    knobs: &Knobs,
    given: &[Command],
    ssh_keys: SshKeys,
    rng: &mut fastrand::Rng,
) -> Plan {
    let accepted = Step::AnswerStartup { accepted: true };
    let mut steps = vec![accepted.clone(), Step::Pause(knobs.attach_after), Step::Attach];
    let mut door = Door::Open;
    let mut delay = Duration::ZERO;
    let listeners = || listeners(profile, ssh_keys);
    let mut after_ready = |more: Vec<Step>| {
        steps.extend(listeners());
        steps.extend([
            Step::Send(Command::Ready, Wait::Answer),
            Step::Send(Command::ReadyWithServers, Wait::Answer),
        ]);
        steps.extend(given.iter().map(|command| Step::Send(command.clone(), Wait::Answer)));
        if !more.is_empty() {
            steps.push(Step::Pause(knobs.after_ready));
        }
        steps.extend(more);
        std::mem::take(&mut steps)
    };
    let steps = match scenario {
        Scenario::Normal => after_ready(vec![]),
        Scenario::Slow => {
            delay = knobs.delay;
            after_ready(vec![])
        }
        Scenario::TlsAlert => {
            door = Door::Alert;
            vec![]
        }
        Scenario::ClientCert => {
            door = Door::NeedCertificate;
            after_ready(vec![])
        }
        Scenario::WrongCa => {
            door = Door::OtherCa;
            after_ready(vec![])
        }
        Scenario::NotTls => {
            door = Door::PlainText;
            vec![]
        }
        Scenario::AcceptClose => {
            door = Door::Close;
            vec![]
        }
        Scenario::CutAfterStartup => {
            steps.extend([
                Step::Send(Command::CheckNetwork, Wait::Answer),
                Step::Send(Command::CleanupNetworkRules, Wait::No),
                Step::Send(Command::SetHostParams, Wait::No),
                Step::PauseSinceStartup(Duration::from_millis(rng.u64(100..=300))),
                Step::Cut,
            ]);
            steps
        }
        Scenario::Refuse => vec![accepted, Step::Pause(knobs.attach_after), Step::Refuse],
        Scenario::StartupRejected => vec![Step::AnswerStartup { accepted: false }],
        Scenario::Silent => vec![],
        Scenario::NoReady => {
            steps.extend(listeners());
            steps
        }
        Scenario::HalfOpen => after_ready(vec![Step::Deaf]),
        Scenario::Truncated => after_ready(vec![Step::Mischief(Malformed::HalfFrame), Step::Cut]),
        Scenario::Oversized => after_ready(vec![Step::Mischief(Malformed::LongFrame)]),
        Scenario::OutOfOrder => after_ready(vec![Step::Mischief(Malformed::SwappedFrames)]),
        Scenario::Garbage => after_ready(vec![Step::Mischief(Malformed::RandomFrame)]),
        Scenario::BadGzip => after_ready(vec![Step::Mischief(Malformed::GzipBomb)]),
        Scenario::DeepJson => after_ready(vec![Step::Mischief(Malformed::DeepJson)]),
        Scenario::Duplicate => after_ready(vec![Step::Ask(Asking::Once)]),
        Scenario::SendStartup => after_ready(vec![Step::LoseHost]),
        Scenario::Restart => after_ready(vec![Step::RestartServer]),
        Scenario::ShutdownCommand => after_ready(vec![shutdown(false)]),
        Scenario::ShutdownRemove => after_ready(vec![shutdown(true)]),
        Scenario::Storm => after_ready(vec![Step::Storm]),
    };
    Plan { door, steps, delay }
}

fn shutdown(remove_host: bool) -> Step {
    Step::Send(Command::Shutdown { remove_host }, Wait::Answer)
}

/// What the connect listeners of a server send, in the order of that server's line.
fn listeners(profile: Profile, ssh_keys: SshKeys) -> Vec<Step> {
    let check = Step::Send(Command::CheckNetwork, Wait::Answer);
    let cleanup = Step::Send(Command::CleanupNetworkRules, Wait::No);
    let params = Step::Send(Command::SetHostParams, Wait::No);
    let keys = Step::Send(Command::ModifySshKeys, Wait::No);
    let steps = match profile {
        Profile::V4_19_1 => [check, cleanup, keys.clone(), params, keys],
        Profile::V4_22 => [cleanup, check, keys.clone(), keys, params],
    };
    let wanted =
        |step: &Step| ssh_keys == SshKeys::Send || !matches!(step, Step::Send(Command::ModifySshKeys, _));
    steps.into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_seed_decides_the_moment_of_the_cut() {
        let moment = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let knobs = Knobs::default();
            let plan =
                plan(Scenario::CutAfterStartup, Profile::V4_19_1, &knobs, &[], SshKeys::Send, &mut rng);
            format!("{:?}", plan.steps)
        };
        assert_eq!(moment(7), moment(7));
        assert!((0..20).any(|seed| moment(seed) != moment(7)));
    }
}
