//! Lag, and messages that are lost: what is reported of them, and for how long.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use penstock_crds::spec::{KafkaConsumerStatus, LossReason};
use penstock_operator::kafka::{Lag, Positions};
use penstock_operator::key::Key;
use penstock_operator::status::ConditionType::MessagesLost;
use penstock_operator::status::State::{False, True, Unknown};
use penstock_operator::status::{Reason, Refusal, find, forgets_at};

use crate::scenarios::Told;
use crate::world::{World, consumer, loss, no_offsets, now, positions, with_offsets};

fn read(positions: Positions) -> World {
    World {
        positions: Some(positions),
        ..World::running()
    }
}

/// As the table of all scenarios has them.
pub fn scenarios() -> Vec<(&'static str, World, Vec<Told>)> {
    let mut table = vec![
        (
            "every offset is in its log",
            read(positions()),
            vec![(MessagesLost, False, Reason::NothingLost, &[] as &[&str])],
        ),
        (
            "a partition can't be read",
            read(Positions::unread(
                "topic orders partition 3: it has no leader",
            )),
            vec![(
                MessagesLost,
                Unknown,
                Reason::OffsetsNotRead,
                &["could not be read: topic orders partition 3: it has no leader"],
            )],
        ),
        (
            "no pod has been ready yet",
            World::starting(),
            vec![(
                MessagesLost,
                Unknown,
                Reason::OffsetsNotRead,
                &["reads them after a pod has become ready for the first time"],
            )],
        ),
        (
            "the manifest is not accepted, and no offset is read",
            World::refused(Refusal::Invalid),
            vec![(MessagesLost, Unknown, Reason::NotAccepted, &[])],
        ),
        (
            "retention has passed the committed offset",
            read(loss(LossReason::RetentionPassed, 1000, 1500)),
            vec![(
                MessagesLost,
                True,
                Reason::RetentionPassed,
                &[
                    "topic orders partition 0 offsets 1000 to 1499 (at most 500 messages)",
                    "raise the topic's retention.ms",
                ],
            )],
        ),
        (
            "the committed offset is beyond the end",
            read(loss(LossReason::TopicRecreated, 500, 3)),
            vec![(
                MessagesLost,
                True,
                Reason::TopicRecreated,
                &[
                    "topic orders partition 0 committed 500, end 3;",
                    "the pods continue at the oldest message of that log;",
                    "to continue elsewhere, set spec.replicas to 0, set the group's offsets",
                ],
            )],
        ),
    ];
    table.extend(expired());
    table
}

/// The group had offsets, and they are gone.
fn expired() -> Vec<(&'static str, World, Vec<Told>)> {
    let expired = |reset| World {
        before: with_offsets(),
        reset,
        ..read(no_offsets())
    };
    let told = |state, parts: &'static [&'static str]| -> Vec<Told> {
        vec![(MessagesLost, state, Reason::OffsetsExpired, parts)]
    };
    vec![
        (
            "the offsets have expired, and the group begins at the end",
            expired("Latest"),
            told(
                True,
                &[
                    "has none any more: topic orders;",
                    "are skipped",
                    "raise offsets.retention.minutes",
                ],
            ),
        ),
        (
            "the offsets have expired, and the group begins at the start",
            expired("Earliest"),
            told(False, &["are handled again"]),
        ),
        (
            "the offsets have expired, and the pods fail",
            expired("Fail"),
            told(False, &["stop with an error"]),
        ),
        (
            "a group has never committed",
            read(no_offsets()),
            vec![(MessagesLost, False, Reason::NothingLost, &[])],
        ),
    ]
}

fn condition(status: &KafkaConsumerStatus) -> Condition {
    find(&status.conditions, MessagesLost)
        .expect("the condition is always there")
        .clone()
}

fn told(status: &KafkaConsumerStatus) -> (String, String) {
    let condition = condition(status);
    (condition.status, condition.reason)
}

fn minutes(minutes: i64) -> Timestamp {
    now() + SignedDuration::from_mins(minutes)
}

fn is(state: &str, reason: Reason) -> (String, String) {
    (state.to_owned(), reason.name().to_owned())
}

