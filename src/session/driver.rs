//! Performs what the machine decides: one call of [`run`] is one session, from dialing to the end.
//!
//! Everything a session knows lives in [`Session`], a value that is dropped at the end. What it may
//! change outside is named: [`Survivors`], the configuration file, the status board.

use super::end::{Close, End, StopReason};
use super::inbound::{self, Inbound};
use super::link::{self, Link};
use super::machine::{Action, Event, Machine, Now, Phase, Timing};
use super::pings::{Collected, Pings};
use super::report::{Reporter, address};
use super::requests::Requests;
use super::survivors::{Finished, ReadySpan, Survivors};
use crate::commands::agent::{shutdown, startup};
use crate::commands::{Answer, Fault, Services, SessionLink};
use crate::config::{Change, Config};
use crate::dispatch::Dispatcher;
use crate::errors::chain;
use crate::files::{Permissions, write_atomically};
use crate::host::inventory::Inventory;
use crate::tls::{self, Material, Trust};
use crate::wire::{DecodeError, Element, Flags, Header, Message};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Requests of handlers that may wait for the session.
const REQUEST_QUEUE: usize = 64;

/// What a session is given.
#[derive(Debug)]
pub struct Environment {
    pub services: Arc<Services>,
    pub dispatcher: Dispatcher,
    pub timing: Timing,
    /// Origin of [`Now`].
    pub origin: Instant,
    /// Set once, when the process is to stop.
    pub stop: watch::Receiver<bool>,
    /// Where a copy of the startup commands is kept, for `agent inventory --diff`.
    pub last_sent: PathBuf,
}

impl Environment {
    pub fn now(&self) -> Now {
        self.origin.elapsed()
    }

    fn instant(&self, at: Now) -> Instant {
        self.origin + at
    }
}

/// Runs one session against one server.
pub async fn run(
    env: &Environment,
    survivors: &mut Survivors,
    reporter: &mut Reporter,
    config: Arc<Config>,
    server: String,
    gathering: JoinHandle<Result<Inventory, String>>,
) -> Finished {
    let timing = Timing { handshake: config.ssl_handshake_timeout, ..env.timing };
    let machine = Machine::new(env.now(), timing, survivors.host_id, survivors.reregister_from());
    let mut session = Session {
        env,
        survivors,
        reporter,
        config,
        server,
        machine,
        ready_since: None,
        startup_sequence: None,
        background: JoinSet::new(),
        end: None,
    };
    let gathering = AbortOnDrop(gathering);
    if let Some((mut link, inventory)) = session.establish(gathering).await {
        if session.send_startup(&mut link, &inventory) {
            session.serve(&mut link).await;
        }
        link.close().await;
    }
    session.finish()
}

struct AbortOnDrop(JoinHandle<Result<Inventory, String>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Everything that belongs to one connection.
struct Session<'a> {
    env: &'a Environment,
    survivors: &'a mut Survivors,
    reporter: &'a mut Reporter,
    config: Arc<Config>,
    server: String,
    machine: Machine,
    ready_since: Option<Now>,
    startup_sequence: Option<i64>,
    /// Pings being collected, cron jobs, probes: all end with the session.
    background: JoinSet<()>,
    end: Option<End>,
}

