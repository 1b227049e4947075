//! The thread's side on librdkafka's mock cluster.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::observe::metrics::Metrics;

mod shared_properties;

const TOO_LARGE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
const TAKEN: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;

struct Fixture {
    cluster: MockCluster<'static, DefaultProducerContext>,
    consumer: BaseConsumer,
    worker: Worker,
}

impl Fixture {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["orders", "dead", "totals"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let brokers = cluster.bootstrap_servers();
        let connection = BTreeMap::from([("bootstrap.servers".to_owned(), brokers.clone())]);
        let mut worker = Worker::create(&Identity {
            connection: &connection,
            id: "billing.orders.test".into(),
            oauth_token: None,
        })
        .unwrap();
        // Records that are sent one after the other surely share a batch.
        worker.config.set("linger.ms", "300");
        worker.producer = start(&worker.config, None).unwrap();
        worker.introduce(&|| false).unwrap();
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "billing.orders")
            .create()
            .unwrap();
        Self {
            cluster,
            consumer,
            worker,
        }
    }

    /// The brokers' answers to the next requests to produce.
    fn answering(self, answers: &[RDKafkaRespErr]) -> Self {
        self.cluster.request_errors(RDKafkaApiKey::Produce, answers);
        self
    }

    fn run(&mut self, records: Vec<ProducerRecord>) -> (Vec<ProducerRecord>, Result<(), Refusal>) {
        let metrics = Metrics::new("", "").unwrap();
        let partition = Partition::new("orders", 0, 1, &metrics, Arc::default(), None);
        let point = CommitPoint {
            offset: 43,
            metadata: String::new(),
        };
        let offsets = vec![(Arc::new(partition), point)];
        let records = records.into_iter().map(|record| Covered {
            partition: 0,
            offset: 42,
            record,
        });
        let mut transaction = Transaction {
            records: records.collect(),
            offsets,
            group: self.consumer.group_metadata().unwrap(),
        };
        let ended = self.worker.run(&mut transaction, &|| false);
        let records = transaction.records.into_iter().map(|it| it.record);
        (records.collect(), ended)
    }
}

fn letter(value: Vec<u8>) -> ProducerRecord {
    let mut letter = ProducerRecord::new("dead", value)
        .key("k")
        .header("trace", "x")
        .header("penstock.failure.topic", "orders")
        .header("penstock.failure.offset", "42");
    letter.is_letter = true;
    letter
}

fn is_stub_of_a_letter(record: &ProducerRecord) -> bool {
    dead_letter::is_stub(record) && record.payload.as_deref() == Some(&b""[..])
}

#[test]
fn a_dead_letter_that_is_refused_is_replaced_by_its_stub_and_commits() {
    let mut fixture = Fixture::new().answering(&[TOO_LARGE]);
    let (records, ended) = fixture.run(vec![letter(b"value".to_vec())]);
    ended.unwrap();
    assert!(is_stub_of_a_letter(&records[0]), "{records:?}");
}

#[test]
fn a_stub_that_is_refused_too_ends_it() {
    let mut fixture = Fixture::new().answering(&[TOO_LARGE, TOO_LARGE]);
    let (_, ended) = fixture.run(vec![letter(b"value".to_vec())]);
    assert!(
        matches!(ended, Err(Refusal::Record { place: 0, .. })),
        "{ended:?}"
    );
}

#[test]
fn a_record_of_a_handler_is_never_replaced() {
    let mut fixture = Fixture::new().answering(&[TOO_LARGE]);
    let record = ProducerRecord::new("totals", "1").header("penstock.failure.topic", "orders");
    let (records, ended) = fixture.run(vec![record.clone()]);
    assert!(
        matches!(ended, Err(Refusal::Record { place: 0, .. })),
        "{ended:?}"
    );
    assert_eq!(records, [record]);
}

#[test]
fn of_a_batch_that_is_refused_only_the_record_that_is_meant_is_blamed() {
    let mut fixture = Fixture::new().answering(&[TOO_LARGE, TAKEN, TOO_LARGE]);
    let records = vec![
        ProducerRecord::new("totals", "small"),
        ProducerRecord::new("totals", "large"),
    ];
    let (_, ended) = fixture.run(records);
    assert!(
        matches!(ended, Err(Refusal::Record { place: 1, .. })),
        "{ended:?}"
    );
}

#[test]
fn a_batch_that_is_too_large_commits_with_its_records_one_by_one() {
    let mut fixture = Fixture::new().answering(&[TOO_LARGE]);
    let letters = vec![letter(b"a".to_vec()), letter(b"b".to_vec())];
    let (records, ended) = fixture.run(letters.clone());
    ended.unwrap();
    assert_eq!(records, letters);
}

#[test]
fn a_record_larger_than_the_producers_memory_is_refused_rather_than_waited_for() {
    let mut fixture = Fixture::new();
    let record = ProducerRecord::new("totals", vec![0; BUFFER_BYTES + 1]);
    let (_, ended) = fixture.run(vec![record]);
    let Err(Refusal::Record { place: 0, code }) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(code, RDKafkaErrorCode::MessageSizeTooLarge);
    let (records, ended) = fixture.run(vec![letter(vec![0; BUFFER_BYTES + 1])]);
    ended.unwrap();
    assert!(is_stub_of_a_letter(&records[0]));
}
