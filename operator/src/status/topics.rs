//! Whether every topic is there.

use penstock_runtime::unknown_topic;

use penstock_crds::spec::KafkaConsumerStatus;

use super::{Condition, ConditionType, Reason, Seen, State, find};
use crate::kafka::Resolution;

pub(super) fn resolved(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> Condition {
    let condition = |state, reason, message: String| {
        Condition::new(ConditionType::TopicsResolved, state, reason, message)
    };
    match &seen.topics {
        None => condition(
            State::Unknown,
            Reason::NotAccepted,
            "topics are looked for once the manifest is accepted".into(),
        ),
        Some(Resolution::Found) => condition(
            State::True,
            Reason::TopicsFound,
            "every topic is there".into(),
        ),
        Some(Resolution::Pending) => earlier(seen, before).unwrap_or_else(|| {
            condition(
                State::Unknown,
                Reason::BrokersNotAsked,
                "the brokers have not been asked yet".into(),
            )
        }),
        Some(Resolution::Missing(topics)) => {
            let missing: Vec<String> = topics.iter().map(unknown_topic).collect();
            condition(State::False, Reason::TopicNotFound, missing.join(" "))
        }
        Some(Resolution::Unreachable { brokers, error }) => condition(
            State::Unknown,
            Reason::BrokersUnreachable,
            format!(
                "failed getting metadata from {brokers}: {error}; correct spec.kafka.bootstrapServers, or see whether the operator may reach them"
            ),
        ),
        Some(Resolution::Refused { brokers, error }) => condition(
            State::Unknown,
            Reason::AuthenticationFailed,
            format!(
                "{brokers} refuse the connection: {error}; correct spec.kafka.authentication, spec.kafka.tls or the Secrets that they name"
            ),
        ),
        Some(Resolution::NotAllowed(broker)) => condition(
            State::Unknown,
            Reason::BrokersNotAllowed,
            format!(
                "{broker}; correct spec.kafka.bootstrapServers, or see which brokers the operator's administrator allows (--allowed-brokers, --denied-broker-networks)"
            ),
        ),
        Some(Resolution::NoSecret(message)) => {
            condition(State::Unknown, Reason::SecretNotFound, message.clone())
        }
    }
}

/// What was reported of the same manifest, by this operator or one before it: it stands
/// until the brokers have answered.
fn earlier(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> Option<Condition> {
    let type_ = ConditionType::TopicsResolved;
    let before = find(&before.conditions, type_)?;
    if before.observed_generation != seen.generation {
        return None;
    }
    let reason = Reason::parse(&before.reason).filter(|it| *it != Reason::NotAccepted)?;
    let state = State::parse(&before.status)?;
    Some(Condition::new(type_, state, reason, before.message.clone()))
}
