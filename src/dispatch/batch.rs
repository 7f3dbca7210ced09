//! One request from decoded commands to the array of answers: commands run one after the other,
//! answers match commands one to one (mirrors `com.cloud.agent.Agent.processRequest`).

use super::stats::{Outcome, Stats};
use crate::commands::registry::{PLAIN_ANSWER, display_name};
use crate::commands::{Answer, Call, Claims, Ctx, Fault, Lane, Services, SessionLink, table};
use crate::wire::{CommandTail, Element, Flags, Header};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// Longest `wait` taken from the wire.
const LONGEST_WAIT: u64 = 7 * 24 * 3600;

/// A command of a batch, as far as decoding got.
enum Step {
    Run {
        answer: &'static str,
        call: Box<dyn Call>,
    },
    /// Handled class, but its fields do not read.
    Unreadable {
        answer: &'static str,
        fault: Fault,
    },
    /// No handler.
    Unsupported,
}

struct Planned {
    class: String,
    tail: CommandTail,
    step: Step,
}

/// A decoded request, not yet started.
pub struct Batch {
    header: Header,
    planned: Vec<Planned>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("sequence", &self.header.sequence)
            .field("commands", &self.planned.len())
            .finish()
    }
}

impl Batch {
    pub fn decode(header: Header, elements: Vec<Element>) -> Batch {
        Batch { header, planned: elements.into_iter().map(plan).collect() }
    }

    pub fn header(&self) -> Header {
        self.header
    }

    /// What the commands together need to themselves or unchanged.
    pub fn claims(&self) -> Claims {
        self.planned.iter().fold(Claims::none(), |claims, planned| match &planned.step {
            Step::Run { call, .. } => claims.and(call.claims()),
            Step::Unreadable { .. } | Step::Unsupported => claims,
        })
    }

    /// The pool lane as soon as one command needs it.
    pub fn lane(&self) -> Lane {
        let lane = |planned: &Planned| table::find(&planned.class).map_or(Lane::Inline, |entry| entry.lane);
        self.planned.iter().map(lane).max().unwrap_or(Lane::Inline)
    }

    /// Answers for a batch that is not going to run.
    pub fn refuse(self, fault: &Fault) -> Vec<Element> {
        let answer = |planned: &Planned| Answer::failed(answer_class(&planned.step), fault).element;
        self.planned.iter().map(answer).collect()
    }

    /// Runs all commands in order; after a failure the rest is skipped if the request says so.
    pub async fn run(
        self,
        services: Arc<Services>,
        session: SessionLink,
        default_wait: Duration,
        stats: Stats,
    ) -> Vec<Element> {
        let stop_on_error = self.header.flags.contains(Flags::STOP_ON_ERROR);
        let mut answers = Vec::with_capacity(self.planned.len());
        let mut failed = false;
        for planned in self.planned {
            if failed && stop_on_error {
                answers
                    .push(Answer::failed(PLAIN_ANSWER, &Fault::new("Stopped by previous failure")).element);
                continue;
            }
            let wait = u64::try_from(planned.tail.wait).unwrap_or_default().min(LONGEST_WAIT);
            let deadline = if wait > 0 { Duration::from_secs(wait) } else { default_wait };
            let ctx = Ctx {
                services: services.clone(),
                session: session.clone(),
                logid: planned.tail.logid().to_owned(),
                deadline,
            };
            let answer = run_one(planned, ctx, self.header.sequence, &stats).await;
            failed |= !answer.result;
            answers.push(answer.element);
        }
        answers
    }
}

fn plan(element: Element) -> Planned {
    let tail = element.read::<CommandTail>().unwrap_or_default();
    let step = match table::find(&element.class) {
        None => Step::Unsupported,
        Some(entry) => match entry.decode(&element) {
            Ok(call) => Step::Run { answer: entry.answer, call },
            Err(error) => Step::Unreadable { answer: entry.answer, fault: Fault::from_error(&error) },
        },
    };
    Planned { class: element.class, tail, step }
}

fn answer_class(step: &Step) -> &'static str {
    match step {
        Step::Run { answer, .. } | Step::Unreadable { answer, .. } => answer,
        Step::Unsupported => PLAIN_ANSWER,
    }
}

