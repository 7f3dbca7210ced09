//! The journal as a place for log lines: each field of a line is a field of the entry (`COMMAND`,
//! `LOGID`), and stands behind the message too, since journalctl shows nothing else unless asked.

use std::fmt::{self, Write};
use std::io;

use tracing::field::{Field, Value, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// What `journalctl -t` takes, by whichever of its names the program was called.
const IDENTIFIER: &str = "cloudstack-agent";

/// As many fields as an event can have.
const MOST_FIELDS: usize = 32;

/// Connects to the journal's socket.
pub fn layer<S>() -> io::Result<impl Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    // The crate's own are one too urgent from INFO on.
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    let journal = tracing_journald::layer()?
        .with_field_prefix(None)
        .with_priority_mappings(priorities)
        .with_syslog_identifier(IDENTIFIER.to_owned());
    Ok(Telling(journal))
}

/// Hands events on with a message that tells their fields.
struct Telling<L>(L);

impl<S, L> Layer<S> for Telling<L>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    L: Layer<S>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.0.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.0.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let told = line.told();
        let Some((first, _)) = line.fields.first() else {
            return self.0.on_event(event, context);
        };
        let mut values: [(&Field, Option<&dyn Value>); MOST_FIELDS] = [(first, None); MOST_FIELDS];
        for (value, (field, text)) in values.iter_mut().zip(&line.fields) {
            *value = (field, Some(if is_message(field) { &told } else { text }));
        }
        let metadata = event.metadata();
        self.0.on_event(&Event::new(metadata, &metadata.fields().value_set(&values)), context);
    }
}

fn is_message(field: &Field) -> bool {
    field.name() == "message"
}

/// Fields of one event as text, as the journal has them.
#[derive(Default)]
struct Line {
    fields: Vec<(Field, String)>,
}

impl Line {
    /// The message, and ` name=value` of each other field.
    fn told(&self) -> String {
        let message = self.fields.iter().find(|(field, _)| is_message(field));
        let mut told = message.map(|(_, text)| text.clone()).unwrap_or_default();
        // What another logging crate adds is its place in the source.
        let others =
            self.fields.iter().filter(|(field, _)| !is_message(field) && !field.name().starts_with("log."));
        for (field, text) in others {
            let _ = write!(told, " {}={text}", field.name());
        }
        told
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.clone(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.push((field.clone(), format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    /// Keeps what would be written.
    #[derive(Default, Clone)]
    struct Kept(Arc<Mutex<Vec<(String, String)>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Line::default();
            event.record(&mut line);
            let fields = line.fields.into_iter().map(|(field, text)| (field.name().to_owned(), text));
            self.0.lock().unwrap().extend(fields);
        }
    }

    #[test]
    fn a_message_tells_its_fields_which_stay_fields() {
        let kept = Kept::default();
        let log = tracing_subscriber::registry().with(Telling(kept.clone()));
        tracing::subscriber::with_default(log, || {
            let (name, none) = ("StartCommand", None::<&str>);
            tracing::info!(command = %name, seq = 12_i64, logid = "5eed", took_ms = 1.5, none, "Command {}", "done");
        });
        let kept = kept.0.lock().unwrap().clone();
        let value = |name: &str| kept.iter().find(|(field, _)| field == name).map(|(_, text)| text.as_str());
        assert_eq!(value("message"), Some("Command done command=StartCommand seq=12 logid=5eed took_ms=1.5"));
        assert_eq!((value("command"), value("seq")), (Some("StartCommand"), Some("12")));
        assert_eq!((value("logid"), value("none")), (Some("5eed"), None));
    }

    #[test]
    fn an_event_without_a_message_keeps_its_fields() {
        let kept = Kept::default();
        let log = tracing_subscriber::registry().with(Telling(kept.clone()));
        tracing::subscriber::with_default(log, || tracing::info!(answer = 42));
        assert_eq!(*kept.0.lock().unwrap(), [("answer".to_owned(), "42".to_owned())]);
    }
}