#[test]
fn the_unknown_part_of_a_lag_is_no_number() {
    let lag = |known, unknown_partitions, reason: Option<&str>| {
        let lag = Lag {
            known,
            unknown_partitions,
            unknown_reason: reason.map(str::to_owned),
        };
        let status = read(Positions { lag, ..positions() }).status();
        let fields = serde_json::to_value(&status).unwrap();
        let field = |name: &str| fields.get(name).cloned();
        (
            field("lag"),
            field("lagUnknownPartitions"),
            field("lagUnknownReason"),
        )
    };
    assert_eq!(lag(Some(17), 0, None), (Some(17.into()), None, None));
    let partly = (Some(17.into()), Some(2.into()), Some("no leader".into()));
    assert_eq!(lag(Some(17), 2, Some("no leader")), partly);
    let not_at_all = (None, Some(2.into()), Some("no leader".into()));
    assert_eq!(lag(None, 2, Some("no leader")), not_at_all);
}

#[test]
fn what_was_read_before_stands_until_something_is_read() {
    let first = read(loss(LossReason::RetentionPassed, 1000, 1500)).status();
    // Another operator has taken over.
    let second = World::running().status_after(&first, minutes(1));
    assert_eq!(second, first);
    let fine = read(positions()).status();
    assert_eq!(World::running().status_after(&fine, minutes(1)), fine);
    // What can't be read any more does not stand.
    let unread = read(Positions::unread("timed out")).status_after(&fine, minutes(1));
    assert_eq!(unread.lag, None);
    assert_eq!(unread.lag_unknown_reason.as_deref(), Some("timed out"));
    assert_eq!(told(&unread), is("Unknown", Reason::OffsetsNotRead));
}

#[test]
fn a_loss_is_reported_for_an_hour_after_the_group_has_moved_past_it() {
    let key = Key::new("shop", "orders");
    let lost = read(loss(LossReason::RetentionPassed, 1000, 1500));
    let past = read(positions());
    let before = lost.status();
    // As long as it lasts, however long.
    let still = lost.status_after(&before, minutes(600));
    assert_eq!(still, before);
    assert_eq!(
        forgets_at(&lost.seen(&key, &consumer(3), now()), &before),
        None
    );

    let passed = past.status_after(&still, minutes(601));
    assert_eq!(told(&passed), is("True", Reason::RetentionPassed));
    let message = condition(&passed).message;
    assert!(message.contains("offsets 1000 to 1499"), "{message}");
    assert!(message.contains("has moved past this"), "{message}");
    let consumer = consumer(3);
    let seen = past.seen(&key, &consumer, minutes(631));
    let left = Duration::from_secs(30 * 60 + 1);
    assert_eq!(forgets_at(&seen, &passed), Some(left));

    // A reading that fails meanwhile, or another generation, changes nothing.
    let unread = read(Positions::unread("timed out")).status_after(&passed, minutes(660));
    assert_eq!(told(&unread), is("True", Reason::RetentionPassed));
    assert_eq!(unread.messages_lost, passed.messages_lost);

    let over = past.status_after(&unread, minutes(661));
    assert_eq!(told(&over), is("False", Reason::NothingLost));
    assert_eq!(over.messages_lost, []);
}

#[test]
fn a_loss_does_not_end_while_its_partition_can_not_be_read() {
    let lost = read(loss(LossReason::RetentionPassed, 1000, 1500)).status();
    let unread = read(Positions::unread("timed out"));
    let later = unread.status_after(&lost, minutes(600));
    assert_eq!(later.messages_lost, lost.messages_lost);
}

#[test]
fn a_loss_ends_though_other_partitions_can_not_be_read() {
    let lost = read(loss(LossReason::RetentionPassed, 1000, 1500)).status();
    let partly = |topic: &str, partition: i32| {
        let why = format!("topic {topic} partition {partition}: it has no leader");
        read(Positions {
            unread: Some(why),
            unread_partitions: [(topic.to_owned(), partition)].into(),
            ..positions()
        })
    };
    let is_passed = |world: World| {
        let status = world.status_after(&lost, minutes(1));
        status.messages_lost[0].passed_time.is_some()
    };
    assert!(is_passed(partly("orders", 3)));
    assert!(is_passed(partly("payments", 0)));
    assert!(!is_passed(partly("orders", 0)));
    let mut unlisted = partly("payments", 0);
    let positions = unlisted.positions.as_mut().unwrap();
    positions.unlisted_topics.insert("orders".to_owned());
    assert!(!is_passed(unlisted));
}

