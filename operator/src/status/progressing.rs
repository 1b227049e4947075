//! Whether the pods are being brought to what the manifest says.

use penstock_crds::spec::KafkaConsumerStatus;

use super::{Condition, ConditionType, Reason, Seen, State, find, ready};
use crate::apply::ApplyError;
use crate::build::CONSUMER_LABEL;
use crate::kafka::Resolution;

pub(super) fn progressing(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> Condition {
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
    let is_complete = seen.rollout.is_some() && rollout.is_complete(desired);
    let ending = seen.leaving.iter().filter(|by| **by > seen.now).count();
    if is_complete && ending > 0 && desired > 0 {
        let message = format!(
            "{desired} of {desired} replicas are of the newest template, {} ready, and {ending} earlier pods have not ended yet{besides}",
            rollout.ready
        );
        return condition(State::True, Reason::RollingOut, message);
    }
    if is_complete {
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
    if let Some(message) = rollout.stalled.clone().filter(|_| is_of_this_spec) {
        return condition(
            State::False,
            Reason::Stalled,
            format!(
                "{message} See the condition Available for what keeps the pods from being ready.{besides}"
            ),
        );
    }
    if is_overdue(seen, before) {
        let message = format!(
            "{} of {desired} replicas ready, and no pod has become ready for ten minutes; see kubectl -n {} describe pods -l {CONSUMER_LABEL}={}{besides}",
            rollout.ready, seen.key.namespace, seen.key.name
        );
        return condition(State::False, Reason::Stalled, message);
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

/// Returns `true` if a Deployment that watches no deadline any more has had no more pods ready
/// for as long as a rollout may make no progress.
fn is_overdue(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> bool {
    let Some(from) = ready::watched_from(seen) else {
        return false;
    };
    let has = |type_, reason: Reason| {
        find(&before.conditions, type_)
            .filter(|it| it.reason == reason.name() && it.observed_generation == seen.generation)
    };
    let was_overdue = has(ConditionType::Progressing, Reason::Stalled).is_some();
    let begins_again =
        ready::has_progressed(seen, before) || (ready::has_lost_pods(seen, before) && !was_overdue);
    let waits = has(ConditionType::Reconciling, Reason::RollingOut);
    let is_over = waits.is_some_and(|it| {
        let since = it.last_transition_time.0.max(from);
        ready::patience_left(since, seen.now).is_zero()
    });
    !begins_again && (was_overdue || is_over)
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
