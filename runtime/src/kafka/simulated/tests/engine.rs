//! The engine on the simulated cluster: whole consumers, put together as on librdkafka.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::manifest;
use penstock_crds::spec::OnOffsetLost;
use penstock_crds::validate::ValidatedConsumer;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::reader::{GROUP, TOPIC, cluster, fill, settings};
use crate::consumer::assembly::{Assembly, Plain};
use crate::consumer::memory::Budget;
use crate::consumer::server::RunError;
use crate::group::positions::Policy;
use crate::handler::decode::Raw;
use crate::handler::produce::ProducerRecord;
use crate::handler::{HandlerError, handler_fn};
use crate::kafka::seam::Edge;
use crate::kafka::simulated::{GroupProtocol, Kafka, SimulatedClient, TopicKind};
use crate::observe::metrics::Metrics;
use crate::process::worker::work;

const OUTPUT: &str = "output";
const PARTITIONS: i32 = 4;
const EACH: usize = 40;
const LIMIT: Duration = Duration::from_secs(600);

struct Consumer {
    client: Arc<SimulatedClient>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

/// The messages that handlers were given, by partition and offset.
type Seen = Arc<Mutex<Vec<(i32, i64)>>>;

fn consumer(mode: &str, more: &str) -> ValidatedConsumer {
    let text = format!(
        "apiVersion: penstock.dev/v1alpha1
kind: KafkaConsumer
metadata: {{name: test}}
spec:
  group: {GROUP}
  topics: [{TOPIC}]
  mode: {mode}
  offsetReset: Earliest
  kafka: {{bootstrapServers: 'none:9092'}}
  handler: {{image: none, protocol: Embedded, timeout: 10s}}
{more}"
    );
    manifest::read_one(&text).unwrap().1
}

fn start(
    kafka: &Kafka,
    consumer: &ValidatedConsumer,
    protocol: GroupProtocol,
    seen: &Seen,
) -> Consumer {
    let wake = Arc::new(Notify::new());
    let client = kafka.member(GROUP, settings(protocol), Arc::clone(&wake));
    let produces = consumer.commit == penstock_crds::spec::Commit::Transactional;
    let transactions = produces.then(|| {
        let timeout = Duration::from_secs(10);
        let id = format!("{GROUP}.{}", client.id());
        kafka.transactional(&id, &client, timeout, Arc::clone(&wake))
    });
    let assembly = Assembly {
        consumer,
        client: Arc::clone(&client),
        wake,
        transactions,
        dead_letters: None,
        metrics: Metrics::new("", "").unwrap(),
        budget: Budget::of_container(),
        commit_interval: Duration::from_secs(1),
        policy: Policy {
            reset: Some(Edge::Start),
            lost: OnOffsetLost::Earliest,
        },
        commit_retry_limit: Duration::from_secs(30),
        stores: false,
    };
    let seen = Arc::clone(seen);
    let handler = handler_fn(move |message: crate::handler::record::Message<'_, ()>| {
        let position = (message.partition(), message.offset());
        let seen = Arc::clone(&seen);
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            seen.lock().push(position);
            let (partition, offset) = position;
            let record = ProducerRecord::new(OUTPUT, format!("{partition}/{offset}"));
            Ok::<_, HandlerError>(if produces { vec![record] } else { Vec::new() })
        }
    });
    let (running, _) = assembly.start(Raw, handler, work, &Plain);
    let stop = CancellationToken::new();
    let task = tokio::spawn(running.until(stop.clone()));
    Consumer { client, stop, task }
}

