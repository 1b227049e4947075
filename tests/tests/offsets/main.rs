//! Where reading starts, continues and ends: offsets that retention passed, topics that
//! are created again, partitions that are added, and tails without messages.

#![forbid(unsafe_code)]

mod ends;
mod lost;
mod starts;

use std::error::Error;
use std::time::Duration;

use penstock_tests::recorder::Recorder;
use penstock_tests::{Consumer, topics};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(90);

/// The numbers of the messages that were handled, each once, in rising order.
fn handled(recorder: &Recorder) -> Vec<u64> {
    let deliveries = recorder.deliveries();
    let successes = deliveries.iter().filter(|it| it.verdict.is_success());
    let mut numbers: Vec<_> = successes
        .filter_map(|delivery| delivery.json()["seq"].as_u64())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The value of a series of `topic` with this reason; 0 where it is absent.
async fn lost(
    consumer: &Consumer,
    series: &str,
    topic: &str,
    reason: &str,
) -> Result<f64, Box<dyn Error>> {
    let page = consumer.metrics().await?;
    let labels = [("kafka_topic", topic), ("reason", reason)];
    Ok(page.value(series, &labels).unwrap_or(0.0))
}

/// Deletes a topic and creates it again.
async fn recreate(bootstrap: &str, topic: &str, partitions: i32) -> Outcome {
    topics::delete(bootstrap, topic).await?;
    penstock_tests::wait::until("the topic to be gone", SOON, async || {
        topics::read_all(bootstrap, topic).await.is_err()
    })
    .await?;
    topics::create_named(bootstrap, topic, partitions).await?;
    Ok(())
}
