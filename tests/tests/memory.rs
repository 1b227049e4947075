//! What the runtime takes of the machine's memory before a slow handler.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Evidence, Rule};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Recorder, Reply};
use penstock_tests::{Consumer, Manifest, groups, topics, usage};

type Outcome = Result<(), Box<dyn Error>>;

const LIMIT: Duration = Duration::from_secs(120);

const PARTITIONS: i32 = 4;

/// Each of which could have a batch of all that is queued.
const HANDLERS: usize = 8;

/// `consumeBatchSize`: no bound for messages of this size.
const BATCH: usize = 1_000;

const MESSAGES: u64 = 800;

const VALUE_BYTES: usize = 256 << 10;

/// Bytes that the queue takes of messages, less one of them.
const FULL: f64 = (15 << 20) as f64;

/// Most that the runtime may have in RAM, in bytes: 42 MiB by the sum in docs/modes.md, 40
/// that it takes beside, and what one message in each place is too large.
const MOST: u64 = 100 << 20;

/// Large messages, and handlers that take nothing until there is no room for more.
async fn stays_within_its_memory(recorder: Recorder, protocol: &str) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
    let topic = topics::create(&bootstrap, "memory", PARTITIONS).await?;
    let group = topics::unique("test.memory");
    let gate = Gate::closed();
    recorder.behave({
        let gate = gate.clone();
        move |_| Reply::ok().once(&gate)
    });
    let produced = Produce::to(&topic)
        .count(MESSAGES)
        .value(|_| Some(format!("\"{}\"", "x".repeat(VALUE_BYTES)).into()))
        .send(&bootstrap)
        .await?;
    let manifest = Manifest::fast(&bootstrap, &group, &topic, HANDLERS)
        .set("/consumeBatchSize", BATCH)
        .handler(&recorder)
        .set("/handler/protocol", protocol);
    let consumer = Consumer::start(&manifest)?;
    consumer
        .wait_until("a full queue before busy handlers", LIMIT, async || {
            let page = consumer.metrics().await;
            let queued = page.map(|page| page.value("penstock_queued_bytes", &[]));
            recorder.in_flight() >= HANDLERS && matches!(queued, Ok(Some(bytes)) if bytes > FULL)
        })
        .await?;
    gate.open();
    groups::wait_for_committed(&bootstrap, &group, &topic, i64::try_from(MESSAGES)?, LIMIT)
        .await
        .map_err(|error| format!("{error}\n{}", consumer.tail()))?;
    let memory = usage::memory(&consumer.id().to_string()).ok_or("the runtime has ended")?;
    let peak = memory.peak_kib << 10;
    println!("{protocol}: {} MiB at most", peak >> 20);
    assert!(consumer.stop(LIMIT).await?.success(), "{}", consumer.tail());
    assert!(peak <= MOST, "{} MiB", peak >> 20);
    Evidence::new(&produced, recorder.deliveries()).check(&[Rule::NothingLost])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_large_messages_over_grpc_take_no_more_memory_than_is_promised() -> Outcome {
    stays_within_its_memory(Recorder::start_grpc()?, "Grpc").await
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_large_messages_over_http_take_no_more_memory_than_is_promised() -> Outcome {
    stays_within_its_memory(Recorder::start()?, "BatchHttp").await
}
