//! Building a [`ValidatedConsumer`] once no rule is broken.
//!
//! Each step parses its field into a type that cannot be wrong. The rules guarantee that
//! no step fails. If one does, it is reported like any violation.

use std::fmt;
use std::num::NonZeroU32;

use crate::names::{ConsumerName, GroupId, TopicName};
use crate::rules;
use crate::schema;
use crate::spec::{
    Commit, Delivery, Handler, KafkaConsumerSpec, Mode, OnFailure, PodCount, Protocol,
    RolloutStrategy,
};
use crate::violation::{Violation, Violations};

use super::{
    Address, Concurrency, ConsumeMode, DeliveryPolicy, Endpoint, FailureAction, RolloutPolicy,
    Transport, ValidatedConsumer,
};

/// The port of an Http or BatchHttp handler that names neither port nor socket.
const DEFAULT_PORT: u16 = 8080;

/// The socket of a Grpc handler that names neither.
const DEFAULT_SOCKET: &str = "/run/penstock/handler.sock";

/// Checks a spec against the schema and every rule, and fills in the defaults.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn validate(spec: &KafkaConsumerSpec) -> Result<ValidatedConsumer, Violations> {
    let mut violations = schema::check_spec(spec);
    if violations.is_empty() {
        violations = rules::check(spec);
    }
    if !violations.is_empty() {
        return Err(Violations(violations));
    }
    build(spec)
}

fn build(spec: &KafkaConsumerSpec) -> Result<ValidatedConsumer, Violations> {
    let group = parsed("spec.group", &spec.group, GroupId::parse)?;
    let name = match &spec.name {
        Some(name) => parsed("spec.name", name, |name| ConsumerName::parse(name, &group))?,
        None => ConsumerName::derive(&group),
    };
    let topics = spec
        .topics
        .iter()
        .map(|topic| parsed("spec.topics", topic, TopicName::parse))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ValidatedConsumer {
        group,
        name,
        topics,
        mode: mode(spec)?,
        commit: commit(spec),
        paused: spec.replicas == 0,
        consume_batch_size: positive("spec.consumeBatchSize", spec.consume_batch_size)?,
        offset_reset: spec.offset_reset,
        on_offset_lost: spec.on_offset_lost,
        format: spec.format,
        prometheus_client_name: spec.prometheus_client_name.clone(),
        stop_timeout: spec.stop_timeout.get(),
        kafka: spec.kafka.clone(),
        handler: spec.handler.clone(),
        endpoint: endpoint(&spec.handler)?,
        delivery: delivery(&spec.delivery)?,
        rollout: rollout(spec),
        pod: spec.pod.clone().unwrap_or_default(),
    })
}

fn mode(spec: &KafkaConsumerSpec) -> Result<ConsumeMode, Violations> {
    let wanted = spec.max_concurrency.unwrap_or(1);
    let handlers = Concurrency::new(wanted)
        .ok_or_else(|| wrong("spec.maxConcurrency", wanted, "must be 1 to 10000"))?;
    let replicas = u32::try_from(spec.replicas)
        .map_err(|error| wrong("spec.replicas", spec.replicas, error))?;
    Ok(match spec.mode {
        Mode::InOrder => ConsumeMode::InOrder,
        Mode::KeyOrdered => ConsumeMode::KeyOrdered { handlers, replicas },
        Mode::Fast => ConsumeMode::Fast { handlers, replicas },
    })
}

fn commit(spec: &KafkaConsumerSpec) -> Commit {
    spec.commit.unwrap_or(match spec.mode {
        Mode::InOrder | Mode::KeyOrdered => Commit::Handled,
        Mode::Fast => Commit::Read,
    })
}

fn rollout(spec: &KafkaConsumerSpec) -> RolloutPolicy {
    let rollout = spec.rollout.clone().unwrap_or_default();
    let recreates = rollout.strategy == Some(RolloutStrategy::Recreate);
    if spec.mode == Mode::InOrder || recreates {
        return RolloutPolicy::Recreate;
    }
    RolloutPolicy::RollingUpdate {
        max_surge: rollout.max_surge.unwrap_or(PodCount::Pods(1)),
        max_unavailable: rollout.max_unavailable.unwrap_or(PodCount::Pods(0)),
    }
}

fn endpoint(handler: &Handler) -> Result<Endpoint, Violations> {
    let transport = match handler.protocol {
        Protocol::Embedded => return Ok(Endpoint::Embedded),
        Protocol::Http => Transport::Http,
        Protocol::BatchHttp => Transport::BatchHttp,
        Protocol::Grpc => Transport::Grpc,
    };
    let address = match (&handler.socket, handler.port, transport) {
        (Some(socket), ..) => Address::Socket(socket.into()),
        (None, Some(port), _) => Address::Port(
            u16::try_from(port).map_err(|error| wrong("spec.handler.port", port, error))?,
        ),
        (None, None, Transport::Http | Transport::BatchHttp) => Address::Port(DEFAULT_PORT),
        (None, None, Transport::Grpc) => Address::Socket(DEFAULT_SOCKET.into()),
    };
    Ok(Endpoint::Remote { transport, address })
}

fn delivery(delivery: &Delivery) -> Result<DeliveryPolicy, Violations> {
    let on_failure = match (delivery.on_failure, &delivery.dead_letter_topic) {
        (OnFailure::Stop, _) => FailureAction::Stop,
        (OnFailure::Skip, _) => FailureAction::Skip,
        (OnFailure::DeadLetter, topic) => {
            let topic = topic.as_deref().unwrap_or_default();
            let path = "spec.delivery.deadLetterTopic";
            FailureAction::DeadLetter(parsed(path, topic, TopicName::parse)?)
        }
    };
    Ok(DeliveryPolicy {
        max_attempts: positive("spec.delivery.maxAttempts", delivery.max_attempts)?,
        initial: delivery.backoff.initial.get(),
        max: delivery.backoff.max.get(),
        factor: delivery.backoff.factor,
        jitter: delivery.backoff.jitter,
        on_failure,
    })
}

fn parsed<T, E: fmt::Display>(
    path: &str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Violations> {
    parse(text).map_err(|error| wrong(path, text, error))
}

fn positive(path: &str, number: i64) -> Result<NonZeroU32, Violations> {
    u32::try_from(number)
        .ok()
        .and_then(NonZeroU32::new)
        .ok_or_else(|| wrong(path, number, "must be at least 1"))
}

fn wrong(
    path: &str,
    value: impl Into<serde_json::Value>,
    message: impl fmt::Display,
) -> Violations {
    Violations(vec![Violation {
        path: path.to_owned(),
        value: Some(value.into()),
        message: message.to_string(),
    }])
}
