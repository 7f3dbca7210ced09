//! The rules of the session machine, each as a story of events.

use super::*;
use proptest::prelude::*;

fn secs(s: u64) -> Now {
    Duration::from_secs(s)
}

/// A machine that has sent its startup request at time 0.
fn started(host_id: Option<i64>) -> Machine {
    let mut machine = Machine::new(secs(0), Timing::default(), host_id, secs(0));
    assert_eq!(machine.on(secs(0), Event::TcpConnected), [Action::Entered(Phase::Tls)]);
    let actions = machine.on(secs(0), Event::Secured);
    assert_eq!(actions, [Action::Entered(Phase::StartupSent), Action::SendStartup]);
    machine
}

fn answered(interval: i64) -> Event {
    Event::StartupAnswered { accepted: true, host_id: Some(0), ping_interval: Some(interval), details: None }
}

fn ready(host_id: i64) -> Event {
    Event::ReadyArrived { refusal: None, host_id: Some(host_id) }
}

/// A machine that is Ready at time 1 as host 7, pinging every 10 s.
fn registered() -> Machine {
    let mut machine = started(Some(7));
    machine.on(secs(1), answered(10));
    machine.on(secs(1), Event::PingSent { sequence: 1 });
    machine.on(secs(1), ready(7));
    assert_eq!(machine.phase(), Phase::Ready);
    machine
}

fn ends(actions: &[Action]) -> Option<&End> {
    actions.iter().find_map(|action| if let Action::End(end) = action { Some(end) } else { None })
}

#[test]
fn the_captured_registration_leads_to_ready() {
    let mut machine = started(None);
    assert_eq!(machine.on(secs(1), answered(10)), [Action::Entered(Phase::Accepted)]);
    let first = machine.on(secs(1), Event::CommandArrived("CheckNetworkCommand".into()));
    assert_eq!(first, [Action::Entered(Phase::Commanding), Action::Dispatch]);
    assert_eq!(machine.on(secs(1), Event::CommandArrived("SetHostParamsCommand".into())), [Action::Dispatch]);
    let actions = machine.on(secs(2), ready(1));
    let expected = [
        Action::HostId(1),
        Action::Entered(Phase::Ready),
        Action::Dispatch,
        Action::SendPing { host_id: Some(1) },
    ];
    assert_eq!(actions, expected);
    assert_eq!(machine.on(secs(2), ready(1)), [Action::HostId(1), Action::Dispatch]);
}

#[test]
fn host_id_zero_is_never_taken() {
    let mut machine = started(None);
    let actions = machine.on(secs(1), answered(10));
    assert!(!actions.iter().any(|a| matches!(a, Action::HostId(_))));
    machine.on(secs(2), Event::ReadyArrived { refusal: None, host_id: Some(0) });
    assert_eq!(machine.host_id(), None);
    let known = Machine::new(secs(0), Timing::default(), Some(0), secs(0));
    assert_eq!(known.host_id(), None);
}

#[test]
fn pings_start_at_once_with_a_known_id() {
    let mut machine = started(Some(7));
    let actions = machine.on(secs(1), answered(10));
    assert_eq!(actions, [Action::Entered(Phase::Accepted), Action::SendPing { host_id: Some(7) }]);
    assert_eq!(machine.deadline(), Some(secs(11)));
}

#[test]
fn pings_flow_during_a_long_registration_even_without_an_id() {
    let mut machine = started(None);
    machine.on(secs(0), answered(60));
    let mut pings = 0;
    for second in 1..300 {
        let actions = machine.on(secs(second), Event::Tick);
        pings += actions.iter().filter(|a| matches!(a, Action::SendPing { host_id: None })).count();
        assert_eq!(ends(&actions), None);
    }
    assert_eq!(pings, 4);
}

#[test]
fn silence_before_ready_is_not_counted_as_missed_pings() {
    let mut machine = started(Some(7));
    machine.on(secs(0), answered(10));
    for second in 0..250 {
        machine.on(secs(second), Event::PingSent { sequence: i64::try_from(second).unwrap() });
        assert_eq!(ends(&machine.on(secs(second), Event::Tick)), None);
    }
}

#[test]
fn the_ping_interval_from_the_wire_is_bounded() {
    for (wire, used) in [(Some(0), 1), (Some(-4), 60), (None, 60), (Some(i64::MAX), 600), (Some(45), 45)] {
        let mut machine = started(Some(7));
        machine.on(
            secs(1),
            Event::StartupAnswered { accepted: true, host_id: None, ping_interval: wire, details: None },
        );
        assert_eq!(machine.ping_interval(), secs(used), "{wire:?}");
    }
}

#[test]
fn an_unanswered_ping_ends_the_session_after_three_intervals() {
    let mut machine = registered();
    machine.on(secs(11), Event::Tick);
    machine.on(secs(11), Event::PingSent { sequence: 2 });
    machine.on(secs(21), Event::PingSent { sequence: 3 });
    assert_eq!(ends(&machine.on(secs(40), Event::Tick)), None);
    let actions = machine.on(secs(41), Event::Tick);
    assert_eq!(ends(&actions), Some(&End::PingUnanswered { silent: secs(30) }));
}

