//! Whether messages are gone that the group has not handled.

use penstock_crds::spec::{
    KafkaConsumerStatus, LossReason, LostMessages, OffsetReset, OnOffsetLost,
};

use super::memory::{REPORTED, is_same_group};
use super::{Condition, ConditionType, Reason, Seen, State, find};

/// The maximum number of partitions that a message names for each reason.
const NAMED: usize = 5;

const NOT_READ_YET: &str = "the operator has not read the group's offsets yet; it reads them after a pod has become ready for the first time";

/// `lost` is what is remembered.
pub(super) fn messages_lost(
    seen: &Seen<'_>,
    before: &KafkaConsumerStatus,
    lost: &[LostMessages],
) -> Condition {
    let condition = |state, reason, message: &str| {
        Condition::new(ConditionType::MessagesLost, state, reason, message)
    };
    if let Some(first) = lost.first() {
        let skips = lost.iter().any(|lost| is_lost(seen, lost));
        let state = if skips { State::True } else { State::False };
        return condition(state, reason(first.reason), &message(seen, lost));
    }
    let Ok(consumer) = seen.consumer else {
        return condition(
            State::Unknown,
            Reason::NotAccepted,
            "the group's offsets are read once the manifest is accepted",
        );
    };
    let unread = match &seen.positions {
        Some(positions) => positions
            .unread
            .as_ref()
            .map(|why| format!("the group's offsets could not be read: {why}")),
        None if is_same_group(consumer, before) && nothing_was_lost(before) => None,
        None => Some(NOT_READ_YET.to_owned()),
    };
    match unread {
        Some(message) => condition(State::Unknown, Reason::OffsetsNotRead, &message),
        None => condition(
            State::False,
            Reason::NothingLost,
            "the log of every partition still has the committed offset",
        ),
    }
}

/// Returns `true` if that was seen, by this operator or one before it.
fn nothing_was_lost(before: &KafkaConsumerStatus) -> bool {
    find(&before.conditions, ConditionType::MessagesLost)
        .is_some_and(|condition| condition.reason == Reason::NothingLost.name())
}

/// Returns `true` if messages are gone or will be skipped. A group that begins at the
/// start of the log handles messages again, and one that fails stops: neither loses any.
fn is_lost(seen: &Seen<'_>, lost: &LostMessages) -> bool {
    let reset = seen.consumer.map(|consumer| consumer.offset_reset);
    match lost.reason {
        LossReason::RetentionPassed | LossReason::TopicRecreated => true,
        LossReason::OffsetsExpired => reset.is_ok_and(|reset| reset == OffsetReset::Latest),
    }
}

fn reason(of: LossReason) -> Reason {
    match of {
        LossReason::RetentionPassed => Reason::RetentionPassed,
        LossReason::TopicRecreated => Reason::TopicRecreated,
        LossReason::OffsetsExpired => Reason::OffsetsExpired,
    }
}

/// All that is lost, reason by reason, each with its remedy.
fn message(seen: &Seen<'_>, lost: &[LostMessages]) -> String {
    let sentences = lost
        .chunk_by(|one, other| one.reason == other.reason)
        .map(|lost| sentence(seen, lost[0].reason, &list(lost)));
    let mut message = sentences.collect::<Vec<_>>().join(". ");
    if lost.iter().all(|lost| lost.passed_time.is_some()) {
        let minutes = REPORTED.as_secs() / 60;
        message.push_str(&format!(
            ". The group has moved past this; it is reported for {minutes} minutes"
        ));
    }
    message
}

fn sentence(seen: &Seen<'_>, reason: LossReason, list: &str) -> String {
    match reason {
        LossReason::RetentionPassed => format!(
            "messages were removed from the log before the group committed them: {list}; raise the topic's retention.ms or retention.bytes, or let the group keep up with more spec.replicas or spec.maxConcurrency"
        ),
        LossReason::TopicRecreated => {
            let policy = seen.consumer.map(|consumer| consumer.on_offset_lost);
            let follows = match policy {
                Ok(OnOffsetLost::Earliest) => "the pods continue at the oldest message of that log",
                Ok(OnOffsetLost::Latest) => "the pods continue at the end of that log",
                Ok(OnOffsetLost::Fail) => "the pods stop with an error",
                Err(_) => "spec.onOffsetLost says where the pods continue",
            };
            format!(
                "the log ends before the committed offset: {list}; the topic was deleted and created again, or truncated; {follows}; to continue elsewhere, set spec.replicas to 0, set the group's offsets, and raise spec.replicas again"
            )
        }
        LossReason::OffsetsExpired => {
            let reset = seen.consumer.map(|consumer| consumer.offset_reset);
            let follows = match reset {
                Ok(OffsetReset::Latest) => {
                    "messages that are produced before a pod is assigned the partitions are skipped"
                }
                Ok(OffsetReset::Earliest) => "all messages that are kept are handled again",
                Ok(OffsetReset::Fail) => "the pods stop with an error",
                Err(_) => "spec.offsetReset says where the group begins",
            };
            format!(
                "the group had committed offsets and has none any more: {list}; they expired while the group had no members (offsets.retention.minutes), or the group or the topic was deleted; {follows}; give the group offsets while spec.replicas is 0, and raise offsets.retention.minutes above the longest pause"
            )
        }
    }
}

fn list(lost: &[LostMessages]) -> String {
    let named: Vec<String> = lost.iter().take(NAMED).map(name).collect();
    match lost.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more partitions", named.join(", ")),
    }
}

fn name(lost: &LostMessages) -> String {
    let mut name = format!("topic {}", lost.topic);
    if let Some(partition) = lost.partition {
        name.push_str(&format!(" partition {partition}"));
    }
    match (lost.reason, lost.committed, lost.log) {
        (LossReason::RetentionPassed, Some(committed), Some(log)) => {
            let last = log - 1;
            name.push_str(&format!(" offsets {committed} to {last}"));
        }
        (LossReason::TopicRecreated, Some(committed), Some(log)) => {
            name.push_str(&format!(" committed {committed}, end {log}"));
        }
        _ => {}
    }
    match lost.messages {
        None => {}
        Some(1) => name.push_str(" (at most 1 message)"),
        Some(messages) => name.push_str(&format!(" (at most {messages} messages)")),
    }
    name
}
