//! Fetching: positions, ends, holes, pauses, errors.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::reader::{GROUP, Reader, TOPIC, cluster, fill, partition, run_for, settings};
use crate::kafka::seam::{Client as _, Edge};
use crate::kafka::simulated::{
    Cleanup, Fault, GroupProtocol, Isolation, Kafka, KafkaSettings, MemberSettings, Produce,
    TopicKind,
};

const EAGER: GroupProtocol = GroupProtocol::Eager;

async fn reader_of(kafka: &Kafka, settings: MemberSettings) -> Reader {
    let mut reader = Reader::join(kafka, settings);
    reader
        .until("an assignment", |it| !it.owned.is_empty())
        .await;
    reader
}

#[tokio::test(start_paused = true)]
async fn all_messages_come_in_order_and_the_end_is_reported_each_time() {
    let kafka = cluster(1, 1);
    fill(&kafka, 0, 30);
    let small = MemberSettings {
        fetch_messages: 7,
        queued_messages: 3,
        ..settings(EAGER)
    };
    let mut reader = reader_of(&kafka, small).await;
    reader.until("the end", |it| it.ends == [(0, 30)]).await;
    assert_eq!(reader.offsets(0), (0..30).collect::<Vec<_>>());
    run_for(Duration::from_secs(5), &mut [&mut reader]).await;
    assert_eq!(reader.ends, [(0, 30)], "it is reported once");
    fill(&kafka, 0, 1);
    reader.until("the next end", |it| it.ends.len() == 2).await;
    assert_eq!(reader.ends[1], (0, 31));
    let owned = reader.owned.values().next().unwrap();
    assert_eq!(reader.client.high_watermark(owned), Some(31));
    assert!(reader.strays.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_limited_by_bytes_but_holds_one_message_at_least() {
    let kafka = cluster(2, 1);
    fill(&kafka, 0, 5);
    let tiny = MemberSettings {
        fetch_bytes: 1,
        ..settings(EAGER)
    };
    let mut reader = reader_of(&kafka, tiny).await;
    reader
        .until("all messages", |it| it.records.len() == 5)
        .await;
}

#[tokio::test(start_paused = true)]
async fn markers_aborted_records_and_holes_are_passed() {
    let kafka = Kafka::new(3, KafkaSettings::default());
    let cleanup = Cleanup::Compact;
    kafka.create_topic(TOPIC, 1, TopicKind { cleanup });
    fill(&kafka, 0, 3); // 0 to 2
    kafka.produce_aborted(TOPIC, 0, 2); // 3 and 4, and the marker 5
    fill(&kafka, 0, 2); // 6 and 7
    kafka.put_control(TOPIC, 0); // 8
    kafka.compact(TOPIC, 0, |offset| offset != 1 && offset != 6);
    let mut reader = reader_of(&kafka, settings(EAGER)).await;
    reader.until("the end", |it| !it.ends.is_empty()).await;
    assert_eq!(reader.offsets(0), [0, 2, 7]);
    assert_eq!(reader.ends, [(0, 9)], "past the last marker");
    let visible: Vec<_> = kafka
        .visible(TOPIC)
        .into_iter()
        .map(|it| it.offset)
        .collect();
    assert_eq!(visible, [0, 2, 7]);
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_holds_readers_of_committed_messages() {
    let kafka = cluster(4, 1);
    fill(&kafka, 0, 2);
    kafka.produce_foreign(TOPIC, 0, Produce::default()); // 2
    fill(&kafka, 0, 2); // 3 and 4
    let mut reader = reader_of(&kafka, settings(EAGER)).await;
    reader
        .until("the last stable offset", |it| it.ends == [(0, 2)])
        .await;
    assert_eq!(reader.offsets(0), [0, 1]);
    run_for(Duration::from_secs(60), &mut [&mut reader]).await;
    let owned = reader.owned.values().next().unwrap();
    assert_eq!(reader.client.high_watermark(owned), Some(5));
    kafka.end_foreign_transaction(true); // the marker 5
    reader.until("the end", |it| it.ends.len() == 2).await;
    assert_eq!(reader.offsets(0), [0, 1, 2, 3, 4]);
    assert_eq!(reader.ends[1], (0, 6));
}

#[tokio::test(start_paused = true)]
async fn readers_of_uncommitted_messages_see_all_of_them() {
    let kafka = cluster(16, 1);
    kafka.produce_aborted(TOPIC, 0, 2); // 0 and 1, and the marker 2
    kafka.produce_foreign(TOPIC, 0, Produce::default()); // 3
    let uncommitted = MemberSettings {
        isolation: Isolation::ReadUncommitted,
        ..settings(EAGER)
    };
    let mut reader = reader_of(&kafka, uncommitted).await;
    reader.until("the end", |it| it.ends == [(0, 4)]).await;
    assert_eq!(reader.offsets(0), [0, 1, 3]);
    assert_eq!(kafka.visible(TOPIC), []);
}

#[tokio::test(start_paused = true)]
async fn an_offset_out_of_range_is_an_error_and_reading_stops() {
    let kafka = cluster(5, 1);
    fill(&kafka, 0, 10);
    let small = MemberSettings {
        fetch_messages: 2,
        queued_messages: 1,
        ..settings(EAGER)
    };
    let mut reader = Reader::join(&kafka, small);
    kafka.delete_records(TOPIC, 0, 4);
    reader.until("the error", |it| !it.errors.is_empty()).await;
    let error = &reader.errors[0];
    assert_eq!(error.code, RDKafkaErrorCode::AutoOffsetReset);
    assert_eq!((error.topic.as_str(), error.partition), (TOPIC, Some(0)));
    run_for(Duration::from_secs(10), &mut [&mut reader]).await;
    assert!(reader.records.is_empty() && reader.errors.len() == 1);
    assert_eq!(reader.refusals, [(0, Some(0), None)]);
    reader.restart(0, 4);
    reader
        .until("the rest", |it| it.offsets(0) == [4, 5, 6, 7, 8, 9])
        .await;
    assert_eq!(kafka.log_starts(TOPIC), [4]);
}

#[tokio::test(start_paused = true)]
async fn with_a_reset_policy_the_client_goes_on_by_itself() {
    let kafka = cluster(6, 1);
    fill(&kafka, 0, 10);
    kafka.delete_records(TOPIC, 0, 4);
    let resetting = MemberSettings {
        auto_offset_reset: Some(Edge::Start),
        ..settings(EAGER)
    };
    let mut reader = Reader::join(&kafka, resetting);
    reader
        .until("the rest", |it| it.offsets(0) == [4, 5, 6, 7, 8, 9])
        .await;
    assert!(reader.errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_finds_by_itself_begins_at_the_committed_offset() {
    let kafka = cluster(7, 2);
    fill(&kafka, 0, 5);
    fill(&kafka, 1, 5);
    kafka.reset_offsets(GROUP, TOPIC, 0, 3);
    let mut reader = Reader::join(&kafka, settings(EAGER));
    reader.begins_by_itself = true;
    reader
        .until("the rest and an error", |it| {
            it.offsets(0) == [3, 4] && !it.errors.is_empty()
        })
        .await;
    assert_eq!(
        reader.errors[0].partition,
        Some(1),
        "nothing was committed there"
    );
    assert_eq!(reader.errors[0].code, RDKafkaErrorCode::AutoOffsetReset);
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_loses_what_was_fetched() {
    let kafka = cluster(8, 1);
    fill(&kafka, 0, 10);
    let mut reader = reader_of(&kafka, settings(EAGER)).await;
    // What was fetched lies in the queue.
    tokio::time::sleep(Duration::from_secs(1)).await;
    reader.read(4);
    let before = reader.records.len();
    assert!(before >= 4, "{before}");
    reader.client.pause(&partition(0)).unwrap();
    run_for(Duration::from_secs(10), &mut [&mut reader]).await;
    assert_eq!(reader.records.len(), before);
    reader.client.resume(&partition(0)).unwrap();
    reader
        .until("the rest", |it| it.ends.last() == Some(&(0, 10)))
        .await;
    assert_eq!(
        reader.offsets(0),
        (0..10).collect::<Vec<_>>(),
        "none twice, none lost"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_behind_a_reported_end_skips_a_message_unless_the_reader_seeks() {
    for seeks in [false, true] {
        let kafka = cluster(17, 1);
        fill(&kafka, 0, 3);
        let mut reader = reader_of(&kafka, settings(EAGER)).await;
        reader.until("the end", |it| it.ends == [(0, 3)]).await;
        reader.client.pause(&partition(0)).unwrap();
        fill(&kafka, 0, 2);
        if seeks {
            reader.seek(0, 3);
        }
        reader.client.resume(&partition(0)).unwrap();
        reader
            .until("the rest", |it| it.offsets(0).last() == Some(&4))
            .await;
        let expected: &[i64] = match seeks {
            true => &[0, 1, 2, 3, 4],
            false => &[0, 1, 2, 4],
        };
        assert_eq!(reader.offsets(0), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn fetched_messages_are_dropped_by_a_seek() {
    let kafka = cluster(9, 1);
    fill(&kafka, 0, 10);
    let mut reader = reader_of(&kafka, settings(EAGER)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = reader.records.len();
    reader.seek(0, 8);
    reader
        .until("the rest", |it| it.ends.last() == Some(&(0, 10)))
        .await;
    assert_eq!(reader.offsets(0)[before..], [8, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_truncated_log_is_noticed_by_its_epoch() {
    let kafka = cluster(10, 1);
    fill(&kafka, 0, 10);
    let mut reader = reader_of(&kafka, settings(EAGER)).await;
    reader
        .until("all messages", |it| it.records.len() == 10)
        .await;
    kafka.truncate(TOPIC, 0, 6);
    fill(&kafka, 0, 10);
    reader.until("the error", |it| !it.errors.is_empty()).await;
    assert_eq!(reader.errors[0].code, RDKafkaErrorCode::AutoOffsetReset);
    assert_eq!(reader.refusals, [(0, None, Some(6))]);
    assert_eq!(reader.records.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_moves_costs_only_time() {
    let kafka = cluster(11, 1);
    fill(&kafka, 0, 10);
    let mut reader = reader_of(&kafka, settings(EAGER)).await;
    reader
        .until("all messages", |it| it.records.len() == 10)
        .await;
    kafka.move_leader(TOPIC, 0);
    fill(&kafka, 0, 1);
    reader
        .until("the next message", |it| it.records.len() == 11)
        .await;
    assert!(reader.errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn fetch_errors_are_reported_unless_the_client_mends_them() {
    let kafka = cluster(12, 1);
    let mut reader = reader_of(&kafka, settings(EAGER)).await;
    kafka.fail(Fault::FetchError(
        RDKafkaErrorCode::NotLeaderForPartition,
        2,
    ));
    kafka.fail(Fault::FetchError(RDKafkaErrorCode::InvalidMessage, 1));
    fill(&kafka, 0, 1);
    reader
        .until("the message", |it| it.records.len() == 1)
        .await;
    let codes: Vec<_> = reader.errors.iter().map(|it| it.code).collect();
    assert_eq!(codes, [RDKafkaErrorCode::InvalidMessage]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_created_again_is_read_from_the_same_offset() {
    let kafka = cluster(13, 1);
    fill(&kafka, 0, 3);
    let mut reader = reader_of(&kafka, settings(GroupProtocol::Cooperative)).await;
    reader
        .until("all messages", |it| it.records.len() == 3)
        .await;
    reader.commit(0, 3);
    reader
        .until("the outcome", |it| !it.outcomes.is_empty())
        .await;
    kafka.recreate(TOPIC, 1);
    assert!(kafka.committed(GROUP).is_empty());
    fill(&kafka, 0, 1);
    reader.until("the error", |it| !it.errors.is_empty()).await;
    assert_eq!(reader.errors[0].code, RDKafkaErrorCode::AutoOffsetReset);
}

#[tokio::test(start_paused = true)]
async fn look_ups_take_time_and_fail_without_brokers() {
    let kafka = cluster(14, 1);
    fill(&kafka, 0, 5);
    kafka.delete_records(TOPIC, 0, 2);
    kafka.produce_foreign(TOPIC, 0, Produce::default());
    let reader = reader_of(&kafka, settings(EAGER)).await;
    let limit = Duration::from_secs(5);
    let wanted = vec![(partition(0), Edge::Start), (partition(0), Edge::End)];
    let found = reader.client.edges(wanted.clone(), limit).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|(_, found)| found).collect();
    assert_eq!(found, [Ok(2), Ok(5)], "the end is the last stable offset");
    let topic = TOPIC.to_owned();
    assert_eq!(reader.client.partition_count(topic, limit).await, Ok(1));
    assert_eq!(
        reader.client.partition_count("none".into(), limit).await,
        Ok(0)
    );
    kafka.fail(Fault::LookUpFails(
        RDKafkaErrorCode::GroupAuthorizationFailed,
        1,
    ));
    let refused = reader
        .client
        .edges(wanted.clone(), limit)
        .await
        .unwrap_err();
    assert_eq!(refused.code, RDKafkaErrorCode::GroupAuthorizationFailed);
    kafka.fail(Fault::Unreachable(Duration::from_secs(60)));
    let lost = reader.client.edges(wanted, limit).await.unwrap_err();
    assert_eq!(lost.code, RDKafkaErrorCode::OperationTimedOut);
    let lost = reader
        .client
        .committed(vec![partition(0)], limit)
        .await
        .unwrap_err();
    assert_eq!(lost.code, RDKafkaErrorCode::OperationTimedOut);
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_partition_that_is_not_attached_are_strays() {
    use crate::kafka::seam::{Event, StartOffset};
    let kafka = cluster(15, 1);
    fill(&kafka, 0, 1);
    let mut reader = Reader::join(&kafka, settings(EAGER));
    reader.is_silent = true;
    reader
        .until("an assignment", |it| !it.unanswered.is_empty())
        .await;
    let Event::Assign(partitions) = &reader.unanswered[0] else {
        panic!("{:?}", reader.unanswered);
    };
    let starts = partitions.iter().map(|partition| StartOffset {
        partition: partition.clone(),
        offset: Some(0),
        leader_epoch: None,
    });
    let starts: Vec<_> = starts.collect();
    reader.client.assign(&starts).unwrap();
    reader.until("a stray", |it| !it.strays.is_empty()).await;
}
