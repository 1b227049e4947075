//! Transactions: what they write together, and who is fenced.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::reader::{GROUP, Reader, cluster, partition, settings, share_all, until};
use crate::group::partition::{CommitPoint, Partition};
use crate::handler::produce::ProducerRecord;
use crate::kafka::seam::{Client as _, Transactional};
use crate::kafka::simulated::{
    Fault, GroupProtocol, Kafka, LetterSink as _, Membership, TopicKind,
};
use crate::transactions::{Covered, Outcome, Refusal, Transaction};

const OUTPUT: &str = "output";
const TIMEOUT: Duration = Duration::from_secs(10);

async fn setup(seed: u64, protocol: GroupProtocol) -> (Kafka, Reader) {
    let kafka = cluster(seed, 1);
    kafka.create_topic(OUTPUT, 1, TopicKind::default());
    let mut reader = Reader::join(&kafka, settings(protocol));
    reader
        .until("an assignment", |it| it.owned.len() == 1)
        .await;
    (kafka, reader)
}

fn producer(kafka: &Kafka, reader: &Reader, id: &str) -> Box<dyn Transactional<Membership>> {
    kafka.transactional(id, &reader.client, TIMEOUT, Arc::new(Notify::new()))
}

/// A transaction of one record and the offset behind its message.
fn transaction(reader: &Reader, topic: &str, offset: i64) -> Transaction<Membership> {
    let owned: &Arc<Partition> = &reader.owned[&partition(0)];
    let point = CommitPoint {
        offset,
        metadata: String::new(),
    };
    Transaction {
        records: vec![Covered {
            partition: 0,
            offset: offset - 1,
            record: ProducerRecord::new(topic, format!("of {offset}")),
        }],
        offsets: vec![(Arc::clone(owned), point)],
        group: reader.client.membership().unwrap(),
    }
}

fn values(kafka: &Kafka) -> Vec<String> {
    let records = kafka.visible(OUTPUT).into_iter();
    records
        .map(|it| String::from_utf8(it.value.unwrap()).unwrap())
        .collect()
}

fn committed(kafka: &Kafka) -> Vec<i64> {
    kafka.committed(GROUP).values().map(|it| it.0).collect()
}

