//! What a command is, and the machinery behind the one table of commands ([`super::table`]).
//!
//! A handler file implements [`Command`] for its wire struct; the table names it once. From that
//! line follow decoding, dispatch, `agent commands`, the compatibility table and metric labels.

use super::claims::Claims;
use super::ctx::Ctx;
use super::fault::Fault;
use crate::wire::{Element, classes, envelope, gson};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::future::Future;
use std::pin::Pin;

/// Answer class for commands without a fields-bearing answer of their own.
pub const PLAIN_ANSWER: &str = "com.cloud.agent.api.Answer";
/// Answer class for commands that this agent does not handle; servers test for it by class.
pub const UNSUPPORTED_ANSWER: &str = "com.cloud.agent.api.UnsupportedAnswer";

/// One command of the management server.
///
/// The implementing struct has the wire fields (mirroring the Java class named in its module doc);
/// [`crate::wire::lenient`] helps to read both spellings of a value.
pub trait Command: DeserializeOwned + Send + 'static {
    /// The answer's own fields, without `result`, `details` and the common tail.
    type Answer: Serialize + Send;
    /// Fully qualified class of the answer.
    const ANSWER: &'static str = PLAIN_ANSWER;

    /// The class of the answer to this very command, where it is not always the same.
    fn answer_class(&self) -> &'static str {
        Self::ANSWER
    }

    /// The class when the handler fails: another one only for servers that tell a failure by the class.
    fn failure_class(&self) -> &'static str {
        self.answer_class()
    }

    /// What must not be touched, or not be changed, by others meanwhile. Commands whose claims conflict
    /// run in order of arrival.
    fn claims(&self) -> Claims {
        Claims::none()
    }

    /// Does the work. An error becomes an answer with `result=false` and one line of details.
    fn handle(self, ctx: Ctx) -> impl Future<Output = Result<Reply<Self::Answer>, Fault>> + Send;
}

/// No fields of its own.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct NoFields {}

/// A successful run of a handler; `result` may still be false where fields have to go along.
#[derive(Debug, Clone)]
pub struct Reply<A> {
    pub fields: A,
    pub result: bool,
    pub details: Option<String>,
}

impl<A> Reply<A> {
    pub fn ok(fields: A) -> Reply<A> {
        Reply { fields, result: true, details: None }
    }

    pub fn failed(fields: A, details: impl Into<String>) -> Reply<A> {
        Reply { fields, result: false, details: Some(details.into()) }
    }

    #[must_use]
    pub fn details(self, details: impl Into<String>) -> Reply<A> {
        Reply { details: Some(details.into()), ..self }
    }
}

impl Reply<NoFields> {
    /// A plain success.
    pub fn done() -> Reply<NoFields> {
        Reply::ok(NoFields {})
    }
}

/// Part of the system that a command belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// The agent itself: registration, server list, parameters.
    Agent,
    Certificate,
    Host,
    Network,
    Storage,
    Vm,
}

impl Domain {
    pub fn name(self) -> &'static str {
        match self {
            Domain::Agent => "agent",
            Domain::Certificate => "certificate",
            Domain::Host => "host",
            Domain::Network => "network",
            Domain::Storage => "storage",
            Domain::Vm => "vm",
        }
    }
}

/// How a command is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Answers from memory in microseconds: never waits behind other work.
    Inline,
    /// Does real work: bounded number at once.
    Pool,
}

/// How much of a command works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Done,
    /// Works but for what the text names.
    Partial(&'static str),
    /// Deliberately answered with [`UNSUPPORTED_ANSWER`]; the text says why.
    Refused(&'static str),
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub class: &'static str,
    pub answer: &'static str,
    pub domain: Domain,
    pub lane: Lane,
    pub support: Support,
    pub(super) decode: fn(&Element) -> Result<Box<dyn Call>, serde_json::Error>,
}

impl Entry {
    /// First server version whose schema has the class.
    pub fn since(&self) -> &'static str {
        classes::find(self.class).map_or("4.19.1", |class| class.since)
    }

    /// Reads the fields of `element` as this command.
    pub fn decode(&self, element: &Element) -> Result<Box<dyn Call>, serde_json::Error> {
        (self.decode)(element)
    }
}

/// A decoded command, ready to run once.
pub trait Call: Send {
    fn claims(&self) -> Claims;
    fn run(self: Box<Self>, ctx: Ctx) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
}

/// An answer as it goes out.
#[derive(Debug, Clone)]
pub struct Answer {
    pub element: Element,
    pub result: bool,
}

