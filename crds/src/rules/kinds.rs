//! The kinds of rule that come up again and again, so that each states its CEL
//! and its Rust side once.

use std::ops::RangeInclusive;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;

use crate::spec::{HumanDuration, KafkaConsumerSpec};

use super::{Cel, CelMessage, Finding, Rule};

/// Text at some places of a spec, each with its path.
pub(super) type Texts = fn(&KafkaConsumerSpec) -> Vec<(String, &str)>;

/// Every text must match a pattern (of the syntax that RE2 and Rust share).
pub(super) fn pattern(
    id: &str,
    nodes: &[&str],
    pattern: &str,
    message: &str,
    texts: Texts,
) -> Rule {
    let found = CelMessage::Found(found_text("self"));
    matching(id, nodes, pattern, found, message, texts, |path, text| {
        Finding::of(path, text)
    })
}

/// As [`pattern`], of text that must not be shown.
pub(super) fn hidden_pattern(
    id: &str,
    nodes: &[&str],
    pattern: &str,
    message: &str,
    texts: Texts,
) -> Rule {
    let fixed = CelMessage::Fixed;
    matching(id, nodes, pattern, fixed, message, texts, |path, _| {
        Finding::at(path)
    })
}

fn matching(
    id: &str,
    nodes: &[&str],
    pattern: &str,
    cel_message: CelMessage,
    message: &str,
    texts: Texts,
    finding: fn(String, &str) -> Finding,
) -> Rule {
    let regex = Regex::new(pattern).expect("the rules' patterns are valid");
    let cel = format!("self.matches({})", quoted(pattern));
    at(id, nodes, cel, cel_message, message, move |spec| {
        texts(spec)
            .into_iter()
            .filter(|(_, text)| !regex.is_match(text))
            .map(|(path, text)| finding(path, text))
            .collect()
    })
}

/// A whole number must lie in a range. (The API server does not know how long a
/// number is as text and takes a message with one for too costly, so only Rust
/// shows the number.)
pub(super) fn integer(
    id: &str,
    node: &'static str,
    range: RangeInclusive<i64>,
    message: &str,
    number: fn(&KafkaConsumerSpec) -> Option<i64>,
) -> Rule {
    let (min, max) = range.into_inner();
    at(
        id,
        &[node],
        format!("self >= {min} && self <= {max}"),
        CelMessage::Fixed,
        message,
        move |spec| {
            number(spec)
                .filter(|n| !(min..=max).contains(n))
                .map(|n| Finding::of(node, n))
                .into_iter()
                .collect()
        },
    )
}

/// A number must lie in a range.
pub(super) fn number(
    id: &str,
    node: &'static str,
    range: RangeInclusive<f64>,
    message: &str,
    number: fn(&KafkaConsumerSpec) -> f64,
) -> Rule {
    let (min, max) = range.into_inner();
    at(
        id,
        &[node],
        format!("double(self) >= {min:?} && double(self) <= {max:?}"),
        CelMessage::Fixed,
        message,
        move |spec| {
            let value = number(spec);
            if (min..=max).contains(&value) {
                return Vec::new();
            }
            vec![Finding::of(node, value)]
        },
    )
}

/// A length of time must lie in a range.
pub(super) fn duration(
    id: &str,
    node: &'static str,
    range: RangeInclusive<HumanDuration>,
    message: &str,
    length: fn(&KafkaConsumerSpec) -> HumanDuration,
) -> Rule {
    let (min, max) = range.into_inner();
    at(
        id,
        &[node],
        format!("duration(self) >= duration('{min}') && duration(self) <= duration('{max}')"),
        CelMessage::Found(found_text("self")),
        message,
        move |spec| {
            let value = length(spec);
            if (min..=max).contains(&value) {
                return Vec::new();
            }
            vec![Finding::of(node, value.to_string())]
        },
    )
}

/// A rule about the value at some places of the schema.
pub(super) fn at(
    id: &str,
    nodes: &[&str],
    cel: impl Into<String>,
    cel_message: CelMessage,
    message: &str,
    check: impl Fn(&KafkaConsumerSpec) -> Vec<Finding> + Send + Sync + 'static,
) -> Rule {
    Rule {
        id: id.to_owned(),
        fields: nodes.iter().map(|node| (*node).to_owned()).collect(),
        message: message.to_owned(),
        cel: Cel::At {
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            rule: cel.into(),
            field_path: None,
            message: cel_message,
        },
        check: Box::new(check),
    }
}

/// A rule about a field whose CEL has to stand at an object above it, because it
/// speaks of other fields too. `below` is the field's path from there, such as
/// `.delivery.deadLetterTopic`.
pub(super) fn below(
    id: &str,
    node: &str,
    below: &str,
    cel: impl Into<String>,
    cel_message: CelMessage,
    message: &str,
    check: impl Fn(&KafkaConsumerSpec) -> Option<Finding> + Send + Sync + 'static,
) -> Rule {
    Rule {
        id: id.to_owned(),
        fields: vec![format!(
            "{node}{}",
            below.replace("['", "[").replace("']", "]")
        )],
        message: message.to_owned(),
        cel: Cel::At {
            nodes: vec![node.to_owned()],
            rule: cel.into(),
            field_path: Some(below.to_owned()),
            message: cel_message,
        },
        check: Box::new(move |spec| check(spec).into_iter().collect()),
    }
}

/// A rule that only Rust checks and the API server does not know, with the reason.
pub(super) fn rust_only(
    id: &str,
    field: &str,
    reason: &'static str,
    message: &str,
    check: impl Fn(&KafkaConsumerSpec) -> Vec<Finding> + Send + Sync + 'static,
) -> Rule {
    Rule {
        id: id.to_owned(),
        fields: vec![field.to_owned()],
        message: message.to_owned(),
        cel: Cel::RustOnly(reason),
        check: Box::new(check),
    }
}

/// A finding at `path` unless the rule is kept.
pub(super) fn unless(kept: bool, path: &str, value: impl Into<Value>) -> Option<Finding> {
    (!kept).then(|| Finding::of(path, value))
}

/// A finding about a field that is missing, unless the rule is kept.
pub(super) fn unless_missing(kept: bool, path: &str) -> Option<Finding> {
    (!kept).then(|| Finding::at(path))
}

/// The CEL expression that shows text as [`crate::violation::Violation`] does.
pub(super) fn found_text(expression: &str) -> String {
    format!(r#""'" + {expression} + "'""#)
}

/// A CEL string literal.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

/// Shorthand for whole seconds.
pub(super) const fn seconds(seconds: u64) -> HumanDuration {
    HumanDuration::from_secs(seconds)
}

/// The shortest time that a manifest can ask for.
pub(super) const MILLISECOND: HumanDuration = HumanDuration::from_millis(1);

/// The longest time that a manifest can ask for.
pub(super) const HOUR: HumanDuration =
    HumanDuration::from_secs(Duration::from_secs(3600).as_secs());
