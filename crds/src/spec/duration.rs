//! Durations as people write them in a manifest.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time such as `250ms`, `30s`, `5m` or `1h30m`: Go's notation,
/// which Kubernetes uses throughout. Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// The pattern of a duration, for the schema and for messages.
    pub const PATTERN: &str = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$";

    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A duration of whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// The same length of time for the standard library.
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// The largest unit that needs no fraction; milliseconds may have one.
impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if !nanos.is_multiple_of(NANOS_PER_MILLI) {
            let fraction = format!("{:06}", nanos % NANOS_PER_MILLI);
            let whole = nanos / NANOS_PER_MILLI;
            return write!(f, "{whole}.{}ms", fraction.trim_end_matches('0'));
        }
        let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        let millis = nanos / NANOS_PER_MILLI;
        match units
            .into_iter()
            .find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit))
        {
            Some((name, unit)) => write!(f, "{}{name}", millis / unit),
            None => f.write_str("0s"),
        }
    }
}

const NANOS_PER_MILLI: u128 = 1_000_000;

/// The required form of a duration.
const EXPECTED: &str = "must be a number and a unit (ms, s, m or h), such as 250ms, 30s or 1h30m";

impl std::str::FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text;
        let mut total: u128 = 0;
        while !rest.is_empty() || text.is_empty() {
            let (nanos, after) = leading_part(rest).ok_or(EXPECTED)?;
            total = total.saturating_add(nanos);
            rest = after;
        }
        // Go keeps a duration as nanoseconds in 64 bits, and the API server is Go.
        match i64::try_from(total) {
            Ok(nanos) => Ok(Self(Duration::from_nanos(nanos.unsigned_abs()))),
            Err(_) => Err(TOO_LONG.to_owned()),
        }
    }
}

const TOO_LONG: &str = "is longer than 292 years";

/// The first number and unit of a duration in nanoseconds, and what follows.
fn leading_part(text: &str) -> Option<(u128, &str)> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => {
            let (digits, rest) = split_digits(after);
            (Some(digits), rest)
        }
        None => (None, rest),
    };
    if whole.is_empty() || fraction.is_some_and(str::is_empty) {
        return None;
    }
    let (unit, rest) = UNITS
        .iter()
        .find_map(|(name, nanos)| Some((*nanos, rest.strip_prefix(name)?)))?;
    // Digits alone: what does not parse is too large.
    let whole: u128 = whole.parse().unwrap_or(u128::MAX);
    let mut nanos = whole.saturating_mul(unit);
    let mut place = unit;
    for digit in fraction.unwrap_or_default().bytes() {
        place /= 10;
        nanos = nanos.saturating_add(u128::from(digit - b'0') * place);
    }
    Some((nanos, rest))
}

/// Units in nanoseconds; `ms` before `m`, which it starts with.
const UNITS: [(&str, u128); 4] = [
    ("ms", NANOS_PER_MILLI),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "HumanDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 32, "pattern": Self::PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        let millis = |text: &str| text.parse::<HumanDuration>().unwrap().get().as_millis();
        assert_eq!(millis("250ms"), 250);
        assert_eq!(millis("30s"), 30_000);
        assert_eq!(millis("1h30m"), 5_400_000);
        assert_eq!(millis("1.5h"), 5_400_000);
        assert_eq!(millis("0s"), 0);
    }

    #[test]
    fn what_is_no_duration_is_refused_and_never_panics() {
        for text in ["", "30", "s", "-1s", "1d", "1.s", ".5s", "1 s", "5µs"] {
            let error = text.parse::<HumanDuration>().unwrap_err();
            assert_eq!(error, EXPECTED, "{text}");
        }
        let long = format!("{}h", "9".repeat(30));
        assert_eq!(long.parse::<HumanDuration>().unwrap_err(), TOO_LONG);
    }

    #[test]
    fn a_duration_prints_as_a_person_would_write_it() {
        let regex = regex::Regex::new(HumanDuration::PATTERN).unwrap();
        for text in [
            "0s", "1ms", "1.5ms", "0.0001ms", "30s", "90s", "5m", "1h", "90m",
        ] {
            let shown = text.parse::<HumanDuration>().unwrap().to_string();
            assert_eq!(shown.parse::<HumanDuration>(), text.parse(), "{text}");
            assert!(regex.is_match(&shown), "{shown}");
        }
        assert_eq!(HumanDuration::from_secs(5400).to_string(), "90m");
    }
}
