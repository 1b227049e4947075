//! Numbers of `spec.kafka.config` that must fit each other, or another field.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::librdkafka::config::is_consumer_protocol;
use crate::librdkafka::properties::{cel_is_integer, parse_integer};
use crate::rules::kinds::{HOUR, below, found_text, rust_only, unless};
use crate::rules::{CelMessage, Finding, Rule};
use crate::spec::Mode;

use super::path;

const NO_MERGE_IN_CEL: &str =
    "compares numbers that may stand in text, in the mode's defaults or in librdkafka's";

/// The time that a member needs to give up its partitions, beyond the drain: up to ten
/// seconds for the brokers' answer to the last commit, and some to join again.
const REVOCATION_MARGIN: Duration = Duration::from_secs(15);

/// `max.poll.interval.ms` unless it is set, in the runtime's configuration too.
const MAX_POLL_INTERVAL_MS: i64 = 300_000;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = ordered_pairs().collect();
    rules.push(drain_ends_before_eviction());
    rules
}

/// The coordinator waits `max.poll.interval.ms` for a member to release partitions. Then
/// it evicts a member that is still draining, and assigns them to another. In InOrder
/// mode there is no other member.
fn drain_ends_before_eviction() -> Rule {
    let config = "self.kafka.config";
    let interval = format!("{config}['max.poll.interval.ms']");
    let is_number = cel_is_integer(&interval, 8);
    let margin = REVOCATION_MARGIN.as_secs();
    let limit = MAX_POLL_INTERVAL_MS / 1000;
    below(
        "stop-timeout-poll-interval",
        "spec",
        ".stopTimeout",
        format!(
            "self.mode == 'InOrder' || duration(self.stopTimeout) > duration('{HOUR}') || (has({config}) && 'max.poll.interval.ms' in {config} ? !{is_number} || duration(self.stopTimeout) + duration('{margin}s') <= duration({interval} + 'ms') : duration(self.stopTimeout) + duration('{margin}s') <= duration('{limit}s'))"
        ),
        CelMessage::Found(found_text("self.stopTimeout")),
        &format!(
            "must be at least {margin}s less than max.poll.interval.ms ({limit}s unless spec.kafka.config says otherwise): the group evicts a consumer that takes longer to give up partitions, and another one handles the same messages meanwhile; shorten stopTimeout, or raise max.poll.interval.ms"
        ),
        |spec| {
            // A length that no consumer may have is reported by another rule, and so is
            // an interval that is no number.
            let drain = spec.stop_timeout;
            let interval = effective(&spec.kafka.config, "max.poll.interval.ms")?;
            let interval = Duration::from_millis(u64::try_from(interval).ok()?);
            let alone = spec.mode == Mode::InOrder;
            let kept = alone || drain > HOUR || drain.get() + REVOCATION_MARGIN <= interval;
            unless(kept, "spec.stopTimeout", drain.to_string())
        },
    )
}

/// Pairs of numbers that librdkafka refuses when the first is less than the
/// second plus a margin (`rd_kafka_conf_finalize`).
const ORDERED: [(&str, &str, i64); 4] = [
    ("max.poll.interval.ms", "session.timeout.ms", 0),
    ("fetch.max.bytes", "message.max.bytes", 0),
    ("receive.message.max.bytes", "fetch.max.bytes", 512),
    ("reconnect.backoff.max.ms", "reconnect.backoff.ms", 0),
];

fn ordered_pairs() -> impl Iterator<Item = Rule> {
    ORDERED.into_iter().map(|(larger, smaller, margin)| {
        let least = match margin {
            0 => smaller.to_owned(),
            margin => format!("{smaller} + {margin}"),
        };
        rust_only(
            &format!("config-{larger}-order"),
            "spec.kafka.config",
            NO_MERGE_IN_CEL,
            &format!("{larger} must be at least {least}; raise the first or lower the second"),
            move |spec| disordered(&spec.kafka.config, larger, smaller, margin),
        )
    })
}

/// Blames the larger property when the user sets it, else the smaller; what the
/// user does not set is in order.
fn disordered(
    config: &BTreeMap<String, String>,
    larger: &str,
    smaller: &str,
    margin: i64,
) -> Vec<Finding> {
    let blamed = [larger, smaller]
        .into_iter()
        .find_map(|name| Some((name, config.get(name)?)));
    // A value that is no number is reported by another rule.
    let pair = effective(config, larger).zip(effective(config, smaller));
    match (blamed, pair) {
        (Some((name, value)), Some((high, low))) if high < low.saturating_add(margin) => {
            vec![Finding::of(path(name), value.as_str())]
        }
        _ => Vec::new(),
    }
}

/// Returns the value that librdkafka uses for a property of [`ORDERED`]: the user's
/// number, or the default.
fn effective(config: &BTreeMap<String, String>, name: &str) -> Option<i64> {
    if let Some(text) = config.get(name) {
        return parse_integer(text);
    }
    match name {
        "max.poll.interval.ms" => Some(MAX_POLL_INTERVAL_MS),
        // Not set at all for the consumer protocol.
        "session.timeout.ms" if is_consumer_protocol(config) => Some(0),
        "session.timeout.ms" => Some(10_000),
        "message.max.bytes" => Some(1_000_000),
        "fetch.max.bytes" => {
            let queued = match config.get("queued.max.messages.kbytes") {
                Some(text) => parse_integer(text)?,
                None => 65_536_i64,
            };
            let wanted = queued.saturating_mul(1024).min(52_428_800);
            Some(wanted.max(effective(config, "message.max.bytes")?))
        }
        // Raised as needed unless set.
        "receive.message.max.bytes" => Some(i64::MAX),
        "reconnect.backoff.ms" => Some(100),
        "reconnect.backoff.max.ms" => Some(10_000),
        _ => None,
    }
}
