//! Whether the consumer is as its manifest says, in the conditions that tools wait for: Ready,
//! Reconciling and Stalled, with the meaning that kstatus gives them (kubectl wait, kpt, Flux,
//! Argo CD).
//!
//! They follow from the other conditions. Ready is always there. Reconciling and Stalled are
//! there only while they are true, and never both.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use penstock_crds::spec::KafkaConsumerStatus;

use super::{Condition, ConditionType, Reason, Seen, State, find};
use crate::build::PROGRESS_DEADLINE;
use crate::pods::Trouble;

/// How long an obstacle may last before the consumer counts as stalled: as long as a rollout
/// may make no progress. Until then, a topic or a Secret may be about to be created.
const PATIENCE: Duration = Duration::from_secs(PROGRESS_DEADLINE.unsigned_abs() as u64);

/// The conditions from which the others follow.
pub(super) struct Causes<'a> {
    pub accepted: &'a Condition,
    pub topics: &'a Condition,
    pub available: &'a Condition,
    pub progressing: &'a Condition,
}

/// How far a consumer is from what its manifest says, each with the condition that says why.
enum Verdict<'a> {
    /// It is there.
    Done(&'a Condition),
    /// It is on its way, or waits for something that may come by itself.
    Working(&'a Condition),
    /// Nothing happens until somebody acts.
    Stuck(&'a Condition),
}

/// Returns Ready, and Reconciling or Stalled if one of them is true. `before` is the status as it
/// was reported last.
pub(super) fn ready(
    causes: &Causes<'_>,
    seen: &Seen<'_>,
    before: &KafkaConsumerStatus,
) -> Vec<Condition> {
    let (state, cause, beside) = match verdict(causes, seen) {
        Verdict::Done(cause) => (State::True, cause, None),
        Verdict::Stuck(cause) => (State::False, cause, Some(ConditionType::Stalled)),
        Verdict::Working(cause) => {
            let lasts = cause.reason.is_warning() && lasts(cause.reason, seen, before);
            let beside = match lasts {
                true => ConditionType::Stalled,
                false => ConditionType::Reconciling,
            };
            (State::False, cause, Some(beside))
        }
    };
    let like_cause =
        |type_, state| Condition::new(type_, state, cause.reason, cause.message.clone());
    let mut conditions = vec![like_cause(ConditionType::Ready, state)];
    conditions.extend(beside.map(|type_| Condition {
        since: waits_since(type_, cause.reason, seen, before),
        ..like_cause(type_, State::True)
    }));
    conditions
}

fn verdict<'a>(causes: &Causes<'a>, seen: &Seen<'_>) -> Verdict<'a> {
    let Causes {
        accepted,
        topics,
        available,
        progressing,
    } = causes;
    if accepted.state != State::True {
        return Verdict::Stuck(accepted);
    }
    // A container that was restarted a moment ago may end again.
    let restarts = |it: &Trouble| it.ended.is_some() && it.holds(seen.now);
    let is_restarting =
        available.reason == Reason::Restarting && seen.troubles.iter().any(restarts);
    match (progressing.state, progressing.reason) {
        (_, Reason::Complete) => match available.reason {
            // The last pods of a consumer that is to have none have not ended yet.
            Reason::Stopping => Verdict::Working(available),
            _ if is_restarting => Verdict::Working(available),
            _ => Verdict::Done(available),
        },
        (_, Reason::TopicsNotResolved) if topics.state != State::True => Verdict::Working(topics),
        (State::True, _) if is_restarting || keeps_pods_from_starting(available.reason) => {
            Verdict::Working(available)
        }
        (State::True, _) | (_, Reason::TopicsNotResolved) => Verdict::Working(progressing),
        (State::False | State::Unknown, _) => Verdict::Stuck(progressing),
    }
}

/// Returns `true` for an obstacle of pods that tells more than that they are not ready. Other
/// reasons of Available point to another condition.
fn keeps_pods_from_starting(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConsumerFailed
            | Reason::HandlerFailed
            | Reason::ImagePullFailed
            | Reason::ContainerRefused
            | Reason::PodsRefused
            | Reason::Unschedulable
    )
}

/// Returns `true` if both are the same obstacle. Those of pods are one: a pod that ends and is
/// started again gives one reason after the other.
fn is_same_obstacle(one: Reason, other: Reason) -> bool {
    let is_of_pods = |reason| {
        matches!(reason, Reason::Restarting | Reason::Stalled) || keeps_pods_from_starting(reason)
    };
    one == other || (is_of_pods(one) && is_of_pods(other))
}

/// Returns the condition in which this manifest was reported to have the obstacle.
fn had<'a>(
    type_: ConditionType,
    reason: Reason,
    seen: &Seen<'_>,
    before: &'a KafkaConsumerStatus,
) -> Option<&'a meta::Condition> {
    find(&before.conditions, type_).filter(|it| {
        it.status == State::True.name()
            && it.observed_generation == seen.generation
            && Reason::parse(&it.reason).is_some_and(|had| is_same_obstacle(had, reason))
    })
}

