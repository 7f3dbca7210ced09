//! One page of metrics as Prometheus reads it (text format 0.0.4). Pure.
//!
//! What is not known is left out, never 0. Labels have few values: classes of commands are those that
//! this agent handles, all others are `other`.

use crate::commands::registry::display_name;
use crate::dispatch::stats::Counters;
use crate::histogram::Histogram;
use crate::host::exec::Ran;
use crate::hypervisor::CallFigures;
use crate::status::checks::CheckResult;
use crate::status::snapshot::{CertificateSection, SessionSection, SessionState, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt::Result;
use std::time::Duration;

/// What the page is, for HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds that histograms are written with. Each is one of [`Histogram`]'s own.
const LIMITS: [Duration; 13] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(25),
    Duration::from_secs(100),
    Duration::from_secs(500),
];

const STATES: [SessionState; 8] = [
    SessionState::Idle,
    SessionState::Connecting,
    SessionState::Tls,
    SessionState::Registering,
    SessionState::Registered,
    SessionState::Draining,
    SessionState::Backoff,
    SessionState::Stopped,
];

/// What the status does not have.
#[derive(Debug)]
pub struct Figures {
    /// Requests that are not answered yet.
    pub requests_in_flight: usize,
    /// Of these, those that have not begun.
    pub requests_waiting: usize,
    pub commands: Counters,
    pub calls: Vec<CallFigures>,
    pub programs: Ran,
    pub journal_leftovers: usize,
}

/// Everything that a page is written from.
#[derive(Debug)]
pub struct Page {
    pub status: Status,
    pub figures: Option<Figures>,
}

impl Page {
    /// The text. An error is one of the encoder, which a string does not cause.
    pub fn text(self) -> std::result::Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result {
        let mut page = Writer(encoder);
        process(&mut page, &self.status)?;
        session(&mut page, &self.status)?;
        host(&mut page, &self.status)?;
        match &self.figures {
            Some(figures) => owners(&mut page, figures),
            None => Ok(()),
        }
    }
}

fn process(page: &mut Writer<'_>, status: &Status) -> Result {
    let agent = &status.agent;
    let build = [("version", agent.version.as_str()), ("wire_version", agent.wire_version.as_str())];
    page.gauge(
        "cloudstack_agent_build_info",
        "Versions of the program and of what it speaks; always 1.",
        [(build.to_vec(), 1)],
    )?;
    let started = agent.started_at.map(|at| at.unix());
    page.number(
        "cloudstack_agent_start_time_seconds",
        "Start of the process in seconds since 1970.",
        started,
    )?;
    page.number("cloudstack_agent_resident_memory_bytes", "Resident memory.", number(agent.rss_bytes))?;
    page.number("cloudstack_agent_open_fds", "Open file descriptors.", number(agent.open_fds))?;
    page.number("cloudstack_agent_threads", "Threads.", number(agent.threads))
}

fn session(page: &mut Writer<'_>, status: &Status) -> Result {
    let session = &status.session;
    let states = STATES.map(|state| (vec![("state", state.word())], i64::from(state == session.state)));
    page.gauge("cloudstack_agent_session_state", "1 for the state that the session is in.", states)?;
    page.counter(
        "cloudstack_agent_session_attempts",
        "Connections that were tried.",
        session.connects.map(|count| (Vec::new(), count)),
    )?;
    page.counter(
        "cloudstack_agent_session_registrations",
        "Connections that became registrations.",
        session.registrations.map(|count| (Vec::new(), count)),
    )?;
    let ends = session.ends.iter().map(|(reason, count)| (vec![("reason", reason.as_str())], *count));
    page.counter("cloudstack_agent_session_ends", "Connections that ended, by reason.", ends)?;
    page.number(
        "cloudstack_agent_ping_interval_seconds",
        "Time between pings.",
        number(session.ping_interval_s),
    )?;
    page.number(
        "cloudstack_agent_pings_unanswered",
        "Pings since the last answer.",
        number(session.missed_pings),
    )?;
    let age = ping_age(status, session).map(|age| age.as_secs_f64());
    page.number(
        "cloudstack_agent_ping_age_seconds",
        "Since the last answer to a ping, or since the registration before the first; only while registered.",
        age,
    )
}

fn ping_age(status: &Status, session: &SessionSection) -> Option<Duration> {
    let registered = session.state == SessionState::Registered;
    // An answer of an earlier session says nothing of this one.
    let from = session.last_reply_at.filter(|at| *at > session.since).unwrap_or(session.since);
    registered.then(|| status.taken_at.since(from))
}

