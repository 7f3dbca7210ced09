//! Scenarios: what a connection meets, as data.
//!
//! A [`Script`] is a list of phases; each phase gives a [`Scenario`] to a number of connections, in
//! the order in which they are accepted. [`super::plan`] turns a scenario into steps.

use std::time::Duration;

/// How the server treats one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scenario {
    /// The whole registration, then pings are answered.
    Normal,
    /// The Alert loop: registration starts, FIN 100 to 300 ms after the startup request.
    CutAfterStartup,
    /// `ReadyCommand` with a reason instead of a registration; the link stays open.
    Refuse,
    /// `StartupAnswer` with result false.
    StartupRejected,
    /// TLS, then nothing ever.
    Silent,
    /// Everything but `ReadyCommand`.
    NoReady,
    /// Registration, then the server neither reads nor writes while the socket stays open.
    HalfOpen,
    /// Normal, each message of the server late by [`Knobs::delay`].
    Slow,
    /// TLS alert `handshake_failure` for the ClientHello.
    TlsAlert,
    /// Like normal, but a valid client certificate is demanded.
    ClientCert,
    /// Like normal, with a certificate of another CA.
    WrongCa,
    /// Plain text for the ClientHello.
    NotTls,
    /// Closed at once after accept.
    AcceptClose,
    /// Registration, then half a frame and FIN.
    Truncated,
    /// Registration, then a frame header that announces 20000 bytes.
    Oversized,
    /// Registration, then two sealed messages in the wrong order.
    OutOfOrder,
    /// Registration, then a frame of random bytes.
    Garbage,
    /// Registration, then a gzip bomb. The link stays open.
    BadGzip,
    /// Registration, then a command nested 100000 levels deep. The link stays open.
    DeepJson,
    /// Registration; one `PingAnswer` asks for a startup although the host is Up.
    Duplicate,
    /// Registration; the host falls to Alert, each `PingAnswer` asks until it registers again.
    SendStartup,
    /// Registration, then the server goes away for [`Knobs::down`]. Once its phase is over, what
    /// follows is normal.
    Restart,
    /// Registration, then `ShutdownCommand` `deleteHost`.
    ShutdownCommand,
    /// The same with `removeHost`.
    ShutdownRemove,
    /// Registration, then [`Knobs::storm`] trivial commands as fast as they are answered.
    Storm,
}

/// Every scenario with its name.
const NAMES: [(&str, Scenario); 25] = [
    ("normal", Scenario::Normal),
    ("cut-after-startup", Scenario::CutAfterStartup),
    ("refuse", Scenario::Refuse),
    ("startup-rejected", Scenario::StartupRejected),
    ("silent", Scenario::Silent),
    ("no-ready", Scenario::NoReady),
    ("half-open", Scenario::HalfOpen),
    ("slow", Scenario::Slow),
    ("tls-alert", Scenario::TlsAlert),
    ("client-cert", Scenario::ClientCert),
    ("wrong-ca", Scenario::WrongCa),
    ("not-tls", Scenario::NotTls),
    ("accept-close", Scenario::AcceptClose),
    ("truncated", Scenario::Truncated),
    ("oversized", Scenario::Oversized),
    ("out-of-order", Scenario::OutOfOrder),
    ("garbage", Scenario::Garbage),
    ("bad-gzip", Scenario::BadGzip),
    ("deep-json", Scenario::DeepJson),
    ("duplicate", Scenario::Duplicate),
    ("send-startup", Scenario::SendStartup),
    ("restart", Scenario::Restart),
    ("shutdown-command", Scenario::ShutdownCommand),
    ("shutdown-remove", Scenario::ShutdownRemove),
    ("storm", Scenario::Storm),
];

impl Scenario {
    /// All scenarios, in the order of their documentation.
    pub fn all() -> impl Iterator<Item = Scenario> {
        NAMES.iter().map(|(_, scenario)| *scenario)
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, scenario)| *scenario == self).map_or("", |(name, _)| name)
    }

    pub fn named(name: &str) -> Option<Scenario> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, scenario)| *scenario)
    }
}

/// How many connections a phase lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    Connections(u64),
    Forever,
}

/// Why a text is no script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    #[error("Scenario {0:?} is not known: choose from {known}", known = names())]
    Unknown(String),
    #[error("{0:?} is not a number of connections: write NAME:COUNT, for example cut-after-startup:5")]
    Count(String),
}

fn names() -> String {
    NAMES.map(|(name, _)| name).join(", ")
}

/// The phases of a run. After the last one its scenario goes on, except that `restart` is followed
/// by `normal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    phases: Vec<(Scenario, Lasts)>,
}