impl Answer {
    /// An answer of `class` with fields; falls back to a failed one if they cannot be written.
    pub fn of<A: Serialize>(class: &'static str, reply: &Reply<A>) -> Answer {
        let wire = AnswerFields {
            fields: &reply.fields,
            result: reply.result,
            details: reply.details.as_deref(),
            context: NoFields {},
            wait: 0,
            bypass_host_maintenance: false,
        };
        match Element::new(class, &wire) {
            Ok(element) => Answer { element, result: reply.result },
            Err(error) => Answer::failed(class, &Fault::from_error(&error)),
        }
    }

    /// A failed answer of `class` with one line of details.
    pub fn failed(class: &str, fault: &Fault) -> Answer {
        let details = gson::to_string(fault.text()).unwrap_or_else(|_| "\"\"".into());
        let json = format!(
            r#"{{"result":false,"details":{details},"contextMap":{{}},"wait":0,"bypassHostMaintenance":false}}"#
        );
        let fields = RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Answer { element: Element { class: class.to_owned(), fields }, result: false }
    }

    /// The answer to a command class without a handler; the wording is the reference agent's.
    pub fn unsupported(class: &str) -> Answer {
        let shown: String = class.chars().take(200).collect();
        let text =
            format!("Unsupported command issued: {shown}.  Are you sure you got the right type of server?");
        // Not through Fault::new, which would fold the two blanks.
        Answer::failed(UNSUPPORTED_ANSWER, &Fault::verbatim(text))
    }
}

#[derive(Serialize)]
struct AnswerFields<'a, A> {
    #[serde(flatten)]
    fields: &'a A,
    result: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
    #[serde(rename = "contextMap")]
    context: NoFields,
    wait: i32,
    #[serde(rename = "bypassHostMaintenance")]
    bypass_host_maintenance: bool,
}

struct Typed<C>(C);

impl<C: Command> Call for Typed<C> {
    fn claims(&self) -> Claims {
        self.0.claims()
    }

    fn run(self: Box<Self>, ctx: Ctx) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        Box::pin(async move {
            let (class, failure) = (self.0.answer_class(), self.0.failure_class());
            match self.0.handle(ctx).await {
                Ok(reply) => Answer::of(class, &reply),
                Err(fault) => Answer::failed(failure, &fault),
            }
        })
    }
}

pub(super) fn decode_as<C: Command>(element: &Element) -> Result<Box<dyn Call>, serde_json::Error> {
    Ok(Box::new(Typed(element.read::<C>()?)))
}

/// True if the names ascend strictly: sorted, none twice. Evaluated while compiling.
#[allow(clippy::indexing_slicing)] // bounds are checked by the loop conditions; out of range would not compile
pub(super) const fn ascending(names: &[&str]) -> bool {
    let mut n = 1;
    while n < names.len() {
        let (left, right) = (names[n - 1].as_bytes(), names[n].as_bytes());
        let mut at = 0;
        while at < left.len() && at < right.len() && left[at] == right[at] {
            at += 1;
        }
        let before =
            if at == left.len() { at < right.len() } else { at < right.len() && left[at] < right[at] };
        if !before {
            return false;
        }
        n += 1;
    }
    true
}

/// Builds the table. A missing handler, a class twice or out of order does not compile.
macro_rules! registry {
    ($($class:literal => $handler:ty, $domain:ident, $lane:ident, $support:expr;)*) => {
        /// All handled commands, sorted by class.
        pub static TABLE: &[Entry] = &[$(
            Entry {
                class: $class,
                answer: <$handler as Command>::ANSWER,
                domain: Domain::$domain,
                lane: Lane::$lane,
                support: $support,
                decode: decode_as::<$handler>,
            },
        )*];
        const _: () = assert!(ascending(&[$($class),*]), "registry: classes must ascend, each named once");
    };
}
pub(super) use registry;

/// Shown name of a class: without its package.
pub fn display_name(class: &str) -> &str {
    envelope::simple_name(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compile_time_check_sees_disorder() {
        assert!(ascending(&["a", "ab", "b"]));
        assert!(!ascending(&["a", "a"]));
        assert!(!ascending(&["ab", "a"]));
        assert!(!ascending(&["b", "a"]));
    }

    #[test]
    fn answers_always_carry_result_and_tail() {
        let ok = Answer::of(PLAIN_ANSWER, &Reply::done());
        assert_eq!(
            ok.element.fields.get(),
            r#"{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}"#
        );
        let failed = Answer::failed(PLAIN_ANSWER, &Fault::new("a\n\"b\"\tc"));
        assert_eq!(
            failed.element.fields.get(),
            r#"{"result":false,"details":"a \"b\" c","contextMap":{},"wait":0,"bypassHostMaintenance":false}"#
        );
    }

    #[test]
    fn unsupported_uses_the_words_servers_know() {
        let answer = Answer::unsupported("a.B");
        assert_eq!(answer.element.class, UNSUPPORTED_ANSWER);
        assert!(answer.element.fields.get().contains("Unsupported command issued: a.B.  Are you sure"));
    }
}
