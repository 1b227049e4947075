//! Whether messages are being handled.

use std::time::Duration;

use super::{Condition, ConditionType, Reason, Seen, State};
use crate::kafka::Resolution;
use crate::pods::Trouble;

/// How long a container's end is told of, once its successor is ready.
pub(crate) const RECENT: Duration = Duration::from_secs(600);

pub(super) fn available(seen: &Seen<'_>) -> Condition {
    let condition = |state, reason, message: String| {
        Condition::new(ConditionType::Available, state, reason, message)
    };
    let rollout = seen.rollout.clone().unwrap_or_default();
    let desired = seen.consumer.ok().map(|consumer| consumer.replicas());
    let ready = rollout.ready;
    let of = desired.map_or_else(String::new, |desired| format!(" of {desired}"));
    if desired == Some(0) && ready == 0 {
        return paused(seen);
    }
    let refused = rollout.refused.as_ref().map(|message| {
        format!(
            "pods can't be created: {message}; see the namespace's ResourceQuota, pod security level and service accounts"
        )
    });
    if ready > 0 {
        let count = format!("{ready}{of} replicas ready");
        let (reason, trouble) = match (refused, most_telling(seen)) {
            (Some(refused), _) => (Reason::PodsRefused, refused),
            (None, Some(trouble)) => (while_others_run(trouble), trouble.message.clone()),
            (None, None) => return condition(State::True, Reason::HandlersReady, count),
        };
        return condition(State::True, reason, format!("{count}; {trouble}"));
    }
    if let Some(refused) = refused {
        return condition(State::False, Reason::PodsRefused, refused);
    }
    let holding = seen.troubles.iter().find(|it| it.holds(seen.now));
    if let Some(trouble) = holding.or(seen.troubles.first()) {
        return condition(State::False, trouble.reason, trouble.message.clone());
    }
    not_running(seen)
}

/// No pod is wanted, and none is ready.
fn paused(seen: &Seen<'_>) -> Condition {
    let condition = |reason, message: String| {
        Condition::new(ConditionType::Available, State::False, reason, message)
    };
    let rollout = seen.rollout.clone().unwrap_or_default();
    let running = usize::try_from(rollout.replicas).unwrap_or_default() + seen.leaving.len();
    if running > 0 {
        let message = format!("spec.replicas is 0, and {running} pods have not ended yet");
        return condition(Reason::Stopping, message);
    }
    if rollout.desired > 0 {
        let message = "spec.replicas is 0, and the Deployment still wants pods; see the condition Progressing";
        return condition(Reason::Stopping, message.into());
    }
    condition(
        Reason::Paused,
        "spec.replicas is 0; raise it to go on from the committed offsets".into(),
    )
}

/// Nothing runs and nothing is known to be wrong with pods.
fn not_running(seen: &Seen<'_>) -> Condition {
    let (reason, message) = if seen.consumer.is_err() {
        (
            Reason::NotAccepted,
            "no pods are started until the manifest is accepted; see the condition Accepted",
        )
    } else if seen.rollout.is_none() && seen.blocked.is_some() {
        (
            Reason::ObjectRefused,
            "the pods' objects could not be applied; see the condition Progressing",
        )
    } else if seen.rollout.is_none() && !matches!(seen.topics, Some(Resolution::Found)) {
        (
            Reason::TopicsNotResolved,
            "no pods are started until every topic is there; see the condition TopicsResolved",
        )
    } else {
        (Reason::Starting, "pods are starting and joining the group")
    };
    Condition::new(ConditionType::Available, State::False, reason, message)
}

/// Returns the trouble to report while other pods are ready. One that keeps its pod from working
/// comes before one that is over.
fn most_telling<'a>(seen: &'a Seen<'_>) -> Option<&'a Trouble> {
    let telling = || seen.troubles.iter().filter(|it| tells(it, seen));
    let holding = telling().find(|it| it.holds(seen.now));
    holding.or_else(|| telling().next())
}

/// Whether a trouble is worth telling while other pods are ready. In a rollout there
/// is always one that waits for its handler, and what has ended long ago is over.
fn tells(trouble: &Trouble, seen: &Seen<'_>) -> bool {
    if trouble.reason == Reason::HandlerNotStarted {
        let rollout = seen.rollout.as_ref();
        return rollout.is_some_and(|rollout| rollout.stalled.is_some());
    }
    trouble.ended.is_none_or(|ended| {
        let since = seen.now.duration_since(ended);
        trouble.holds(seen.now) || since.as_secs() < RECENT.as_secs() as i64
    })
}

/// A container that ended is being started again; anything else stays as it is.
fn while_others_run(trouble: &Trouble) -> Reason {
    match trouble.ended {
        Some(_) => Reason::Restarting,
        None => trouble.reason,
    }
}