impl Session<'_> {
    /// Dials, shakes hands, and waits for the inventory that is gathered meanwhile.
    async fn establish(&mut self, mut gathering: AbortOnDrop) -> Option<(Link, Inventory)> {
        let (host, port) = (self.server.clone(), self.config.port);
        let tcp = self.step(link::dial(&host, port)).await?;
        self.feed(Event::TcpConnected);
        let material = match Material::load(self.config.dir()) {
            Ok(material) => material,
            Err(error) => return self.fail(End::Unreachable { cause: chain(&error), remedy: "repair or remove the file that the message names; without cloud.ca.crt any server is trusted".into() }),
        };
        let unverified = matches!(material.trust(), Trust::NotProvisioned);
        if unverified && self.survivors.failures == 0 {
            tracing::warn!("This host was never provisioned with a CA: any server certificate is trusted");
        }
        let client = match tls::client_config(&material) {
            Ok(client) => client,
            Err(error) => {
                return self.fail(End::Unreachable {
                    cause: chain(&error),
                    remedy: "provision this host again".into(),
                });
            }
        };
        let (link, info) = self.step(link::secure(tcp, client, &host, port)).await?;
        self.reporter.secured(&info, unverified);
        let inventory = self
            .step(async {
                (&mut gathering.0)
                    .await
                    .unwrap_or_else(|e| Err(e.to_string()))
                    .map_err(|cause| End::NoInventory { cause })
            })
            .await?;
        self.feed(Event::Secured);
        Some((link, inventory))
    }

    fn fail<T>(&mut self, end: End) -> Option<T> {
        self.feed(Event::DialFailed(end));
        None
    }

    /// Runs a step of establishing the link under the machine's deadline and the stop signal.
    async fn step<T>(&mut self, work: impl Future<Output = Result<T, End>>) -> Option<T> {
        let mut stop = self.env.stop.clone();
        tokio::pin!(work);
        while self.end.is_none() {
            let deadline = self.machine.deadline().map(|at| self.env.instant(at));
            tokio::select! {
                done = &mut work => match done {
                    Ok(value) => return Some(value),
                    Err(end) => return self.fail(end),
                },
                () = sleep_until(deadline) => self.feed(Event::Tick),
                _ = stop.wait_for(|stop| *stop) => self.feed(Event::Stop(StopReason::Signal)),
            }
        }
        None
    }

    fn send_startup(&mut self, link: &mut Link, inventory: &Inventory) -> bool {
        let registration = startup::Registration {
            config: &self.config,
            inventory,
            host_id: self.survivors.host_id,
            transferred: std::mem::take(&mut self.survivors.transferred),
        };
        let sequence = self.survivors.take_sequence();
        self.startup_sequence = Some(sequence);
        let header = Header::request(sequence, self.survivors.host_id, Flags::default());
        match registration.elements() {
            Ok(elements) => {
                tracing::info!(server = %self.server, pools = elements.len().saturating_sub(1), "Registering this host");
                self.keep_copy(&elements);
                self.transmit(link, Message { header, elements });
            }
            Err(error) => self.feed(Event::DialFailed(End::NoInventory { cause: error.to_string() })),
        }
        self.end.is_none()
    }

    /// Best effort, and off this task: a full disk must not delay a registration.
    fn keep_copy(&self, elements: &[Element]) {
        let path = self.env.last_sent.clone();
        if let Ok(text) = crate::wire::gson::to_string(elements) {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = write_atomically(&path, text.as_bytes(), Permissions::Exactly(0o600)) {
                    tracing::debug!(error = %chain(&error), "No copy of the startup commands is kept");
                }
            });
        }
    }

    /// Exchanges messages until the session ends.
    async fn serve(&mut self, link: &mut Link) {
        let (answers, mut answered) = mpsc::unbounded_channel::<Message>();
        let (ask, mut asked) = mpsc::channel(REQUEST_QUEUE);
        let session_link = SessionLink::new(ask);
        let mut requests = Requests::new(self.config.host_lb_check_interval);
        let mut pings = Pings::new(self.env.services.clone(), self.config.clone());
        let mut stop = self.env.stop.clone();
        let mut in_flight = self.env.dispatcher.in_flight();
        let busy = in_flight.clone();
        while self.end.is_none() {
            let draining = self.machine.phase() == Phase::Draining;
            let deadline = self.machine.deadline().map(|at| self.env.instant(at));
            tokio::select! {
                // In no fixed order: a server that never stops sending must not keep a ping, a deadline
                // or a stop from its turn.
                Some(message) = answered.recv() => self.answer(link, message),
                received = link.receive() => match received {
                    Ok(bytes) => self.receive(link, &mut pings, &bytes, &answers, &session_link),
                    Err(close) => self.feed(Event::Closed(close)),
                },
                () = std::future::ready(()), if !draining && link.keys_worn() => self.feed(Event::Stop(StopReason::KeysWorn)),
                _ = stop.wait_for(|stop| *stop), if !draining => self.feed(Event::Stop(StopReason::Signal)),
                () = sleep_until(deadline) => self.act(link, &mut pings, Event::Tick),
                Some(collected) = pings.collected() => self.send_ping(link, collected),
                Some(request) = asked.recv() => requests.take(request, self.survivors, &mut self.background, &self.env.services.config),
                // Not while draining: what is due stays due, and would keep the loop from the branch below.
                reason = requests.due(&busy, self.survivors, &self.server, self.config.port), if !draining => self.feed(Event::Stop(reason)),
                _ = in_flight.wait_for(|count| *count == 0), if draining => {
                    // The last answers were queued before the count fell.
                    while let Ok(message) = answered.try_recv() {
                        self.answer(link, message);
                    }
                    self.act(link, &mut pings, Event::Idle);
                }
            }
        }
    }

    fn receive(
        &mut self,
        link: &mut Link,
        pings: &mut Pings,
        bytes: &[u8],
        answers: &mpsc::UnboundedSender<Message>,
        session_link: &SessionLink,
    ) {
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.undecodable(link, &error),
        };
        match inbound::sort(message, self.startup_sequence) {
            Inbound::Request { event, request } => {
                let actions = self.machine.on(self.env.now(), event);
                if actions.contains(&Action::Dispatch) {
                    self.env.dispatcher.submit(request, answers.clone(), session_link.clone());
                }
                self.perform(link, Some(pings), actions);
            }
            Inbound::Response { event, avoid } => {
                if let Some(avoid) = avoid {
                    self.survivors.servers.set_avoid(&avoid);
                }
                if matches!(event, Event::PingAnswered { .. }) {
                    self.reporter.ping_answered();
                }
                self.act(link, pings, event);
            }
            Inbound::Ignored { class } => tracing::debug!(%class, "Response without meaning here"),
        }
    }

    /// A request whose body does not read is answered, so that the server does not wait for it.
    fn undecodable(&mut self, link: &mut Link, error: &DecodeError) {
        let text = chain(error);
        tracing::warn!(error = %text, "A message of the server cannot be read");
        match error.header() {
            None => self.feed(Event::Closed(Close::Garbage(text))),
            Some(header) if header.is_request() => {
                let answer = Answer::failed(crate::commands::registry::PLAIN_ANSWER, &Fault::new(text));
                self.transmit(link, Message { header: header.response(), elements: vec![answer.element] });
            }
            Some(_) => {}
        }
    }

    fn send_ping(&mut self, link: &mut Link, collected: Collected) {
        let sequence = self.survivors.take_sequence();
        let host_id = self.machine.host_id();
        match collected.element(host_id) {
            Ok(element) => {
                self.request(link, sequence, Flags::STOP_ON_ERROR, element);
                self.feed(Event::PingSent { sequence });
                self.reporter.ping_sent(self.machine.ping_interval());
            }
            Err(error) => tracing::error!(%error, "A ping cannot be written"),
        }
    }

    fn request(&mut self, link: &mut Link, sequence: i64, flags: Flags, element: Element) {
        let header = Header::request(sequence, self.machine.host_id(), flags);
        self.transmit(link, Message { header, elements: vec![element] });
    }

    /// Sends the answers to a request. A failure while registering explains what may follow.
    fn answer(&mut self, link: &mut Link, message: Message) {
        if self.ready_since.is_none()
            && let Some(failure) = inbound::own_failure(&message.elements)
        {
            self.feed(Event::AnswerFailed(failure));
        }
        self.transmit(link, message);
    }

    fn transmit(&mut self, link: &mut Link, message: Message) {
        let sent = match message.encode() {
            Ok(bytes) => link.send(&bytes),
            Err(error) => {
                return tracing::error!(seq = message.header.sequence, %error, "A message cannot be written");
            }
        };
        if let Err(close) = sent {
            self.feed(Event::Closed(close));
        }
    }

    /// Feeds an event whose actions need no link.
    fn feed(&mut self, event: Event) {
        let actions = self.machine.on(self.env.now(), event);
        self.note(&actions);
    }

    fn act(&mut self, link: &mut Link, pings: &mut Pings, event: Event) {
        let actions = self.machine.on(self.env.now(), event);
        self.perform(link, Some(pings), actions);
    }

    fn perform(&mut self, link: &mut Link, mut pings: Option<&mut Pings>, actions: Vec<Action>) {
        for action in &actions {
            match action {
                Action::SendPing { .. } => {
                    if let Some(pings) = pings.as_deref_mut() {
                        pings.collect(&mut self.background, self.machine.ping_interval());
                    }
                }
                Action::SendShutdown { detail } => match shutdown::farewell(*detail) {
                    Ok(element) => {
                        self.request(link, -1, Flags::STOP_ON_ERROR.with(Flags::IN_SEQUENCE), element)
                    }
                    Err(error) => tracing::error!(%error, "ShutdownCommand cannot be written"),
                },
                Action::SendStartup
                | Action::Dispatch
                | Action::HostId(_)
                | Action::Entered(_)
                | Action::WatchIdle
                | Action::End(_) => {}
            }
        }
        self.note(&actions);
    }

    /// The part of actions that concerns this side of the link only.
    fn note(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Entered(phase) => self.entered(*phase),
                Action::HostId(id) => self.learned_id(*id),
                Action::End(end) => self.end = Some(end.clone()),
                // Performed where the link is at hand.
                Action::SendStartup
                | Action::SendPing { .. }
                | Action::Dispatch
                | Action::WatchIdle
                | Action::SendShutdown { .. } => {}
            }
        }
    }

    fn entered(&mut self, phase: Phase) {
        self.reporter.entered(phase);
        if phase == Phase::Ready {
            self.ready_since = Some(self.env.now());
            self.survivors.registrations += 1;
            let server = address(&self.server, self.config.port);
            tracing::info!(host_id = self.machine.host_id(), %server, "Registered");
        } else {
            tracing::debug!(?phase, "Session");
        }
    }

    fn learned_id(&mut self, id: i64) {
        self.reporter.host_id(Some(id));
        if self.survivors.host_id == Some(id) {
            return;
        }
        self.survivors.host_id = Some(id);
        let config = self.env.services.config.clone();
        // Not awaited: a slow disk must not delay the answer to ReadyCommand.
        tokio::spawn(async move {
            let change = Change { key: "LibvirtComputingResource.id", value: Some(id.to_string()) };
            if let Err(error) = config.persist(vec![change]).await {
                tracing::warn!(error = %chain(&error), "The host id cannot be saved; it will be learned again");
            }
        });
    }

    fn finish(self) -> Finished {
        let now = self.env.now();
        let ping_interval = self.machine.ping_interval();
        let ready = self.ready_since.map(|at| ReadySpan { held: now.saturating_sub(at), ping_interval });
        let end = self.end.unwrap_or(End::Stopped(StopReason::Signal));
        Finished { end, ready }
    }
}

/// Sleeps until the deadline; for ever without one.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
