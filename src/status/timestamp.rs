//! A point in time as the status document carries it: RFC 3339, UTC, whole milliseconds.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// UTC time with millisecond precision, so that a value survives the trip through JSON unchanged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// The wall clock.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Seconds since 1970-01-01 UTC. A value outside the calendar (year beyond 9999) becomes the epoch.
    pub fn from_unix(seconds: i64) -> Self {
        Self(OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH))
    }

    /// Seconds since 1970-01-01 UTC.
    pub fn unix(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// RFC 3339, any offset. `None` when the text is not a time.
    pub fn parse(text: &str) -> Option<Self> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Self::rounded(parsed.to_offset(time::UtcOffset::UTC)))
    }

    /// Time from `earlier` to this one; zero if the clock went backwards between the two.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::try_from(self.0 - earlier.0).unwrap_or(Duration::ZERO)
    }

    /// This time plus `span`; unchanged when that leaves the calendar.
    pub fn plus(self, span: Duration) -> Self {
        let moved = time::Duration::try_from(span).ok().and_then(|span| self.0.checked_add(span));
        moved.map_or(self, Self::rounded)
    }

    /// This time minus `span`; unchanged when that leaves the calendar.
    pub fn minus(self, span: Duration) -> Self {
        let moved = time::Duration::try_from(span).ok().and_then(|span| self.0.checked_sub(span));
        moved.map_or(self, Self::rounded)
    }

    /// `2026-11-20`.
    pub fn date(self) -> String {
        self.0.format(format_description!("[year]-[month]-[day]")).unwrap_or_default()
    }

    /// `08:14:03`.
    pub fn clock(self) -> String {
        self.0.format(format_description!("[hour]:[minute]:[second]")).unwrap_or_default()
    }

    /// The clock alone for a time on the same day as `now`, else date and clock.
    pub fn relative_to(self, now: Timestamp) -> String {
        if self.0.date() == now.0.date() { self.clock() } else { format!("{} {}", self.date(), self.clock()) }
    }

    fn rounded(value: OffsetDateTime) -> Self {
        Self(value.replace_millisecond(value.millisecond()).unwrap_or(value))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(value: SystemTime) -> Self {
        Self::rounded(OffsetDateTime::from(value))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not an RFC 3339 time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_any_offset_and_writes_utc() {
        let time = Timestamp::parse("2026-11-20T10:14:03.250+02:00").unwrap();
        assert_eq!(time.to_string(), "2026-11-20T08:14:03.25Z");
        assert_eq!(time.date(), "2026-11-20");
        assert_eq!(time.clock(), "08:14:03");
    }

    #[test]
    fn survives_json() {
        let now = Timestamp::now();
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), now);
    }

    #[test]
    fn a_clock_that_went_back_is_no_time_at_all() {
        let early = Timestamp::from_unix(1_000);
        let late = early.plus(Duration::from_secs(9));
        assert_eq!(late.since(early), Duration::from_secs(9));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.minus(Duration::from_secs(9)), early);
    }

    #[test]
    fn other_days_carry_their_date() {
        let now = Timestamp::parse("2026-11-20T08:20:00Z").unwrap();
        assert_eq!(now.minus(Duration::from_secs(60)).relative_to(now), "08:19:00");
        assert_eq!(now.minus(Duration::from_secs(86_400)).relative_to(now), "2026-11-19 08:20:00");
    }
}
