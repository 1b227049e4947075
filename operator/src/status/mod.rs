//! From what was seen of a consumer to its status, as a pure function; and the
//! one writer of it.

mod available;
mod condition;
mod memory;
mod messages_lost;
mod progressing;
mod ready;
mod topics;
mod write;

pub use crate::reason::Reason;
pub use condition::{Condition, ConditionType, State};
pub use write::{Outcome, StatusError, StatusWriter};

use memory::Memory;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use penstock_crds::spec::KafkaConsumerStatus;
use penstock_crds::validate::ValidatedConsumer;
use penstock_crds::violation::Violations;

use crate::apply::ApplyError;
use crate::build;
use crate::existing::deployment::Rollout;
use crate::kafka::{Lag, Positions, Resolution};
use crate::key::Key;
use crate::pods::Trouble;

/// What was seen of a consumer in one pass.
pub struct Seen<'a> {
    /// Its name.
    pub key: &'a Key,
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// The consumer, or why it is none.
    pub consumer: Result<&'a ValidatedConsumer, &'a Refusal>,
    /// Others that read the same topics as the same group.
    pub siblings: Vec<Key>,
    /// What became of its topics; absent when they were not looked for.
    pub topics: Option<Resolution>,
    /// Nothing is applied until every topic is found.
    pub held: bool,
    /// Why an object that pods need could not be applied.
    pub blocked: Option<&'a ApplyError>,
    /// Why another object could not be applied, or one could not be deleted.
    pub incomplete: Option<&'a ApplyError>,
    /// What its Deployment reports.
    pub rollout: Option<Rollout>,
    /// What is wrong with its pods, the most telling first.
    pub troubles: Vec<Trouble>,
    /// When each of its pods that are being deleted and still run should have ended.
    pub leaving: Vec<Timestamp>,
    /// How far its group has come. Absent before that was read for the first time:
    /// what was reported before then still stands.
    pub positions: Option<Arc<Positions>>,
    /// Now.
    pub now: Timestamp,
}

/// Why a resource is no consumer.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Its structure is not that of this version.
    Unreadable(Violations),
    /// It breaks rules.
    Invalid(Violations),
}

