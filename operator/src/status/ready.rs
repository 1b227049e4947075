//! Whether the consumer is as its manifest says, in the conditions that tools wait for: Ready,
//! Reconciling and Stalled, with the meaning that kstatus gives them (kubectl wait, kpt, Flux,
//! Argo CD).
//!
//! They follow from the other conditions. Ready is always there. Reconciling and Stalled are
//! there only while they are true, and never both.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::{Condition, ConditionType, Reason, State, find};
use crate::build::PROGRESS_DEADLINE;

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

/// Returns Ready, and Reconciling or Stalled if one of them is true. `before` are the conditions
/// as they were reported last.
pub(super) fn ready(
    causes: &Causes<'_>,
    generation: Option<i64>,
    before: &[meta::Condition],
    now: Timestamp,
) -> Vec<Condition> {
    let (state, cause, beside) = match verdict(causes) {
        Verdict::Done(cause) => (State::True, cause, None),
        Verdict::Stuck(cause) => (State::False, cause, Some(ConditionType::Stalled)),
        Verdict::Working(cause) => {
            let lasts = cause.reason.is_warning() && lasts(cause.reason, generation, before, now);
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
    conditions.extend(beside.map(|type_| like_cause(type_, State::True)));
    conditions
}

fn verdict<'a>(causes: &Causes<'a>) -> Verdict<'a> {
    let Causes {
        accepted,
        topics,
        available,
        progressing,
    } = causes;
    if accepted.state != State::True {
        return Verdict::Stuck(accepted);
    }
    match (progressing.state, progressing.reason) {
        (_, Reason::Complete) => match available.reason {
            // The last pods of a consumer that is to have none have not ended yet.
            Reason::Stopping => Verdict::Working(available),
            _ => Verdict::Done(available),
        },
        (_, Reason::TopicsNotResolved) if topics.state != State::True => Verdict::Working(topics),
        (State::True, _) if keeps_pods_from_starting(available.reason) => {
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

/// Returns `true` if this manifest has had the obstacle for as long as it may.
fn lasts(
    reason: Reason,
    generation: Option<i64>,
    before: &[meta::Condition],
    now: Timestamp,
) -> bool {
    let had = |type_| {
        find(before, type_).filter(|it| {
            it.status == State::True.name()
                && it.reason == reason.name()
                && it.observed_generation == generation
        })
    };
    let is_over = |waits: &meta::Condition| patience_left(waits, now).is_zero();
    had(ConditionType::Stalled).is_some() || had(ConditionType::Reconciling).is_some_and(is_over)
}

/// Returns in how long a consumer with these conditions becomes stalled, if nothing changes.
pub(super) fn stalls_in(conditions: &[meta::Condition], now: Timestamp) -> Option<Duration> {
    let waits = find(conditions, ConditionType::Reconciling)?;
    let reason = Reason::parse(&waits.reason)?;
    reason.is_warning().then(|| patience_left(waits, now))
}

fn patience_left(waits: &meta::Condition, now: Timestamp) -> Duration {
    let waited = now.duration_since(waits.last_transition_time.0);
    PATIENCE.saturating_sub(Duration::try_from(waited).unwrap_or_default())
}
