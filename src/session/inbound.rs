//! What a message from the server means for the session. Pure: a decoded message in, an event out.

use super::machine::Event;
use crate::commands::agent::{ping, ready, shutdown, startup};
use crate::commands::registry::UNSUPPORTED_ANSWER;
use crate::wire::{Element, Message};

/// A message as the session sees it.
#[derive(Debug)]
pub enum Inbound {
    /// A request: the event comes first; the request is dispatched if the machine says so.
    Request { event: Event, request: Message },
    /// A response to something this session sent.
    Response { event: Event, avoid: Option<Vec<String>> },
    /// A response without meaning here.
    Ignored { class: String },
}

/// Sorts a message. `startup_sequence` is that of this session's startup request.
pub fn sort(message: Message, startup_sequence: Option<i64>) -> Inbound {
    if message.header.is_request() {
        let event = request_event(&message.elements);
        return Inbound::Request { event, request: message };
    }
    let sequence = message.header.sequence;
    // Only the first answer counts: the early StartupAnswer is alone, whatever was asked.
    let Some(first) = message.elements.first() else { return Inbound::Ignored { class: "nothing".into() } };
    match first.class.as_str() {
        startup::ANSWER if Some(sequence) == startup_sequence => match first.read::<startup::StartupAnswer>()
        {
            Ok(answer) => Inbound::Response {
                event: Event::StartupAnswered {
                    // Absent counts as true there: the class has a constructor that sets it.
                    accepted: answer.result.unwrap_or(true),
                    host_id: answer.host_id,
                    ping_interval: answer.ping_interval,
                    details: answer.details,
                },
                avoid: None,
            },
            Err(_) => Inbound::Ignored { class: first.class.clone() },
        },
        ping::ANSWER => {
            // A PingAnswer that does not read is still an answer.
            let answer = first.read::<ping::PingAnswer>().unwrap_or_default();
            Inbound::Response {
                event: Event::PingAnswered { sequence, send_startup: answer.send_startup },
                avoid: answer.avoid_ms_list,
            }
        }
        _ => Inbound::Ignored { class: first.class.clone() },
    }
}

fn request_event(elements: &[Element]) -> Event {
    let find = |class: &str| elements.iter().find(|element| element.class == class);
    if let Some(element) = find(ready::CLASS)
        && let Ok(command) = element.read::<ready::ReadyCommand>()
    {
        return Event::ReadyArrived { refusal: command.details, host_id: command.host_id };
    }
    if let Some(element) = find(shutdown::CLASS)
        && let Ok(command) = element.read::<shutdown::ShutdownCommand>()
    {
        return Event::ShutdownArrived { reason: command.reason, remove_host: command.remove_host };
    }
    Event::CommandArrived(elements.first().map_or("an empty request", Element::simple_name).to_owned())
}

/// The details of the first failed one of our own answers. Unsupported commands are no failure of
/// this host: servers ask every kind of host for them.
pub fn own_failure(answers: &[Element]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Outcome {
        result: bool,
        #[serde(default)]
        details: String,
    }
    let handled = answers.iter().filter(|answer| answer.class != UNSUPPORTED_ANSWER);
    handled
        .filter_map(|answer| answer.read::<Outcome>().ok())
        .find(|outcome| !outcome.result)
        .map(|o| o.details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Flags, Header};

    fn message(flags: u16, sequence: i64, json: &str) -> Message {
        let crate::wire::envelope::Body(elements) = serde_json::from_str(json).unwrap();
        let header = Header { flags: Flags(flags), ..Header::request(sequence, Some(1), Flags::default()) };
        Message { header, elements }
    }

    fn event(flags: u16, sequence: i64, json: &str) -> Event {
        match sort(message(flags, sequence, json), Some(4)) {
            Inbound::Request { event, .. } | Inbound::Response { event, .. } => event,
            Inbound::Ignored { class } => panic!("ignored {class}"),
        }
    }

    #[test]
    fn the_refusing_ready_command_is_recognised_without_from_server() {
        let json =
            r#"[{"com.cloud.agent.api.ReadyCommand":{"_details":"wrong zone","contextMap":{},"wait":0}}]"#;
        assert_eq!(
            event(0x0007, -1, json),
            Event::ReadyArrived { refusal: Some("wrong zone".into()), host_id: None }
        );
    }

    #[test]
    fn only_the_answer_to_our_startup_counts() {
        let json = r#"[{"com.cloud.agent.api.StartupAnswer":{"hostId":0,"pingInterval":10,"result":true}}]"#;
        let expected = Event::StartupAnswered {
            accepted: true,
            host_id: Some(0),
            ping_interval: Some(10),
            details: None,
        };
        assert_eq!(event(0x20, 4, json), expected);
        assert!(matches!(sort(message(0x20, 3, json), Some(4)), Inbound::Ignored { .. }));
        assert!(matches!(sort(message(0x20, 4, json), None), Inbound::Ignored { .. }));
    }

    #[test]
    fn a_ping_answer_is_taken_with_its_whole_echo() {
        let json = r#"[{"com.cloud.agent.api.PingAnswer":{"_command":{"hostId":1,"newGroupStates":{"a":[1,null]}},"sendStartup":true,"avoidMsList":["10.0.0.9"],"result":true}}]"#;
        match sort(message(0x22, 9, json), Some(4)) {
            Inbound::Response { event, avoid } => {
                assert_eq!(event, Event::PingAnswered { sequence: 9, send_startup: true });
                assert_eq!(avoid, Some(vec!["10.0.0.9".to_owned()]));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_commands_are_named_by_their_first_element() {
        let json = r#"[{"com.cloud.agent.api.CheckNetworkCommand":{}},{"a.B":{}}]"#;
        assert_eq!(event(0x27, 1, json), Event::CommandArrived("CheckNetworkCommand".into()));
    }
}