async fn until(what: &str, is_met: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_met() {
        assert!(began.elapsed() < LIMIT, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_all_committed(kafka: &Kafka) -> bool {
    let committed = kafka.committed(GROUP);
    let ends = kafka.ends(TOPIC);
    (0..PARTITIONS).zip(ends).all(|(partition, end)| {
        let committed = committed.get(&(TOPIC.to_owned(), partition));
        committed.is_some_and(|(offset, _)| *offset == end)
    })
}

fn setup(seed: u64) -> Kafka {
    let kafka = cluster(seed, PARTITIONS);
    kafka.create_topic(OUTPUT, 1, TopicKind::default());
    for partition in 0..PARTITIONS {
        fill(&kafka, partition, EACH);
    }
    kafka
}

/// One consumer begins, another joins, and the first stops, or is killed.
async fn hand_over(
    kafka: &Kafka,
    spec: &ValidatedConsumer,
    protocol: GroupProtocol,
    kills: bool,
) -> Seen {
    let seen = Seen::default();
    let first = start(kafka, spec, protocol, &seen);
    until("the first messages", || seen.lock().len() > 10).await;
    let second = start(kafka, spec, protocol, &seen);
    tokio::time::sleep(Duration::from_millis(4500)).await;
    if kills {
        first.client.kill();
    } else {
        first.stop.cancel();
        drop(first.client);
        first.task.await.unwrap().unwrap();
    }
    until("everything is committed", || is_all_committed(kafka)).await;
    second.stop.cancel();
    drop(second.client);
    second.task.await.unwrap().unwrap();
    seen
}

fn assert_all_seen(seen: &Seen, why: &str) {
    let distinct: BTreeSet<_> = seen.lock().iter().copied().collect();
    let messages = usize::try_from(PARTITIONS).unwrap() * EACH;
    assert_eq!(distinct.len(), messages, "{why}");
}

const MODES: [(&str, &str); 3] = [
    ("InOrder", ""),
    ("KeyOrdered", "  maxConcurrency: 4\n"),
    ("Fast", "  maxConcurrency: 4\n  commit: Handled\n"),
];

const PROTOCOLS: [GroupProtocol; 3] = [
    GroupProtocol::Eager,
    GroupProtocol::Cooperative,
    GroupProtocol::Consumer,
];

#[tokio::test(start_paused = true)]
async fn a_consumer_that_stops_hands_over_without_a_duplicate() {
    for protocol in PROTOCOLS {
        for (mode, more) in MODES {
            let kafka = setup(21);
            let seen = hand_over(&kafka, &consumer(mode, more), protocol, false).await;
            assert_all_seen(&seen, mode);
            let messages = usize::try_from(PARTITIONS).unwrap() * EACH;
            assert_eq!(seen.lock().len(), messages, "{protocol:?} {mode}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_when_a_consumer_is_killed() {
    for protocol in PROTOCOLS {
        for (mode, more) in MODES {
            let kafka = setup(22);
            let seen = hand_over(&kafka, &consumer(mode, more), protocol, true).await;
            assert_all_seen(&seen, mode);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn transactions_produce_exactly_once_even_when_a_consumer_is_killed() {
    for protocol in PROTOCOLS {
        for kills in [false, true] {
            let kafka = setup(23);
            let spec = consumer(
                "KeyOrdered",
                "  maxConcurrency: 4\n  commit: Transactional\n",
            );
            let seen = hand_over(&kafka, &spec, protocol, kills).await;
            assert_all_seen(&seen, "transactions");
            let values = kafka.visible(OUTPUT).into_iter().map(|it| it.value);
            let mut values: Vec<_> = values.collect();
            let all = values.len();
            values.sort();
            values.dedup();
            let messages = usize::try_from(PARTITIONS).unwrap() * EACH;
            assert_eq!(
                (all, values.len()),
                (messages, messages),
                "{protocol:?} {kills}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_engine_runs_the_same_by_the_same_seed() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let kafka = setup(24);
        let spec = consumer("KeyOrdered", "  maxConcurrency: 4\n");
        let seen = hand_over(&kafka, &spec, GroupProtocol::Cooperative, true).await;
        runs.push((kafka.events(), seen.lock().clone()));
    }
    assert_eq!(runs[0], runs[1]);
}
