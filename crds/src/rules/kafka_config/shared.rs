//! Properties that the producers have too: they use the consumer's connection, and
//! librdkafka takes less for an idempotent or transactional producer than for a consumer
//! (`rd_kafka_conf_finalize`).
//!
//! A test in the runtime creates the clients with the boundary values of each property
//! that they share, so that no such rule is missing.

use crate::librdkafka::TRANSACTION_TIMEOUT;
use crate::librdkafka::properties::{FALSE, cel_is_integer, parse_boolean, parse_integer};
use crate::rules::kinds::{below, found_text, unless};
use crate::rules::{CelMessage, Rule};
use crate::spec::{Commit, KafkaConsumerSpec, OnFailure};

use super::{cel_is, path};

/// The highest `max.in.flight` of a producer that keeps its records in order.
const MAX_IN_FLIGHT: i64 = 5;

/// CEL that is true where there is an idempotent producer.
const IDEMPOTENT: &str = "((has(self.commit) && self.commit == 'Transactional') || self.delivery.onFailure == 'DeadLetter')";

/// CEL that is true where there is a transactional producer.
const TRANSACTIONAL: &str = "(has(self.commit) && self.commit == 'Transactional')";

pub(super) fn rules() -> [Rule; 4] {
    let in_flight = format!(
        "the producer of dead letters or transactions has the same connection and allows {MAX_IN_FLIGHT} at most; lower it, or leave it out"
    );
    // librdkafka counts a request in, so that one can be sent before a transaction ends.
    let timeout = i64::try_from(TRANSACTION_TIMEOUT.as_millis()).unwrap_or(i64::MAX) + 100;
    [
        at_most(
            "max.in.flight",
            MAX_IN_FLIGHT,
            IDEMPOTENT,
            is_idempotent,
            &in_flight,
        ),
        at_most(
            "max.in.flight.requests.per.connection",
            MAX_IN_FLIGHT,
            IDEMPOTENT,
            is_idempotent,
            &in_flight,
        ),
        at_most(
            "socket.timeout.ms",
            timeout,
            TRANSACTIONAL,
            is_transactional,
            &format!(
                "with commit: Transactional the producer has the same connection and allows {timeout} at most, because a transaction ends after {} s; lower it, or leave it out",
                TRANSACTION_TIMEOUT.as_secs()
            ),
        ),
        versions_are_requested(),
    ]
}

fn is_transactional(spec: &KafkaConsumerSpec) -> bool {
    spec.commit == Some(Commit::Transactional)
}

fn is_idempotent(spec: &KafkaConsumerSpec) -> bool {
    is_transactional(spec) || spec.delivery.on_failure == OnFailure::DeadLetter
}

/// A rule: the number must not be above `max` if `applies` is true.
fn at_most(
    property: &'static str,
    max: i64,
    cel_applies: &str,
    applies: fn(&KafkaConsumerSpec) -> bool,
    message: &str,
) -> Rule {
    let config = "self.kafka.config";
    let value = format!("{config}['{property}']");
    let is_number = cel_is_integer(&value, 9);
    below(
        &format!("config-{property}-producer"),
        "spec",
        &format!(".kafka.config['{property}']"),
        format!(
            "!{cel_applies} || !has({config}) || !('{property}' in {config}) || !{is_number} || int({value}) <= {max}"
        ),
        CelMessage::Found(found_text(&value)),
        message,
        move |spec| {
            let value = spec.kafka.config.get(property)?;
            // A value that is no number is reported by another rule.
            let number = parse_integer(value)?;
            unless(
                !applies(spec) || number <= max,
                &path(property),
                value.as_str(),
            )
        },
    )
}

/// Without an answer to that request librdkafka takes brokers for too old to have
/// idempotent producers, and their records time out.
fn versions_are_requested() -> Rule {
    let property = "api.version.request";
    let config = "self.kafka.config";
    below(
        "config-api.version.request-producer",
        "spec",
        ".kafka.config['api.version.request']",
        format!(
            "!{IDEMPOTENT} || !has({config}) || !('{property}' in {config}) || !({})",
            cel_is(property, config, &FALSE)
        ),
        CelMessage::Found(found_text(&format!("{config}['{property}']"))),
        "the producer of dead letters or transactions has the same connection and must know what the brokers support; leave it out",
        move |spec| {
            let value = spec.kafka.config.get(property)?;
            let kept = !is_idempotent(spec) || parse_boolean(value) != Some(false);
            unless(kept, &path(property), value.as_str())
        },
    )
}
