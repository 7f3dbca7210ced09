//! What the agent sends: startup, pings, farewells, answers.

use super::connection::{Connection, End, Startup, Waiting, Watch};
use super::discipline;
use super::event::{Ending, Rule, SimEvent};
use super::order::Answers;
use super::outbox::{Pending, Purpose, Unmatched};
use super::plan::Asking;
use super::profile;
use super::status::Status;
use super::steps::early_response;
use crate::wire::{Element, Flags, Message};
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::time::Instant;

impl Connection {
    pub(super) fn receive(&mut self, raw: &[u8]) -> Result<(), End> {
        let message = match Message::decode(raw) {
            Ok(message) => message,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                self.violate(Rule::Undecodable, format!("{error}{cause}"));
                return Ok(());
            }
        };
        self.violate_all(discipline::bytes(raw, &message.header));
        if message.header.is_request() { self.on_request(&message) } else { self.on_response(message) }
    }

    fn on_request(&mut self, message: &Message) -> Result<(), End> {
        let told = self.attached.as_ref().filter(|a| a.ready).map(|a| a.id);
        self.violate_all(discipline::request(message, told, self.last_request));
        self.last_request = Some(message.header.sequence).max(self.last_request);
        let Some(first) = message.elements.first() else { return Ok(()) };
        let name = first.simple_name();
        match name {
            "StartupRoutingCommand" => self.on_startup(message),
            "ShutdownCommand" => self.on_farewell(first),
            _ if self.startup.is_none() => {
                self.violate(Rule::BeforeStartup, format!("{name} before the startup request"));
                Ok(())
            }
            "PingRoutingCommand" | "PingRoutingWithNwGroupsCommand" => self.on_ping(message, first),
            _ => {
                let classes = message.elements.iter().map(|e| e.simple_name().to_owned()).collect();
                self.record(SimEvent::Request { sequence: message.header.sequence, classes });
                let header = early_response(&message.header, Flags::STOP_ON_ERROR);
                self.put(&Message { header, elements: profile::control_answer().into_iter().collect() })
            }
        }
    }

    fn on_startup(&mut self, message: &Message) -> Result<(), End> {
        let mut commands = message.elements.iter().map(|e| e.read::<Value>().unwrap_or(Value::Null));
        let routing = commands.next().unwrap_or(Value::Null);
        let storages: Vec<Value> = commands.collect();
        let guid = routing.get("guid").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.record(SimEvent::Startup {
            sequence: message.header.sequence,
            guid: guid.clone(),
            routing: routing.clone(),
            storages: storages.clone(),
        });
        self.violate_all(discipline::startup(&routing, &storages));
        if self.startup.is_some() {
            return self.second_startup(message);
        }
        let header = message.header;
        self.startup = Some(Startup { header, at: Instant::now(), guid, routing, storages });
        self.waiting = Waiting::Nothing;
        Ok(())
    }

    /// The server answers a repeated startup request twice, and then replaces the attachment by
    /// closing the link that both share.
    fn second_startup(&mut self, message: &Message) -> Result<(), End> {
        self.violate(Rule::SecondStartup, "use a new connection to register again".to_owned());
        let seconds = self.shared.config.ping_interval.as_secs().max(1);
        let early = profile::startup_answer(self.shared.config.profile, true, seconds);
        let host_id = self.attached.as_ref().map_or(0, |a| a.id);
        let late = message.elements.iter().filter_map(|_| profile::late_startup_answer(host_id, seconds));
        let header = early_response(&message.header, Flags::default());
        for elements in [early.into_iter().collect::<Vec<Element>>(), late.collect()] {
            self.put(&Message { header, elements })?;
        }
        Err(End::new(Ending::Scenario, "attachment replaced by a second startup on the same link"))
    }

    fn on_farewell(&mut self, command: &Element) -> Result<(), End> {
        let fields: Value = command.read().unwrap_or(Value::Null);
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let reason = text("reason").unwrap_or_default();
        self.record(SimEvent::Shutdown { reason: reason.clone(), detail: text("detail") });
        Err(End::new(Ending::Shutdown, reason))
    }

    fn on_ping(&mut self, message: &Message, ping: &Element) -> Result<(), End> {
        let fields: Value = ping.read().unwrap_or(Value::Null);
        let host_id = fields.get("hostId").and_then(Value::as_i64).unwrap_or(0);
        let attached = self.attached.as_ref().map(|a| (a.id, a.ready));
        let mut asked = false;
        if let Some((id, ready)) = attached {
            if ready {
                self.violate_all(discipline::ping(&fields, id));
            }
            self.shared.ledger.count_ping(id);
            if matches!(self.watch, Watch::Pinged(_)) {
                self.watch = Watch::Pinged(Instant::now());
            }
            asked = self.asks_for_startup(host_id);
        }
        self.record(SimEvent::Ping {
            sequence: message.header.sequence,
            host_id,
            class: ping.simple_name().to_owned(),
            out_of_band: fields.get("outOfBand").and_then(Value::as_bool).unwrap_or(false),
            vms: report(&fields),
            answered: attached.is_some(),
            asked_for_startup: asked,
        });
        if attached.is_none() {
            return Ok(());
        }
        let header = early_response(&message.header, Flags::STOP_ON_ERROR);
        let answer = profile::ping_answer(self.shared.config.profile, fields, asked);
        self.put(&Message { header, elements: answer.into_iter().collect() })
    }

    /// The host is looked up by the id in the ping, not by the link; a known host that is not Up is
    /// asked to start again.
    fn asks_for_startup(&mut self, host_id: i64) -> bool {
        let asking = std::mem::replace(&mut self.asking, Asking::Never);
        let not_up = self.shared.ledger.status(host_id).is_some_and(|status| status != Status::Up);
        asking == Asking::Once || not_up
    }

    fn on_response(&mut self, message: Message) -> Result<(), End> {
        let header = message.header;
        let released = self.outbox.release(&header);
        match self.outbox.answered(&header) {
            Ok(pending) => {
                self.violate_all(discipline::response(&message, &pending));
                self.on_answers(message, pending)?;
            }
            Err(Unmatched::Recurring) => {}
            Err(Unmatched::Repeated) => {
                self.violate(Rule::RepeatedAnswer, format!("sequence {:#x}", header.sequence));
            }
            Err(Unmatched::Unknown) => {
                self.violate(Rule::UnknownSequence, format!("sequence {:#x}", header.sequence));
            }
        }
        if let Some(next) = released {
            self.put_request(&next, false)?;
        }
        Ok(())
    }

    fn on_answers(&mut self, message: Message, pending: Pending) -> Result<(), End> {
        let latency = pending.sent.elapsed();
        if !matches!(pending.purpose, Purpose::Storm) {
            self.record_answers(&message, &pending);
        }
        let Message { header, elements } = message;
        match pending.purpose {
            Purpose::Step(command) => self.on_step_answer(&command, &elements)?,
            Purpose::Caller(reply) => {
                // The caller may have stopped waiting.
                let _ = reply.send(Ok(Answers { header, elements, latency }));
            }
            Purpose::Health => {
                self.investigated(elements.first().and_then(discipline::result) == Some(true));
            }
            Purpose::Storm => self.on_storm_answer(latency)?,
        }
        if matches!(self.waiting, Waiting::Answer { sequence, .. } if sequence == header.sequence) {
            self.waiting = Waiting::Nothing;
        }
        Ok(())
    }

    fn record_answers(&self, message: &Message, pending: &Pending) {
        let latency = pending.sent.elapsed();
        for (n, answer) in message.elements.iter().enumerate() {
            let fields: Value = answer.read().unwrap_or(Value::Null);
            let command = pending.classes.get(n).map_or("", |c| crate::wire::envelope::simple_name(c));
            self.record(SimEvent::Answer {
                sequence: message.header.sequence,
                command: command.to_owned(),
                class: answer.simple_name().to_owned(),
                result: fields.get("result").and_then(Value::as_bool),
                details: fields.get("details").and_then(Value::as_str).map(str::to_owned),
                latency,
                fields,
            });
        }
    }
}

/// Guest names and power states of a ping, `None` without a report.
fn report(ping: &Value) -> Option<BTreeMap<String, String>> {
    let map = ping.get("_hostVmStateReport")?.as_object()?;
    let state = |entry: &Value| entry.get("state").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(map.iter().map(|(name, entry)| (name.clone(), state(entry))).collect())
}