fn host(page: &mut Writer<'_>, status: &Status) -> Result {
    let libvirt = status.libvirt.as_ref();
    page.number(
        "cloudstack_agent_libvirt_connected",
        "1 while there is a connection to libvirt.",
        libvirt.map(|libvirt| i64::from(libvirt.connected)),
    )?;
    let guests = |state, count: Option<u64>| number(count).map(|count| (vec![("state", state)], count));
    let counted = libvirt.map(|libvirt| {
        [guests("running", libvirt.domains_running), guests("paused", libvirt.domains_paused)]
    });
    page.gauge("cloudstack_agent_guests", "Guests of this host.", counted.into_iter().flatten().flatten())?;
    let days = |certificate: &CertificateSection| certificate.days_left;
    page.number(
        "cloudstack_agent_certificate_days_left",
        "Whole days until this host's certificate expires; negative afterwards.",
        status.certificate.as_ref().map(days),
    )?;
    let orphans = status.orphans.as_ref();
    page.number(
        "cloudstack_agent_orphans",
        "What agent orphans would list.",
        number(orphans.map(|orphans| orphans.count)),
    )?;
    page.number(
        "cloudstack_agent_orphan_bytes",
        "What it takes up.",
        number(orphans.map(|orphans| orphans.bytes)),
    )?;
    let results = [
        ("ok", CheckResult::Ok),
        ("warn", CheckResult::Warn),
        ("fail", CheckResult::Fail),
        ("skip", CheckResult::Skip),
        ("timeout", CheckResult::Timeout),
    ];
    let count = |result| status.checks.iter().filter(|check| check.result == result).count();
    let checks = results.map(|(word, result)| (vec![("result", word)], whole(count(result))));
    page.gauge("cloudstack_agent_checks", "Checks of agent --status, by result.", checks)
}

fn owners(page: &mut Writer<'_>, figures: &Figures) -> Result {
    page.number(
        "cloudstack_agent_requests_in_flight",
        "Requests of the server that are not answered yet.",
        Some(whole(figures.requests_in_flight)),
    )?;
    page.number(
        "cloudstack_agent_requests_waiting",
        "Of these, those that wait for a guest or volume that another works on, or for capacity.",
        Some(whole(figures.requests_waiting)),
    )?;
    let counters = &figures.commands;
    let known = counters.by_class.iter().flat_map(|(class, counts)| {
        let labels = |result| vec![("command", display_name(class)), ("result", result)];
        [(labels("done"), counts.done), (labels("failed"), counts.failed)]
    });
    let other = (vec![("command", "other"), ("result", "unsupported")], counters.unsupported);
    page.counter(
        "cloudstack_agent_commands",
        "Commands that were answered, by class and result.",
        known.chain([other]),
    )?;
    page.histogram(
        "cloudstack_agent_command_duration_seconds",
        "From the start of a command to its answer.",
        counters.by_class.iter().map(|(class, counts)| (("command", display_name(class)), &counts.latency)),
    )?;
    page.counter(
        "cloudstack_agent_answers_dropped",
        "Answers whose connection was gone; the server asks again.",
        [(Vec::new(), counters.orphaned_answers)],
    )?;
    page.histogram(
        "cloudstack_agent_libvirt_call_duration_seconds",
        "Of calls to libvirt, waiting in line included, up to the answer or the deadline.",
        figures.calls.iter().map(|calls| (("kind", calls.kind), &calls.latency)),
    )?;
    page.counter(
        "cloudstack_agent_libvirt_call_timeouts",
        "Calls that libvirt did not answer before their deadline.",
        figures.calls.iter().map(|calls| (vec![("kind", calls.kind)], calls.deadline_misses)),
    )?;
    page.gauge(
        "cloudstack_agent_libvirt_calls_stuck",
        "Calls that were given up and have not returned yet; each holds a thread.",
        figures.calls.iter().map(|calls| (vec![("kind", calls.kind)], whole(calls.stuck))),
    )?;
    page.counter(
        "cloudstack_agent_programs",
        "Programs that were run, such as qemu-img.",
        [(Vec::new(), figures.programs.count)],
    )?;
    page.counter(
        "cloudstack_agent_program_seconds",
        "From their start to their end, added up.",
        [(Vec::new(), figures.programs.took.as_secs_f64())],
    )?;
    page.number(
        "cloudstack_agent_journal_leftovers",
        "Interrupted work that could not be undone or finished yet.",
        Some(whole(figures.journal_leftovers)),
    )
}

fn number(value: Option<u64>) -> Option<i64> {
    value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

fn whole(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Writes families of metrics; one without a value is left out.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn number(&mut self, name: &str, help: &str, value: Option<impl EncodeGaugeValue>) -> Result {
        self.gauge(name, help, value.map(|value| (Vec::new(), value)))
    }

    fn gauge<'l, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    /// The encoder adds `_total` to the name.
    fn counter<'l, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, V, u64>(&value, None)
        })
    }

    fn histogram<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ((&'static str, &'l str), &'l Histogram)>,
    ) -> Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        values.try_for_each(|(label, histogram)| {
            let counts = histogram.split(&LIMITS);
            let buckets: Vec<(f64, u64)> = LIMITS.iter().map(Duration::as_secs_f64).zip(counts).collect();
            let (sum, total) = (histogram.sum().as_secs_f64(), histogram.total());
            family.encode_family(&[label])?.encode_histogram::<NoLabelSet>(sum, total, &buckets, None)
        })
    }
}

#[cfg(test)]
mod tests;
