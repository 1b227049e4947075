//! How a Deployment replaces its pods.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// Replacement of the pods after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// The order of old and new pods. (The schema takes its text from the type.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<RolloutStrategy>,

    /// Maximum number of pods above spec.replicas during a RollingUpdate, or a percentage
    /// of spec.replicas, rounded up. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<PodCount>,

    /// Maximum number of pods below spec.replicas during a RollingUpdate, or a percentage
    /// of spec.replicas, rounded down. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<PodCount>,
}

/// Order in which old pods end and new ones start. RollingUpdate: old pods end while new
/// ones become ready. Recreate: the first new pod starts after the last old one has ended,
/// and no message is handled in between. Default: RollingUpdate, and Recreate in mode
/// InOrder, which allows no other. A change of the group's rebalance protocol always uses
/// Recreate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RolloutStrategy {
    /// Old pods end while new ones become ready.
    RollingUpdate,
    /// New pods start after the last old one has ended.
    Recreate,
}

/// A number of pods, or a percentage of all pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodCount {
    /// This many, 0 to 1000.
    Pods(u16),
    /// This share of `spec.replicas`, 0 to 100.
    Percent(u8),
}

impl PodCount {
    /// The pattern of a percentage, for the schema and for messages.
    pub const PATTERN: &str = "^(0|[1-9][0-9]?|100)%$";

    /// The maximum number of pods.
    const MAX: u16 = 1_000;

    /// Returns `true` if it stands for no pod, whatever `spec.replicas` is.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Pods(0) | Self::Percent(0))
    }

    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => {
                let pods = u16::try_from(number.as_u64()?).ok()?;
                (pods <= Self::MAX).then_some(Self::Pods(pods))
            }
            Value::String(text) => {
                let percent = text.strip_suffix('%')?.parse().ok()?;
                let count = Self::Percent(percent);
                // One spelling each: no sign, and no zero in front.
                (percent <= 100 && count.to_string() == *text).then_some(count)
            }
            _ => None,
        }
    }
}

impl fmt::Display for PodCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(pods) => write!(f, "{pods}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl From<PodCount> for Value {
    fn from(count: PodCount) -> Self {
        match count {
            PodCount::Pods(pods) => pods.into(),
            PodCount::Percent(_) => count.to_string().into(),
        }
    }
}

impl Serialize for PodCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Value::from(*self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PodCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let expected = "must be 0 to 1000, or a percentage such as 25%";
        Self::parse(&value).ok_or_else(|| de::Error::custom(expected))
    }
}

impl JsonSchema for PodCount {
    fn schema_name() -> Cow<'static, str> {
        "PodCount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The bounds concern numbers alone, and the pattern texts alone.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "maximum": Self::MAX,
            "pattern": Self::PATTERN,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_count_is_read_as_the_schema_has_it_and_written_as_it_was() {
        let pattern = regex::Regex::new(PodCount::PATTERN).unwrap();
        let accepted = [
            (json!(0), PodCount::Pods(0)),
            (json!(1000), PodCount::Pods(1000)),
            (json!("0%"), PodCount::Percent(0)),
            (json!("25%"), PodCount::Percent(25)),
            (json!("100%"), PodCount::Percent(100)),
        ];
        for (value, count) in accepted {
            assert_eq!(
                serde_json::from_value::<PodCount>(value.clone()).unwrap(),
                count
            );
            assert_eq!(serde_json::to_value(count).unwrap(), value);
            assert!(value.as_str().is_none_or(|text| pattern.is_match(text)));
        }
        for text in [
            "1", "%", "101%", "05%", "+5%", "-5%", "2.5%", "25 %", "300%",
        ] {
            assert!(
                serde_json::from_value::<PodCount>(json!(text)).is_err(),
                "{text}"
            );
            assert!(!pattern.is_match(text), "{text}");
        }
        for value in [json!(-1), json!(1001), json!(1.5), json!(true), json!(null)] {
            assert!(
                serde_json::from_value::<PodCount>(value.clone()).is_err(),
                "{value}"
            );
        }
    }
}