#[test]
fn an_answered_ping_keeps_the_session() {
    let mut machine = registered();
    for round in 0..100i64 {
        let now = secs(11 + 10 * u64::try_from(round).unwrap());
        assert_eq!(machine.on(now, Event::Tick), [Action::SendPing { host_id: Some(7) }]);
        machine.on(now, Event::PingSent { sequence: 10 + round });
        machine.on(now, Event::PingAnswered { sequence: 10 + round, send_startup: false });
    }
    assert_eq!(machine.phase(), Phase::Ready);
}

#[test]
fn after_a_stall_one_ping_is_sent_not_a_burst() {
    let mut machine = registered();
    assert_eq!(machine.on(secs(500), Event::Tick), [Action::SendPing { host_id: Some(7) }]);
    assert_eq!(machine.on(secs(500), Event::Tick), []);
}

#[test]
fn every_phase_has_its_deadline() {
    let mut dialing = Machine::new(secs(0), Timing::default(), None, secs(0));
    assert_eq!(ends(&dialing.on(secs(10), Event::Tick)), Some(&End::ConnectTimeout { after: secs(10) }));
    let mut tls = Machine::new(secs(0), Timing::default(), None, secs(0));
    tls.on(secs(1), Event::TcpConnected);
    assert_eq!(ends(&tls.on(secs(31), Event::Tick)), Some(&End::HandshakeTimeout { after: secs(30) }));
    let mut silent = started(None);
    assert_eq!(ends(&silent.on(secs(179), Event::Tick)), None);
    assert_eq!(ends(&silent.on(secs(180), Event::Tick)), Some(&End::StartupUnanswered { after: secs(180) }));
    let mut stuck = started(Some(1));
    stuck.on(secs(1), answered(60));
    stuck.on(secs(2), Event::CommandArrived("CheckNetworkCommand".into()));
    let end = stuck.on(secs(301), Event::Tick);
    assert!(
        matches!(ends(&end), Some(End::NeverReady { last_command: Some(name), .. }) if name == "CheckNetworkCommand")
    );
}

#[test]
fn a_refusal_ends_the_session_with_the_servers_sentence() {
    let mut machine = started(None);
    machine.on(secs(1), answered(10));
    let refused = Event::ReadyArrived { refusal: Some("wrong zone".into()), host_id: None };
    let actions = machine.on(secs(2), refused);
    let end = ends(&actions).unwrap();
    assert_eq!(
        (end.server_sentence(), end.class()),
        (Some("wrong zone"), super::super::end::EndClass::TurnedAway)
    );
    let mut rejected = started(None);
    let no = Event::StartupAnswered {
        accepted: false,
        host_id: None,
        ping_interval: None,
        details: Some("no".into()),
    };
    assert_eq!(ends(&rejected.on(secs(1), no)), Some(&End::StartupRejected { sentence: "no".into() }));
}

#[test]
fn the_alert_loop_is_recognised() {
    let mut machine = started(Some(7));
    machine.on(secs(1), answered(10));
    machine.on(secs(1), Event::CommandArrived("SetHostParamsCommand".into()));
    let actions = machine.on(Duration::from_millis(1200), Event::Closed(Close::Fin));
    let expected = End::CutBeforeReady {
        close: Close::Fin,
        last_command: Some("SetHostParamsCommand".into()),
        own_failure: None,
        after: Duration::from_millis(200),
    };
    assert_eq!(ends(&actions), Some(&expected));
}

#[test]
fn a_cut_after_our_own_failure_says_so() {
    let mut machine = started(Some(7));
    machine.on(secs(1), answered(10));
    machine.on(secs(1), Event::CommandArrived("CheckNetworkCommand".into()));
    machine.on(secs(1), Event::AnswerFailed("Can not find network: cloudbr0".into()));
    let actions = machine.on(secs(1), Event::Closed(Close::Fin));
    let end = ends(&actions).unwrap();
    assert!(end.to_string().contains("this host had answered: Can not find network: cloudbr0"), "{end}");
    assert!(end.remedy().contains("own answer"));
}

#[test]
fn send_startup_is_ignored_while_registering_and_limited_afterwards() {
    let ask = |sequence| Event::PingAnswered { sequence, send_startup: true };
    let mut registering = started(Some(7));
    registering.on(secs(1), answered(10));
    assert_eq!(registering.on(secs(2), ask(1)), []);
    let mut ready_since_1 = registered();
    ready_since_1.on(secs(11), Event::PingSent { sequence: 2 });
    assert_eq!(ends(&ready_since_1.on(secs(12), ask(2))), Some(&End::ReregisterAsked));
    let mut limited = Machine::new(secs(0), Timing::default(), Some(7), secs(60));
    limited.on(secs(0), Event::TcpConnected);
    limited.on(secs(0), Event::Secured);
    limited.on(secs(1), answered(10));
    limited.on(secs(1), ready(7));
    limited.on(secs(11), Event::PingSent { sequence: 2 });
    assert_eq!(ends(&limited.on(secs(59), ask(2))), None);
    assert_eq!(ends(&limited.on(secs(60), ask(3))), Some(&End::ReregisterAsked));
}

