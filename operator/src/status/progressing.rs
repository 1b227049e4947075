//! Whether the pods are being brought to what the manifest says.

use super::{Condition, ConditionType, Reason, Seen, State};
use crate::apply::ApplyError;
use crate::kafka::Resolution;

pub(super) fn progressing(seen: &Seen<'_>) -> Condition {
    let condition = |state, reason, message: String| {
        Condition::new(ConditionType::Progressing, state, reason, message)
    };
    let Ok(consumer) = seen.consumer else {
        return condition(
            State::False,
            Reason::NotAccepted,
            "nothing is changed until the manifest is accepted; what runs is left running".into(),
        );
    };
    if let Some(error) = seen.blocked {
        return blocked(error);
    }
    // The pods come first; an object that they can run without is added.
    let besides = seen.incomplete.map(|error| format!("; {error}"));
    let besides = besides.unwrap_or_default();
    if let Some(message) = waits(seen) {
        return condition(State::False, Reason::TopicsNotResolved, message.into());
    }
    let desired = i32::try_from(consumer.replicas()).unwrap_or(i32::MAX);
    let rollout = seen.rollout.clone().unwrap_or_default();
    if rollout.paused {
        let message = format!(
            "somebody has paused the rollout of the Deployment, so its pods are not replaced; resume it: kubectl -n {} rollout resume deployment/{}",
            seen.key.namespace, seen.key.name
        );
        return condition(State::False, Reason::RolloutPaused, message + &besides);
    }
    if seen.rollout.is_some() && rollout.is_complete(desired) {
        if let Some(error) = seen.incomplete {
            return blocked(error);
        }
        return condition(
            State::False,
            Reason::Complete,
            "the pods are as the manifest says".into(),
        );
    }
    // A message about an earlier spec says nothing about the new one.
    let is_of_this_spec = rollout.observed >= rollout.generation;
    if let Some(message) = rollout.stalled.filter(|_| is_of_this_spec) {
        return condition(
            State::False,
            Reason::Stalled,
            format!(
                "{message} See the condition Available for what keeps the pods from being ready.{besides}"
            ),
        );
    }
    condition(
        State::True,
        Reason::RollingOut,
        format!(
            "{} of {desired} replicas are of the newest template, {} ready{besides}",
            rollout.updated, rollout.ready
        ),
    )
}

/// Why nothing was applied in this pass, if that is so.
fn waits(seen: &Seen<'_>) -> Option<&'static str> {
    match seen.topics {
        Some(Resolution::Found) => None,
        Some(Resolution::NoSecret(_)) | None => Some(
            "nothing is changed until every Secret is there; what runs is left running; see the condition TopicsResolved",
        ),
        Some(_) => match &seen.rollout {
            Some(rollout) if seen.held && rollout.kafka.is_none() => Some(
                "an earlier operator has not noted the brokers and topics of the running pods, so the first change after the upgrade waits until every topic is known to be there; what runs is left running; see the condition TopicsResolved",
            ),
            Some(_) if seen.held => Some(
                "other brokers or topics, and what was changed with them, wait until every topic is known to be there; what runs is left running; see the condition TopicsResolved",
            ),
            Some(_) => None,
            None => Some(
                "the first pods are started once every topic is known to be there; see the condition TopicsResolved",
            ),
        },
    }
}

fn blocked(error: &ApplyError) -> Condition {
    let (state, reason) = match error {
        ApplyError::Foreign { .. } => (State::False, Reason::NameTaken),
        ApplyError::Leaving { .. } => (State::True, Reason::AwaitingDeletion),
        ApplyError::Refused { .. } => (State::False, Reason::ObjectRefused),
        ApplyError::Request { .. } => (State::True, Reason::RequestFailed),
    };
    Condition::new(ConditionType::Progressing, state, reason, error.to_string())
}