#[tokio::test(start_paused = true)]
async fn records_and_offsets_are_committed_together() {
    for protocol in [GroupProtocol::Eager, GroupProtocol::Consumer] {
        let (kafka, reader) = setup(1, protocol).await;
        let producer = producer(&kafka, &reader, "id");
        let outcome = producer
            .begin(transaction(&reader, OUTPUT, 3))
            .await
            .unwrap();
        assert!(outcome.result.is_ok(), "{:?}", outcome.result);
        assert_eq!(outcome.records.len(), 1);
        assert_eq!(values(&kafka), ["of 3"]);
        assert_eq!(committed(&kafka), [3]);
        assert!(kafka.commit_log(GROUP)[0].is_transactional);
        assert_eq!(kafka.ends(OUTPUT), [2], "a marker lies behind the record");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_produced_is_named_and_nothing_happens() {
    let (kafka, reader) = setup(2, GroupProtocol::Eager).await;
    let producer = producer(&kafka, &reader, "id");
    let outcome = producer
        .begin(transaction(&reader, "unknown", 3))
        .await
        .unwrap();
    assert!(matches!(
        outcome.result,
        Err(Refusal::Record {
            place: 0,
            code: RDKafkaErrorCode::UnknownTopicOrPartition
        })
    ));
    assert!(committed(&kafka).is_empty());
    let outcome = producer
        .begin(transaction(&reader, OUTPUT, 3))
        .await
        .unwrap();
    assert!(
        outcome.result.is_ok(),
        "the next one goes on: {:?}",
        outcome.result
    );
}

#[tokio::test(start_paused = true)]
async fn an_aborted_transaction_leaves_nothing_and_another_follows() {
    let (kafka, reader) = setup(3, GroupProtocol::Eager).await;
    let producer = producer(&kafka, &reader, "id");
    kafka.fail(Fault::ProduceFails(RDKafkaErrorCode::NotEnoughReplicas, 1));
    for code in [
        RDKafkaErrorCode::NotEnoughReplicas,
        RDKafkaErrorCode::NotCoordinator,
    ] {
        if code == RDKafkaErrorCode::NotCoordinator {
            kafka.fail(Fault::TransactionAborted(code));
        }
        let outcome = producer
            .begin(transaction(&reader, OUTPUT, 3))
            .await
            .unwrap();
        let refusal = outcome.result.unwrap_err();
        assert!(
            matches!(refusal, Refusal::Aborted(it) if it == code),
            "{refusal:?}"
        );
        assert!(values(&kafka).is_empty() && committed(&kafka).is_empty());
    }
    let outcome = producer
        .begin(transaction(&reader, OUTPUT, 3))
        .await
        .unwrap();
    assert!(outcome.result.is_ok());
    assert_eq!(values(&kafka), ["of 3"]);
}

#[tokio::test(start_paused = true)]
async fn a_zombie_is_fenced_by_its_generation() {
    for protocol in [GroupProtocol::Eager, GroupProtocol::Consumer] {
        let (kafka, reader) = setup(4, protocol).await;
        let producer = producer(&kafka, &reader, "id");
        let mut stale = transaction(&reader, OUTPUT, 3);
        stale.group.generation -= 1;
        // Of KIP-848 an epoch below 0 would be no member's.
        stale.group.generation = stale.group.generation.max(0);
        let outcome = producer.begin(stale).await.unwrap();
        assert!(
            matches!(
                outcome.result,
                Err(Refusal::Aborted(RDKafkaErrorCode::IllegalGeneration))
            ),
            "{:?}",
            outcome.result
        );
        let mut unknown = transaction(&reader, OUTPUT, 3);
        unknown.group.member = "another".into();
        let outcome = producer.begin(unknown).await.unwrap();
        assert!(matches!(
            outcome.result,
            Err(Refusal::Aborted(RDKafkaErrorCode::UnknownMemberId))
        ));
        assert!(values(&kafka).is_empty() && committed(&kafka).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_producer_of_the_same_id_fences_the_first() {
    let (kafka, reader) = setup(5, GroupProtocol::Eager).await;
    let first = producer(&kafka, &reader, "id");
    let second = producer(&kafka, &reader, "id");
    let outcome = second.begin(transaction(&reader, OUTPUT, 3)).await.unwrap();
    assert!(outcome.result.is_ok());
    let Outcome { result, .. } = first.begin(transaction(&reader, OUTPUT, 4)).await.unwrap();
    assert!(result.is_err());
    assert_eq!(values(&kafka), ["of 3"]);
    kafka.fail(Fault::TransactionFenced);
    let Outcome { result, .. } = second.begin(transaction(&reader, OUTPUT, 4)).await.unwrap();
    assert!(result.is_err());
    assert_eq!(committed(&kafka), [3]);
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_process_left_open_ends_by_time_or_by_its_successor() {
    for successor in [false, true] {
        let (kafka, mut reader) = setup(6, GroupProtocol::Eager).await;
        let mut other = Reader::join(&kafka, settings(GroupProtocol::Eager));
        until("two members", &mut [&mut reader, &mut other], |it| {
            !it[1].assigned.is_empty() && share_all(it, 1)
        })
        .await;
        if reader.owned.is_empty() {
            std::mem::swap(&mut reader, &mut other);
        }
        let first = producer(&kafka, &reader, "id");
        kafka.fail(Fault::TransactionTimesOut { committed: false });
        let outcome = first.begin(transaction(&reader, OUTPUT, 3));
        tokio::time::sleep(Duration::from_secs(1)).await;
        reader.client.kill();
        drop(outcome);
        let began = tokio::time::Instant::now();
        let asked = other
            .client
            .committed(vec![partition(0)], Duration::from_secs(3))
            .await;
        let error = asked.unwrap_err();
        assert_eq!(
            error.code,
            RDKafkaErrorCode::OperationTimedOut,
            "it is still open"
        );
        if successor {
            let _second = kafka.transactional("id", &other.client, TIMEOUT, Arc::default());
        }
        let limit = Duration::from_secs(60);
        let found = other
            .client
            .committed(vec![partition(0)], limit)
            .await
            .unwrap();
        assert_eq!(found[0].offset, None);
        let took = began.elapsed();
        assert_eq!(took < Duration::from_secs(5), successor, "{took:?}");
        assert!(values(&kafka).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_transaction_may_stay_unknown() {
    for done in [false, true] {
        let (kafka, reader) = setup(7, GroupProtocol::Eager).await;
        let producer = producer(&kafka, &reader, "id");
        kafka.fail(Fault::TransactionTimesOut { committed: done });
        let outcome = producer
            .begin(transaction(&reader, OUTPUT, 3))
            .await
            .unwrap();
        assert!(matches!(outcome.result, Err(Refusal::Fatal(_))));
        assert_eq!(committed(&kafka).len(), usize::from(done));
        assert_eq!(values(&kafka).len(), usize::from(done));
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_hangs_is_noticed_by_whoever_watches() {
    let (kafka, reader) = setup(9, GroupProtocol::Eager).await;
    let producer = producer(&kafka, &reader, "id");
    kafka.fail(Fault::TransactionHangs);
    let mut outcome = producer.begin(transaction(&reader, OUTPUT, 3));
    tokio::time::sleep(Duration::from_secs(85)).await;
    assert_eq!(producer.watch(), None);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(producer.watch().is_some());
    assert!(outcome.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_written_or_refused() {
    let (kafka, _reader) = setup(8, GroupProtocol::Eager).await;
    let letters = kafka.letters();
    let letter = ProducerRecord::new(OUTPUT, "lost");
    letters.send(&letter).await.unwrap();
    assert_eq!(values(&kafka), ["lost"]);
    kafka.fail(Fault::ProduceFails(
        RDKafkaErrorCode::MessageSizeTooLarge,
        1,
    ));
    let refused = letters.send(&letter).await;
    assert_eq!(refused, Err(RDKafkaErrorCode::MessageSizeTooLarge));
    let unknown = letters.send(&ProducerRecord::new("unknown", "lost")).await;
    assert_eq!(unknown, Err(RDKafkaErrorCode::UnknownTopicOrPartition));
    kafka.fail(Fault::Unreachable(Duration::from_secs(60)));
    let lost = letters.send(&letter).await;
    assert_eq!(lost, Err(RDKafkaErrorCode::MessageTimedOut));
    assert_eq!(values(&kafka), ["lost"]);
}