/// The server answers a ping that it reads before our answer to ReadyCommand: not Up yet, so it asks.
#[test]
fn a_wish_for_a_startup_of_before_ready_does_not_count() {
    let ask = |sequence| Event::PingAnswered { sequence, send_startup: true };
    let mut machine = registered();
    machine.on(secs(1), Event::PingSent { sequence: 2 });
    assert_eq!(machine.on(secs(1), ask(1)), []);
    assert_eq!(machine.on(secs(1), ask(2)), []);
    // Collected on a whim of a guest, so not in step with the interval.
    machine.on(secs(10), Event::PingSent { sequence: 3 });
    machine.on(secs(11), Event::PingSent { sequence: 4 });
    assert_eq!(machine.on(secs(12), ask(3)), []);
    assert_eq!(ends(&machine.on(secs(12), ask(4))), Some(&End::ReregisterAsked));
}

#[test]
fn a_stop_drains_says_good_bye_and_ends() {
    let mut machine = registered();
    let actions = machine.on(secs(5), Event::Stop(StopReason::Signal));
    assert_eq!(actions, [Action::Entered(Phase::Draining), Action::WatchIdle]);
    assert_eq!(machine.on(secs(5), Event::CommandArrived("StartCommand".into())), []);
    let actions = machine.on(secs(6), Event::Idle);
    let expected = [
        Action::SendShutdown { detail: None },
        Action::Entered(Phase::Ended),
        Action::End(End::Stopped(StopReason::Signal)),
    ];
    assert_eq!(actions, expected);
}

#[test]
fn draining_does_not_wait_for_ever() {
    let mut machine = registered();
    machine.on(secs(5), Event::Stop(StopReason::CertificateRenewed));
    assert_eq!(machine.deadline(), Some(secs(11)));
    let actions = machine.on(secs(11), Event::Tick);
    let detail = Some("Restarting due to new X509 certificates");
    assert_eq!(actions.first(), Some(&Action::SendShutdown { detail }));
    assert_eq!(ends(&actions), Some(&End::Stopped(StopReason::CertificateRenewed)));
}

#[test]
fn a_stop_before_registration_just_closes() {
    let mut machine = Machine::new(secs(0), Timing::default(), None, secs(0));
    assert_eq!(
        ends(&machine.on(secs(1), Event::Stop(StopReason::Signal))),
        Some(&End::Stopped(StopReason::Signal))
    );
}

#[test]
fn a_deleted_host_is_parked_not_lost() {
    let mut machine = registered();
    let actions =
        machine.on(secs(3), Event::ShutdownArrived { reason: "deleteHost".into(), remove_host: true });
    assert_eq!(actions, [Action::Dispatch, Action::Entered(Phase::Draining), Action::WatchIdle]);
    let end = machine.on(secs(3), Event::Closed(Close::Fin));
    assert_eq!(ends(&end).unwrap().class(), super::super::end::EndClass::Deleted);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::TcpConnected),
        Just(Event::Secured),
        (any::<bool>(), any::<i64>(), any::<i64>()).prop_map(|(accepted, id, interval)| {
            Event::StartupAnswered {
                accepted,
                host_id: Some(id),
                ping_interval: Some(interval),
                details: None,
            }
        }),
        Just(Event::CommandArrived("StartCommand".into())),
        Just(Event::AnswerFailed("no".into())),
        (any::<bool>(), any::<i64>()).prop_map(|(refused, id)| Event::ReadyArrived {
            refusal: refused.then(|| "no".into()),
            host_id: Some(id)
        }),
        Just(Event::ShutdownArrived { reason: "deleteHost".into(), remove_host: false }),
        (0i64..9).prop_map(|sequence| Event::PingSent { sequence }),
        (0i64..9, any::<bool>())
            .prop_map(|(sequence, send_startup)| Event::PingAnswered { sequence, send_startup }),
        Just(Event::Closed(Close::Fin)),
        Just(Event::Stop(StopReason::Signal)),
        Just(Event::Idle),
        Just(Event::Tick),
    ]
}

proptest! {
    /// Whatever the peer does: one end, nothing after it, no id that is not positive, never two
    /// startup requests, and always a deadline while something is awaited from the peer.
    #[test]
    fn no_story_breaks_the_machine(events in proptest::collection::vec((any_event(), 0u64..200), 1..60)) {
        let mut machine = Machine::new(secs(0), Timing::default(), None, secs(0));
        let (mut now, mut startups, mut over) = (secs(0), 0, false);
        for (event, pause) in events {
            now += secs(pause);
            let actions = machine.on(now, event);
            prop_assert!(!over || actions.is_empty());
            for action in &actions {
                match action {
                    Action::SendStartup => startups += 1,
                    Action::HostId(id) | Action::SendPing { host_id: Some(id) } => prop_assert!(*id > 0),
                    Action::End(_) => over = true,
                    _ => {}
                }
            }
            if !over {
                prop_assert!(machine.deadline().is_some());
            }
        }
        prop_assert!(startups <= 1);
    }
}