/// The status that follows from what was seen. Conditions keep the time of their
/// last transition from `before`.
pub fn status(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> KafkaConsumerStatus {
    let memory = Memory::of(seen, before);
    let accepted = accepted(seen);
    let topics = topics::resolved(seen, before);
    let available = available::available(seen);
    let progressing = progressing::progressing(seen, before);
    let causes = ready::Causes {
        accepted: &accepted,
        topics: &topics,
        available: &available,
        progressing: &progressing,
    };
    let derived = ready::ready(&causes, seen, before);
    let messages_lost = messages_lost::messages_lost(seen, before, &memory.lost);
    let conditions = [accepted, topics, available, progressing, messages_lost];
    let lag = lag(seen, before);
    let rollout = seen.rollout.clone().unwrap_or_default();
    let consumer = seen.consumer.ok();
    let desired = consumer.map(ValidatedConsumer::replicas);
    KafkaConsumerStatus {
        observed_generation: seen.generation,
        replicas: Some(rollout.replicas),
        ready_replicas: Some(rollout.ready),
        ready: desired.map(|desired| format!("{}/{desired}", rollout.ready)),
        selector: Some(build::selector(&seen.key.name)),
        handlers: consumer
            .map(|consumer| i64::from(consumer.replicas()) * consumer.mode.handlers() as i64),
        lag: lag.known,
        lag_unknown_partitions: Some(lag.unknown_partitions).filter(|count| *count > 0),
        lag_unknown_reason: lag.unknown_reason,
        committed: memory.committed,
        messages_lost: memory.lost,
        conditions: conditions
            .into_iter()
            .chain(derived)
            .map(|condition| condition.stamp(seen.generation, &before.conditions, seen.now))
            .collect(),
    }
}

/// The lag as it was read, or as it was reported before anything was read.
fn lag(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> Lag {
    match (&seen.positions, seen.consumer) {
        (Some(positions), _) => positions.lag.clone(),
        (None, Ok(consumer)) if memory::is_same_group(consumer, before) => Lag {
            known: before.lag,
            unknown_partitions: before.lag_unknown_partitions.unwrap_or_default(),
            unknown_reason: before.lag_unknown_reason.clone(),
        },
        (None, _) => Lag::default(),
    }
}

/// Returns in how long the status changes by time alone: when the end of a container,
/// or a loss of messages, is no longer reported, when an obstacle has lasted for long, when a
/// container that was restarted counts again, or when a pod should have ended.
/// `after` is the status as it is now.
pub fn forgets_at(seen: &Seen<'_>, after: &KafkaConsumerStatus) -> Option<Duration> {
    let ends = seen.troubles.iter().filter_map(|trouble| trouble.ended);
    let ends = ends
        .filter_map(|ended| {
            let age = Duration::try_from(seen.now.duration_since(ended)).unwrap_or_default();
            available::RECENT.checked_sub(age)
        })
        .max();
    let passed = after.messages_lost.iter();
    let passed = passed
        .filter(|lost| lost.passed_time.is_some())
        .filter_map(|lost| memory::left(lost, seen.now))
        .min();
    let stalls = ready::stalls_in(seen, &after.conditions);
    let trusted = seen.troubles.iter().filter_map(|trouble| trouble.trusted);
    let times = trusted.chain(seen.leaving.iter().copied());
    let times = times.filter_map(|time| Duration::try_from(time.duration_since(seen.now)).ok());
    let times = times.filter(|left| !left.is_zero());
    let all = ends.into_iter().chain(passed).chain(stalls).chain(times);
    let next = all.min();
    next.map(|left| left + Duration::from_secs(1))
}

/// Returns `true` if a status says that the manifest of this generation was applied.
pub fn was_applied(status: &KafkaConsumerStatus, generation: Option<i64>) -> bool {
    find(&status.conditions, ConditionType::Progressing).is_some_and(|progressing| {
        let reason = Reason::parse(&progressing.reason);
        let is_applied = matches!(
            reason,
            Some(Reason::Complete | Reason::RollingOut | Reason::Stalled | Reason::RolloutPaused)
        );
        is_applied && progressing.observed_generation == generation
    })
}

/// Whether the resource is a consumer at all.
fn accepted(seen: &Seen<'_>) -> Condition {
    let type_ = ConditionType::Accepted;
    match &seen.consumer {
        Err(Refusal::Unreadable(problem)) => Condition::new(
            type_,
            State::False,
            Reason::Unreadable,
            format!(
                "{}; correct the manifest and apply it again",
                one_line(problem)
            ),
        ),
        Err(Refusal::Invalid(problem)) => {
            Condition::new(type_, State::False, Reason::Invalid, one_line(problem))
        }
        Ok(consumer) if !seen.siblings.is_empty() => Condition::new(
            type_,
            State::True,
            Reason::GroupShared,
            format!(
                "group '{}' reads some of these topics for {} too, and they share the partitions; give one of them another group unless that is meant",
                consumer.group,
                list(seen.key, &seen.siblings),
            ),
        ),
        Ok(_) => Condition::new(
            type_,
            State::True,
            Reason::Valid,
            "the manifest keeps every rule",
        ),
    }
}

fn one_line(problem: &Violations) -> String {
    let lines: Vec<String> = problem.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// Names with commas, no more than a few. Consumers of other namespaces are not named: who
/// may see this one may not see those.
fn list(key: &Key, others: &[Key]) -> String {
    const SHOWN: usize = 5;
    const ELSEWHERE: &str = "consumers of other namespaces";
    let (here, elsewhere): (Vec<&Key>, Vec<&Key>) = others
        .iter()
        .partition(|other| other.namespace == key.namespace);
    let names: Vec<String> = here.iter().take(SHOWN).map(ToString::to_string).collect();
    let names = match here.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    };
    match (here.is_empty(), elsewhere.is_empty()) {
        (true, _) => ELSEWHERE.to_owned(),
        (false, true) => names,
        (false, false) => format!("{names} and {ELSEWHERE}"),
    }
}

/// The condition of a type among those of a status.
pub fn find(conditions: &[meta::Condition], type_: ConditionType) -> Option<&meta::Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == type_.name())
}
