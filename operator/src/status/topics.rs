//! Whether every topic is there.

use penstock_runtime::unknown_topic;

use super::{Condition, ConditionType, Reason, Seen, State};
use crate::kafka::Resolution;

pub(super) fn resolved(seen: &Seen<'_>) -> Condition {
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
        Some(Resolution::NoSecret(message)) => {
            condition(State::Unknown, Reason::SecretNotFound, message.clone())
        }
    }
}