/// Returns `true` if this manifest has had the obstacle for as long as it may.
fn lasts(reason: Reason, seen: &Seen<'_>, before: &KafkaConsumerStatus) -> bool {
    let waits = had(ConditionType::Reconciling, reason, seen, before);
    let is_over =
        waits.is_some_and(|waits| patience_left(waits.last_transition_time.0, seen.now).is_zero());
    is_over || had(ConditionType::Stalled, reason, seen, before).is_some()
}

/// Returns since when a consumer that is reconciling waits for the same thing; none for another
/// condition. A rollout begins to wait again when the number of pods that are ready changes.
fn waits_since(
    type_: ConditionType,
    reason: Reason,
    seen: &Seen<'_>,
    before: &KafkaConsumerStatus,
) -> Option<Timestamp> {
    if type_ != ConditionType::Reconciling {
        return None;
    }
    let is_new = has_progressed(seen, before) || has_lost_pods(seen, before);
    let goes_on = reason != Reason::RollingOut || !is_new;
    let waits = had(type_, reason, seen, before).filter(|_| goes_on);
    Some(waits.map_or(seen.now, |waits| waits.last_transition_time.0))
}

/// Returns `true` if more pods are ready than before.
pub(super) fn has_progressed(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> bool {
    let ready = seen.rollout.as_ref().map(|rollout| rollout.ready);
    ready > before.ready_replicas
}

/// Returns `true` if fewer pods are ready than before.
pub(super) fn has_lost_pods(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> bool {
    let ready = seen.rollout.as_ref().map_or(0, |rollout| rollout.ready);
    ready < before.ready_replicas.unwrap_or_default()
}

/// Returns from when on the operator itself watches the deadline of a rollout, because the
/// Deployment does not: it is complete, or waits with Recreate for pods that should have ended.
pub(super) fn watched_from(seen: &Seen<'_>) -> Option<Timestamp> {
    let rollout = seen.rollout.as_ref()?;
    let waits_for_old = rollout.recreates && rollout.updated == 0;
    let ended = || seen.leaving.iter().max().copied().filter(|_| waits_for_old);
    rollout.settled.or_else(ended)
}

/// Returns in how long a consumer with these conditions becomes stalled, if nothing changes.
pub(super) fn stalls_in(seen: &Seen<'_>, conditions: &[meta::Condition]) -> Option<Duration> {
    let waits = find(conditions, ConditionType::Reconciling)?;
    let reason = Reason::parse(&waits.reason)?;
    let since = waits.last_transition_time.0;
    match watched_from(seen) {
        _ if reason.is_warning() => Some(patience_left(since, seen.now)),
        Some(from) if reason == Reason::RollingOut => {
            let left = patience_left(since.max(from), seen.now);
            // A pod that may still end for longer keeps the rollout from being overdue.
            Some(left).filter(|it| !it.is_zero())
        }
        _ => None,
    }
}

/// Returns how long something may still last that began then.
pub(super) fn patience_left(since: Timestamp, now: Timestamp) -> Duration {
    let waited = now.duration_since(since);
    PATIENCE.saturating_sub(Duration::try_from(waited).unwrap_or_default())
}