async fn run_one(planned: Planned, ctx: Ctx, sequence: i64, stats: &Stats) -> Answer {
    let started = Instant::now();
    let name = display_name(&planned.class).to_owned();
    let logid = ctx.logid.clone();
    let (answer, outcome) = match planned.step {
        Step::Run { answer, call } => {
            // What the handler logs has these fields too.
            let span = tracing::info_span!("command", command = %name, seq = sequence, %logid);
            let answer = guarded(answer, call, ctx).instrument(span).await;
            let outcome = if answer.result { Outcome::Done } else { Outcome::Failed };
            (answer, outcome)
        }
        Step::Unreadable { answer, fault } => {
            let fault = Fault::new(format!("The fields of {name} cannot be read: {fault}"));
            (Answer::failed(answer, &fault), Outcome::Failed)
        }
        Step::Unsupported => (Answer::unsupported(&planned.class), Outcome::Unsupported),
    };
    let took = started.elapsed();
    stats.count(table::find(&planned.class).map(|entry| entry.class), outcome, took);
    let took_ms = took.as_micros() as f64 / 1000.0;
    match outcome {
        Outcome::Done => tracing::info!(command = %name, seq = sequence, %logid, took_ms, "Command done"),
        Outcome::Unsupported => {
            tracing::info!(command = %name, seq = sequence, %logid, "Command is not supported")
        }
        Outcome::Failed => {
            let details = details_of(&answer);
            tracing::warn!(command = %name, seq = sequence, %logid, took_ms, details, "Command failed");
        }
    }
    answer
}

fn details_of(answer: &Answer) -> String {
    #[derive(serde::Deserialize)]
    struct Details {
        #[serde(default)]
        details: String,
    }
    answer.element.read::<Details>().map(|d| d.details).unwrap_or_default()
}

/// Runs the handler in a task of its own: a panic or a missed deadline is one failed answer.
async fn guarded(class: &'static str, call: Box<dyn Call>, ctx: Ctx) -> Answer {
    let deadline = ctx.deadline;
    let mut task = tokio::spawn(call.run(ctx).in_current_span());
    match tokio::time::timeout(deadline, &mut task).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => {
            let text = "The agent's handler for this command panicked; the agent's log has the place. Please report it";
            Answer::failed(class, &Fault::new(text))
        }
        Err(_) => {
            task.abort();
            let text = format!(
                "Not finished within {} s (the command's own limit or cmds.timeout)",
                deadline.as_secs()
            );
            Answer::failed(class, &Fault::new(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use std::pin::Pin;

    /// A handler that does whatever a bug can make it do.
    enum Faulty {
        Panics,
        Hangs,
    }

    impl Call for Faulty {
        fn claims(&self) -> Claims {
            Claims::none()
        }

        fn run(self: Box<Self>, _: Ctx) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
            Box::pin(async move {
                match *self {
                    Faulty::Panics => panic!("a bug in a handler"),
                    Faulty::Hangs => std::future::pending().await,
                }
            })
        }
    }

    async fn outcome(call: Faulty, deadline: Duration) -> (String, String) {
        let ctx = Ctx { deadline, ..Bench::new().await.ctx.clone() };
        let answer = guarded("com.cloud.agent.api.StartAnswer", Box::new(call), ctx).await;
        assert!(!answer.result);
        (answer.element.class.clone(), details_of(&answer))
    }

    #[tokio::test]
    async fn a_panic_is_one_failed_answer_of_the_right_class() {
        let (class, details) = outcome(Faulty::Panics, Duration::from_secs(60)).await;
        assert_eq!(class, "com.cloud.agent.api.StartAnswer");
        assert!(details.contains("panicked"), "{details}");
    }

    #[tokio::test]
    async fn a_hang_ends_at_the_deadline() {
        let (_, details) = outcome(Faulty::Hangs, Duration::from_millis(10)).await;
        assert!(details.contains("Not finished"), "{details}");
    }

    #[test]
    fn a_refused_batch_has_an_answer_for_each_command() {
        let element = |class: &str| Element::new(class, &serde_json::json!({})).unwrap();
        let elements = vec![element("com.cloud.agent.api.CheckHealthCommand"), element("a.Unknown")];
        let batch = Batch::decode(Header::request(1, None, Flags::default()), elements);
        let classes: Vec<String> = batch.refuse(&Fault::new("full")).into_iter().map(|e| e.class).collect();
        assert_eq!(classes, ["com.cloud.agent.api.CheckHealthAnswer", PLAIN_ANSWER]);
    }
}