impl Default for Script {
    fn default() -> Script {
        Script::always(Scenario::Normal)
    }
}

impl Script {
    /// The same for every connection.
    pub fn always(scenario: Scenario) -> Script {
        Script { phases: vec![(scenario, Lasts::Forever)] }
    }

    /// `scenario` for the next `connections` connections; continue with [`Script::then`].
    pub fn first(scenario: Scenario, connections: u64) -> Script {
        Script { phases: vec![(scenario, Lasts::Connections(connections))] }
    }

    /// Another phase of `connections` connections.
    #[must_use]
    pub fn then(mut self, scenario: Scenario, connections: u64) -> Script {
        self.phases.push((scenario, Lasts::Connections(connections)));
        self
    }

    /// The last phase.
    #[must_use]
    pub fn finally(mut self, scenario: Scenario) -> Script {
        self.phases.push((scenario, Lasts::Forever));
        self
    }

    /// Reads `NAME[:COUNT][,NAME[:COUNT]…]`. A phase without a count lasts one connection, the last
    /// phase for ever.
    pub fn parse(text: &str) -> Result<Script, ScriptError> {
        let mut phases = Vec::new();
        for word in text.split(',').map(str::trim) {
            let (name, count) = word.split_once(':').unwrap_or((word, "1"));
            let scenario = Scenario::named(name).ok_or_else(|| ScriptError::Unknown(name.to_owned()))?;
            let count = count.parse().map_err(|_| ScriptError::Count(count.to_owned()))?;
            phases.push((scenario, Lasts::Connections(count)));
        }
        Ok(Script { phases })
    }

    /// The scenario for a connection; `number` counts from 1.
    pub fn scenario(&self, number: u64) -> Scenario {
        let mut left = number.saturating_sub(1);
        for (scenario, lasts) in &self.phases {
            match lasts {
                Lasts::Forever => return *scenario,
                Lasts::Connections(count) if left < *count => return *scenario,
                Lasts::Connections(count) => left -= count,
            }
        }
        match self.phases.last() {
            // A server that goes away at every registration would be no restart any more.
            Some((Scenario::Restart, _)) | None => Scenario::Normal,
            Some((scenario, _)) => *scenario,
        }
    }
}

/// Numbers of the scenarios.
#[derive(Debug, Clone)]
pub struct Knobs {
    /// Between `StartupAnswer` and the first command. Pings are not answered meanwhile.
    pub attach_after: Duration,
    /// How much later each message leaves in `slow`.
    pub delay: Duration,
    /// Outage of `restart`. A real server needs about 25 s.
    pub down: Duration,
    /// Time from Ready to whatever the scenario does then.
    pub after_ready: Duration,
    /// Number of commands in `storm`.
    pub storm: usize,
    /// Unanswered commands at a time in `storm`.
    pub storm_window: usize,
    /// The reason in `refuse`.
    pub refusal: String,
    /// Traffic label that `CheckNetworkCommand` asks for.
    pub traffic_label: String,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs {
            attach_after: Duration::from_millis(20),
            delay: Duration::from_secs(2),
            down: Duration::from_secs(30),
            after_ready: Duration::from_millis(100),
            storm: 10_000,
            storm_window: 64,
            refusal: "Unable to create the host: the pod is not known".to_owned(),
            traffic_label: "cloudbr0".to_owned(),
        }
    }
}

/// Whether `ModifySshKeysCommand` is part of the registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SshKeys {
    /// Twice, as the real server does. The key texts are no keys.
    #[default]
    Send,
    Leave,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_the_last_one_stays() {
        let script = Script::parse("cut-after-startup:2, refuse,normal").unwrap();
        let played: Vec<_> = (1..=5).map(|n| script.scenario(n).name()).collect();
        assert_eq!(played, ["cut-after-startup", "cut-after-startup", "refuse", "normal", "normal"]);
        assert_eq!(Script::parse("restart").unwrap().scenario(2), Scenario::Normal);
        assert_eq!(
            Script::first(Scenario::CutAfterStartup, 2)
                .then(Scenario::Refuse, 1)
                .finally(Scenario::Normal)
                .scenario(9),
            Scenario::Normal
        );
    }

    #[test]
    fn wrong_scripts_are_named() {
        assert_eq!(Script::parse("normal,nope"), Err(ScriptError::Unknown("nope".into())));
        assert_eq!(Script::parse("normal:x"), Err(ScriptError::Count("x".into())));
        assert!(Script::parse("nope").unwrap_err().to_string().contains("half-open"));
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        for scenario in Scenario::all() {
            assert_eq!(Scenario::named(scenario.name()), Some(scenario));
        }
    }
}
