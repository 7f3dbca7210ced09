//! The interpreter of a scenario's steps.

use super::connection::{Attached, Connection, End, StormState, Waiting, Watch};
use super::event::{Ending, Rule, SimEvent};
use super::order::Order;
use super::outbox::{MANAGEMENT_ID, Outbox, Purpose};
use super::plan::{Malformed, Step, Wait};
use super::profile::{self, Command, Facts};
use super::server::Control;
use super::status::HostEvent;
use crate::wire::header::{self, UNKNOWN_ID};
use crate::wire::{Element, Flags, Header, Message};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// The real server waits twice `ready.command.wait`.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

impl Connection {
    /// Runs steps until one has to wait.
    pub(super) fn advance(&mut self) -> Result<(), End> {
        while matches!(self.waiting, Waiting::Nothing) {
            let Some(step) = self.steps.pop_front() else { return Ok(()) };
            self.step(step)?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), End> {
        match step {
            Step::AnswerStartup { accepted } => self.answer_startup(accepted)?,
            Step::Attach => self.attach(),
            Step::Send(command, wait) => self.send_step(command, wait)?,
            Step::Pause(time) => self.waiting = Waiting::Until(Instant::now() + time),
            Step::PauseSinceStartup(time) => {
                let from = self.startup.as_ref().map_or_else(Instant::now, |startup| startup.at);
                self.waiting = Waiting::Until(from + time);
            }
            Step::Refuse => self.refuse()?,
            Step::Ask(asking) => self.asking = asking,
            Step::LoseHost => {
                self.record(SimEvent::Mischief { what: "the host row falls to Alert" });
                if let Some(attached) = &self.attached {
                    self.shared.ledger.transition(self.number, attached.id, HostEvent::PingTimeout);
                }
            }
            Step::Storm => self.start_storm()?,
            Step::RestartServer => {
                let down = self.shared.config.knobs.down;
                // If the server is gone already there is nothing to restart.
                let _ = self.shared.control.send(Control::Restart { down, done: None });
            }
            Step::Mischief(kind) => self.malform(kind)?,
            Step::Deaf => {
                self.record(SimEvent::Mischief { what: "deaf and mute, the socket stays open" });
                self.deaf = true;
            }
            Step::Cut => return Err(End::new(Ending::Scenario, "FIN without close_notify")),
        }
        Ok(())
    }

    fn answer_startup(&mut self, accepted: bool) -> Result<(), End> {
        let Some(startup) = &self.startup else { return Ok(()) };
        let header = early_response(&startup.header, Flags::default());
        let seconds = self.shared.config.ping_interval.as_secs().max(1);
        let answer = profile::startup_answer(self.shared.config.profile, accepted, seconds);
        self.put(&Message { header, elements: answer.into_iter().collect() })
    }

    fn attach(&mut self) {
        let Some(startup) = &self.startup else { return };
        let ledger = &self.shared.ledger;
        let registered = ledger.register(self.number, &startup.guid, &startup.routing, self.orders.clone());
        let id = registered.host_id;
        if let Some((older, orders)) = registered.displaced {
            let detail = format!("{} is still registered over connection {older}", startup.guid);
            ledger.violate(self.number, Rule::SecondConnection, detail);
            // The older connection may be ending by itself.
            let _ = orders.send(Order::Displace { by: self.number });
        }
        let gap = self.shared.config.reconnect_gap;
        if let Some(lost) = registered.lost_ready {
            let waited = self.dialled.saturating_duration_since(lost);
            if waited < gap {
                let detail = format!("dialled {waited:.1?} after a Ready session, {gap:?} required");
                ledger.violate(self.number, Rule::FastReconnect, detail);
            }
        }
        let name = startup.routing.get("name").and_then(Value::as_str).unwrap_or_default();
        let facts = Facts {
            profile: self.shared.config.profile,
            host_id: id,
            host_name: name.to_owned(),
            guid: startup.guid.clone(),
            servers: self.shared.config.servers.clone(),
            traffic_label: self.shared.config.knobs.traffic_label.clone(),
            logid: format!("{:08x}", self.rng.u32(..)),
            cleanup_interval: 1_800 + self.rng.u32(..1_200),
        };
        let storages = startup.storages.clone();
        self.outbox = Outbox::new(id, &mut self.rng);
        self.watch = Watch::Pinged(Instant::now());
        self.attached = Some(Attached { id, facts, storages, ready: false });
    }

    fn send_step(&mut self, command: Command, wait: Wait) -> Result<(), End> {
        let Some(attached) = &self.attached else { return Ok(()) };
        let elements = command.elements(&attached.facts);
        let mut flags = Flags::STOP_ON_ERROR;
        if command.is_in_sequence() {
            flags = flags.with(Flags::IN_SEQUENCE);
        }
        let sequence = self.submit(elements, flags, Purpose::Step(command))?;
        if wait == Wait::Answer {
            self.waiting = Waiting::Answer { sequence, until: Instant::now() + ANSWER_LIMIT };
        }
        Ok(())
    }

    /// The server's verdict on the answers to one of its own commands.
    pub(super) fn on_step_answer(&mut self, command: &Command, answers: &[Element]) -> Result<(), End> {
        let first = answers.first();
        let positive = first.and_then(super::discipline::result) == Some(true);
        let named = |class: &str| first.is_some_and(|a| a.simple_name() == class);
        match command {
            Command::CheckNetwork if !(positive && named("CheckNetworkAnswer")) => {
                Err(End::new(Ending::Refused, "CheckNetworkCommand failed or has an answer of a wrong class"))
            }
            Command::Ready | Command::ReadyWithServers if !(positive && named("ReadyAnswer")) => {
                Err(End::new(Ending::Refused, "ReadyCommand failed or has an answer of a wrong class"))
            }
            Command::Ready => {
                self.became_ready();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn became_ready(&mut self) {
        let Some(attached) = &mut self.attached else { return };
        attached.ready = true;
        let id = attached.id;
        self.watch = Watch::Pinged(Instant::now());
        self.next_stats = self.shared.config.stats.map(|every| Instant::now() + every);
        self.shared.ledger.transition(self.number, id, HostEvent::Ready);
        self.record(SimEvent::Ready { host_id: id });
    }

    pub(super) fn send_stats(&mut self) -> Result<(), End> {
        self.next_stats = self.shared.config.stats.map(|every| Instant::now() + every);
        let Some(attached) = &self.attached else { return Ok(()) };
        let text =
            |pool: &Value, name: &str| pool.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut commands = vec![Command::HostStats];
        for pool in attached.storages.iter().filter_map(|storage| storage.get("poolInfo")) {
            commands.push(Command::StorageStats {
                id: text(pool, "uuid"),
                path: text(pool, "localPath"),
                pool_type: text(pool, "poolType"),
            });
        }
        let batches: Vec<_> = commands.into_iter().map(|c| (c.elements(&attached.facts), c)).collect();
        for (elements, command) in batches {
            self.submit(elements, Flags::STOP_ON_ERROR, Purpose::Step(command))?;
        }
        Ok(())
    }

    /// `ReadyCommand` with a reason, outside every sequence: the one request of a server that does
    /// not have `FROM_SERVER`.
    fn refuse(&mut self) -> Result<(), End> {
        let flags = Flags::REQUEST.with(Flags::STOP_ON_ERROR).with(Flags::IN_SEQUENCE);
        let header = Header { flags, ..Header::request(UNKNOWN_ID, None, flags) };
        let refusal = profile::refusal(&self.shared.config.knobs.refusal);
        self.put_request(&Message { header, elements: refusal.into_iter().collect() }, false)
    }

    fn malform(&mut self, kind: Malformed) -> Result<(), End> {
        self.record(SimEvent::Mischief { what: kind.what() });
        let Some(attached) = &self.attached else { return Ok(()) };
        let header = Header {
            version: header::VERSION_1,
            reserved: 0,
            flags: Flags::REQUEST.with(Flags::STOP_ON_ERROR).with(Flags::FROM_SERVER),
            sequence: 1,
            size: 0,
            mgmt_id: MANAGEMENT_ID,
            agent_id: attached.id,
            via: attached.id,
        };
        let sample = Message { header, elements: Command::CheckHealth.elements(&attached.facts) };
        let sample = sample.encode().map_err(|e| End::new(Ending::Scenario, e.to_string()))?;
        kind.queue(&mut self.link, &sample, &mut self.outbox, &mut self.rng)?;
        Ok(())
    }

    fn start_storm(&mut self) -> Result<(), End> {
        let knobs = &self.shared.config.knobs;
        let (left, window) = (knobs.storm, knobs.storm_window.max(1));
        self.waiting = Waiting::Storm;
        self.storm = Some(StormState { left, started: Instant::now(), latencies: Vec::with_capacity(left) });
        for _ in 0..window {
            self.next_of_storm()?;
        }
        Ok(())
    }

    fn next_of_storm(&mut self) -> Result<(), End> {
        let Some(storm) = self.storm.as_mut().filter(|storm| storm.left > 0) else { return Ok(()) };
        storm.left -= 1;
        let Some(attached) = &self.attached else { return Ok(()) };
        let elements = Command::CheckHealth.elements(&attached.facts);
        self.submit(elements, Flags::STOP_ON_ERROR, Purpose::Storm)?;
        Ok(())
    }

    pub(super) fn on_storm_answer(&mut self, latency: Duration) -> Result<(), End> {
        let Some(storm) = &mut self.storm else { return Ok(()) };
        storm.latencies.push(latency);
        let total = self.shared.config.knobs.storm;
        if storm.latencies.len() < total {
            return self.next_of_storm();
        }
        let elapsed = storm.started.elapsed();
        let mut sorted = std::mem::take(&mut storm.latencies);
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get((total * percent / 100).min(total - 1)).copied();
        let (median, p99, max) = (at(50), at(99), sorted.last().copied());
        self.storm = None;
        self.waiting = Waiting::Nothing;
        self.record(SimEvent::Storm {
            commands: total,
            elapsed,
            median: median.unwrap_or_default(),
            p99: p99.unwrap_or_default(),
            max: max.unwrap_or_default(),
        });
        Ok(())
    }
}

/// Header of the server's response to an agent's request.
pub(super) fn early_response(request: &Header, flags: Flags) -> Header {
    Header { flags: flags.with(Flags::FROM_SERVER), mgmt_id: MANAGEMENT_ID, size: 0, reserved: 0, ..*request }
}
