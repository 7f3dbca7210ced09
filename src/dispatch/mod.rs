//! Runs what the server asks for: admission ([`policy`]), batches ([`batch`]), counters ([`stats`]).
//!
//! One task owns the admission state. It outlives connections: a command that has begun is finished
//! when its connection breaks, but its answer goes only to the connection that asked.

mod batch;
pub mod policy;
pub mod stats;

use crate::commands::{Fault, Services, SessionLink};
use crate::service::pulse::Pulse;
use crate::wire::{Element, Header, Message};
use batch::Batch;
use policy::{Admission, BatchId, Verdict};
use stats::Stats;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Batches of the pool lane that run at once. Most of them wait for libvirt or a process, not for
/// a processor; the reference agent runs 5.
const CAPACITY: usize = 64;
/// Batches that may wait for a guest or for capacity.
const LONGEST_LINE: usize = 4_096;

/// Where the answers of one connection go.
pub type AnswerSender = mpsc::UnboundedSender<Message>;

enum Job {
    Submit { request: Message, answers: AnswerSender, session: SessionLink },
    Finished(BatchId),
}

/// Handle to the dispatcher.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    jobs: mpsc::UnboundedSender<Job>,
    /// Counted up here and not by the task: a session that is about to end must not overlook a
    /// request that it has just handed over.
    in_flight: Arc<watch::Sender<usize>>,
    waiting: watch::Receiver<usize>,
    stats: Stats,
}

impl Dispatcher {
    /// Starts the owning task; needs a runtime.
    pub fn spawn(services: Arc<Services>, pulse: Pulse) -> Dispatcher {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let in_flight = Arc::new(watch::channel(0).0);
        let (line, waiting) = watch::channel(0);
        let stats = Stats::spawn();
        let runner = Runner {
            services,
            admission: Admission::new(CAPACITY, LONGEST_LINE),
            waiting: BTreeMap::new(),
            line,
            next_id: 0,
            jobs: jobs.clone(),
            in_flight: in_flight.clone(),
            stats: stats.clone(),
        };
        tokio::spawn(pulse.watch(runner.run(inbox)));
        Dispatcher { jobs, in_flight, waiting, stats }
    }

    /// Takes a request; exactly one response with as many answers will be sent to `answers`.
    pub fn submit(&self, request: Message, answers: AnswerSender, session: SessionLink) {
        self.in_flight.send_modify(|count| *count += 1);
        let _ = self.jobs.send(Job::Submit { request, answers, session });
    }

    /// Number of requests submitted and not answered yet.
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.in_flight.subscribe()
    }

    /// Of these, the number of requests that wait for what they claim, or for capacity.
    pub fn waiting(&self) -> usize {
        *self.waiting.borrow()
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// A batch that waits, with everything needed to start it.
struct Parked {
    batch: Batch,
    answers: AnswerSender,
    session: SessionLink,
}

struct Runner {
    services: Arc<Services>,
    admission: Admission,
    waiting: BTreeMap<BatchId, Parked>,
    /// Tells how many there are in it.
    line: watch::Sender<usize>,
    next_id: BatchId,
    jobs: mpsc::UnboundedSender<Job>,
    in_flight: Arc<watch::Sender<usize>>,
    stats: Stats,
}

impl Runner {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = inbox.recv().await {
            match job {
                Job::Submit { request, answers, session } => self.submit(request, answers, session),
                Job::Finished(id) => {
                    self.answered();
                    for next in self.admission.finish(id) {
                        if let Some(parked) = self.waiting.remove(&next) {
                            self.start(next, parked);
                        }
                    }
                }
            }
            self.line
                .send_if_modified(|told| std::mem::replace(told, self.waiting.len()) != self.waiting.len());
        }
    }

    fn answered(&self) {
        self.in_flight.send_modify(|count| *count = count.saturating_sub(1));
    }

    fn submit(&mut self, request: Message, answers: AnswerSender, session: SessionLink) {
        for element in &request.elements {
            self.services.touched.note_request(&element.class, element.fields.get());
        }
        let batch = Batch::decode(request.header, request.elements);
        let id = self.next_id;
        self.next_id += 1;
        let claims = batch.claims();
        for name in claims.names() {
            self.services.touched.note(name);
        }
        let verdict = self.admission.submit(id, batch.lane(), claims);
        let parked = Parked { batch, answers, session };
        match verdict {
            Verdict::Start => self.start(id, parked),
            Verdict::Wait => drop(self.waiting.insert(id, parked)),
            Verdict::Refuse => {
                let fault = Fault::new(format!(
                    "The agent already has {LONGEST_LINE} requests waiting; try again later"
                ));
                let header = parked.batch.header();
                reply(header, parked.batch.refuse(&fault), &parked.answers, &self.stats);
                self.answered();
            }
        }
    }

    fn start(&self, id: BatchId, parked: Parked) {
        let services = self.services.clone();
        let stats = self.stats.clone();
        let jobs = self.jobs.clone();
        let default_wait = default_wait(&services);
        tokio::spawn(async move {
            // Reports also when the task is torn down, so that a guest is never locked for ever.
            let _finished = Finished { id, jobs };
            let header = parked.batch.header();
            let elements = parked.batch.run(services, parked.session, default_wait, stats.clone()).await;
            reply(header, elements, &parked.answers, &stats);
        });
    }
}

fn default_wait(services: &Services) -> Duration {
    /// Used while the configuration cannot be read; the default of `cmds.timeout`.
    const FALLBACK: Duration = Duration::from_secs(7_200);
    match &*services.config.current() {
        crate::config::FileState::Loaded(config) => config.cmds_timeout,
        crate::config::FileState::Missing { .. } | crate::config::FileState::Invalid { .. } => FALLBACK,
    }
}

fn reply(request: Header, elements: Vec<Element>, answers: &AnswerSender, stats: &Stats) {
    let count = elements.len();
    if answers.send(Message { header: request.response(), elements }).is_err() {
        stats.orphaned(count);
        tracing::info!(seq = request.sequence, "Connection ended before this command; its answer is dropped");
    }
}

struct Finished {
    id: BatchId,
    jobs: mpsc::UnboundedSender<Job>,
}

impl Drop for Finished {
    fn drop(&mut self) {
        let _ = self.jobs.send(Job::Finished(self.id));
    }
}