#[test]
fn expired_offsets_end_with_one_commit_though_other_partitions_can_not_be_read() {
    let begun = read(positions()).status();
    let gone = read(no_offsets()).status_after(&begun, minutes(1));
    let unread = |positions: Positions| {
        let world = read(Positions {
            unread: Some("topic orders partition 3: it has no leader".into()),
            unread_partitions: [("orders".to_owned(), 3)].into(),
            ..positions
        });
        let status = world.status_after(&gone, minutes(2));
        status.messages_lost[0].passed_time.is_some()
    };
    assert!(unread(positions()));
    let unknown = Positions {
        committed: Default::default(),
        ..positions()
    };
    assert!(!unread(unknown), "there may be a commit in the other one");
}

#[test]
fn messages_are_counted_once_each() {
    let retention = |committed, log| read(loss(LossReason::RetentionPassed, committed, log));
    let figures = |status: &KafkaConsumerStatus| {
        let lost = &status.messages_lost[0];
        (lost.committed, lost.log, lost.messages)
    };
    let mut status = retention(100, 150).status();
    assert_eq!(figures(&status), (Some(100), Some(150), Some(50)));
    for (committed, log, all) in [
        // Retention goes on.
        (100, 170, 70),
        // The group has committed, and is passed again.
        (180, 200, 90),
        (180, 200, 90),
        (180, 210, 100),
        // Within what is known.
        (205, 210, 100),
    ] {
        status = retention(committed, log).status_after(&status, minutes(1));
        assert_eq!(figures(&status), (Some(100), Some(log), Some(all)));
    }
}

#[test]
fn expired_offsets_are_noticed_once_the_group_has_had_some() {
    let begun = read(positions()).status();
    let topics = |status: &KafkaConsumerStatus| -> Vec<String> {
        let committed = status.committed.as_ref();
        committed.map_or_else(Vec::new, |committed| committed.topics.clone())
    };
    assert_eq!(topics(&begun), ["orders"]);
    let gone = read(no_offsets()).status_after(&begun, minutes(1));
    assert_eq!(told(&gone), is("True", Reason::OffsetsExpired));
    let again = read(positions()).status_after(&gone, minutes(2));
    assert_eq!(told(&again), is("True", Reason::OffsetsExpired));
    let over = read(positions()).status_after(&again, minutes(62));
    assert_eq!(told(&over), is("False", Reason::NothingLost));
    assert_eq!(topics(&over), ["orders"]);
}

#[test]
fn another_group_has_lost_nothing() {
    let lost = read(loss(LossReason::RetentionPassed, 1000, 1500)).status();
    for (group, brokers) in [
        ("billing.other", "kafka:9092"),
        ("billing.orders", "other:9092"),
    ] {
        let mut other = lost.clone();
        let committed = other.committed.as_mut().unwrap();
        committed.group = group.into();
        committed.bootstrap_servers = brokers.into();
        other.lag = Some(5);
        let status = read(no_offsets()).status_after(&other, minutes(1));
        assert_eq!(told(&status), is("False", Reason::NothingLost));
        assert_eq!((status.committed, status.messages_lost), (None, vec![]));
        let unread = World::running().status_after(&other, minutes(1));
        assert_eq!(unread.lag, None, "it was that of the other group");
        assert_eq!(told(&unread), is("Unknown", Reason::OffsetsNotRead));
    }
}

#[test]
fn a_manifest_that_is_not_accepted_does_not_hide_a_loss() {
    let lost = read(loss(LossReason::RetentionPassed, 1000, 1500)).status();
    let refused = World::refused(Refusal::Invalid).status_after(&lost, minutes(1));
    assert_eq!(told(&refused), is("True", Reason::RetentionPassed));
    assert_eq!(refused.committed, lost.committed);
    assert_eq!(refused.lag, None);
}
