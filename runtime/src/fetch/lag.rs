//! The lag of each partition: the distance between its committed offset and its end, in
//! messages and in time.
//!
//! librdkafka knows the end of a partition from the last fetch. While the client is full of
//! messages it does not fetch, perhaps for long, and it has no end, or an old one, of a
//! partition that was assigned meanwhile. So the runtime asks the brokers for the ends that
//! librdkafka has not seen move.
//!
//! An unknown value is absent; the last known one is not kept: see [`Known`].

mod end;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use crate::group::partition::Partition;
use crate::kafka::{Client, Edge, TopicPartition};
use crate::observe::metrics::PartitionMetrics;
use end::{Blocked, End};

/// The time between two measurements.
const MEASURE_INTERVAL: Duration = Duration::from_millis(500);

/// The time between two requests to the brokers.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// The maximum wait for their answer. The client cannot be closed meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The time for which an end is valid after it was fetched or looked up.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// The time between two warnings of a partition that an open transaction blocks.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known<T> {
    Value(T),
    Unknown(Unknown),
}

/// The reason that there is no measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// Nothing is committed, and the start of reading is not known.
    Position,
    /// The end was never fetched nor looked up.
    End,
    /// The end was not fetched nor looked up for [`STALE_AFTER`].
    Stale,
    /// Messages are not read yet, or have no time.
    Time,
}

/// Measures the lag of partitions.
pub(crate) struct Lag {
    measured: Instant,
    asked: Instant,
    ends: BTreeMap<TopicPartition, End>,
    question: Option<oneshot::Receiver<BTreeMap<TopicPartition, i64>>>,
}

impl Lag {
    pub(crate) fn new() -> Self {
        Self {
            measured: Instant::now(),
            asked: Instant::now(),
            ends: BTreeMap::new(),
            question: None,
        }
    }

    /// Publishes the lag of each partition, if known and if a measurement is due.
    pub(crate) fn measure<'a>(
        &mut self,
        client: &Arc<impl Client>,
        partitions: impl Iterator<Item = &'a Arc<Partition>>,
    ) {
        if self.measured.elapsed() < MEASURE_INTERVAL {
            return;
        }
        self.measured = Instant::now();
        self.take_answer();
        let mut before = std::mem::take(&mut self.ends);
        for partition in partitions {
            let name = partition.name();
            let mut end = before.remove(&name).unwrap_or_default();
            let seen = end.see(
                client.high_watermark(partition),
                partition.read_position(),
                Instant::now(),
            );
            publish(partition, &mut end, client.low_watermark(partition), seen);
            self.ends.insert(name, end);
        }
        if self.question.is_none() && self.asked.elapsed() >= ASK_INTERVAL {
            self.asked = Instant::now();
            self.ask(client);
        }
    }

    /// Waits for a pending answer, which holds a reference to the client.
    pub(crate) async fn finish(self) {
        if let Some(question) = self.question {
            // Nobody needs the answer any more.
            let _ = question.await;
        }
    }

    fn take_answer(&mut self) {
        let Some(question) = &mut self.question else {
            return;
        };
        let answer = question.try_recv();
        if answer == Err(TryRecvError::Empty) {
            return;
        }
        self.question = None;
        for (name, offset) in answer.unwrap_or_default() {
            if let Some(end) = self.ends.get_mut(&name) {
                end.look_up(offset, Instant::now());
            }
        }
    }

    /// Asks for the ends that have not moved since the last time.
    fn ask(&mut self, client: &Arc<impl Client>) {
        let wanted: Vec<_> = self
            .ends
            .iter_mut()
            .filter_map(|(partition, end)| end.is_to_ask().then(|| (partition.clone(), Edge::End)))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let client = Arc::clone(client);
        let (sender, answer) = oneshot::channel();
        tokio::spawn(async move {
            let ends = ends(&client, wanted).await;
            // Before the pump is notified: closing needs the only reference.
            drop(client);
            // Fails only if the pump has ended.
            let _ = sender.send(ends);
        });
        self.question = Some(answer);
    }
}

/// Publishes the lag of a partition. `has_seen`: its end was fetched or looked up since the
/// last time.
fn publish(partition: &Partition, end: &mut End, log_start: Option<i64>, has_seen: bool) {
    let metrics = &partition.metrics;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    if has_seen {
        metrics.last_fetch.set(now.as_secs_f64());
    }
    let latest = end.latest(Instant::now());
    let lag = lag(partition.position(), latest, log_start);
    publish_or_remove(lag, |lag| metrics.lag.set(lag), || metrics.lag.remove());
    let time = time_lag(
        partition.oldest_time(),
        partition.in_flight(),
        partition.read_position(),
        latest,
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
    );
    let remove = || metrics.time_lag.remove();
    publish_or_remove(time, |time| metrics.time_lag.set(time), remove);
    publish_blocked(partition, metrics, end);
}

fn publish_or_remove<T>(value: Known<T>, set: impl FnOnce(T), remove: impl FnOnce()) {
    match value {
        Known::Value(value) => set(value),
        Known::Unknown(_) => remove(),
    }
}

fn publish_blocked(partition: &Partition, metrics: &PartitionMetrics, end: &mut End) {
    let Some(Blocked { offset, since }) = end.blocked() else {
        return metrics.blocked.remove();
    };
    metrics.blocked.set(since.elapsed().as_secs_f64());
    if end.warns(Instant::now(), WARN_INTERVAL) {
        tracing::warn!(
            topic = partition.topic,
            partition = partition.number,
            offset,
            seconds = since.elapsed().as_secs(),
            "the open transaction of a producer blocks the messages from this offset on. If it does not end, find it with kafka-transactions.sh find-hanging, and abort it"
        );
    }
}

/// Returns the number of messages between the committed offset and the end, without those that
/// retention has deleted.
fn lag(position: Option<i64>, end: Known<i64>, log_start: Option<i64>) -> Known<i64> {
    match (position, end) {
        (_, Known::Unknown(why)) => Known::Unknown(why),
        (None, _) => Known::Unknown(Unknown::Position),
        (Some(position), Known::Value(end)) => {
            let position = position.max(log_start.unwrap_or(0));
            Known::Value((end - position).max(0))
        }
    }
}

/// Returns the age of the oldest unsettled message, in seconds: exact while it is in flight,
/// and 0 if there is none. The age of a backlog of which nothing is read is not known.
fn time_lag(
    oldest: Option<i64>,
    in_flight: usize,
    position: Option<i64>,
    end: Known<i64>,
    now: i64,
) -> Known<f64> {
    if let Some(oldest) = oldest {
        // Exact up to the millisecond for the next 285,000 years.
        #[allow(clippy::cast_precision_loss)]
        return Known::Value((now - oldest).max(0) as f64 / 1000.0);
    }
    match (position, end) {
        (_, Known::Unknown(why)) => Known::Unknown(why),
        (Some(position), Known::Value(end)) if in_flight == 0 && position >= end => {
            Known::Value(0.0)
        }
        _ => Known::Unknown(Unknown::Time),
    }
}

/// Returns the brokers' answers, as far as they answer.
async fn ends(
    client: &Arc<impl Client>,
    wanted: Vec<(TopicPartition, Edge)>,
) -> BTreeMap<TopicPartition, i64> {
    match client.edges(wanted, ANSWER_LIMIT).await {
        Ok(found) => found
            .into_iter()
            .filter_map(|(partition, end)| Some((partition, end.ok()?)))
            .collect(),
        Err(error) => {
            tracing::debug!(%error, "the ends of partitions could not be fetched");
            BTreeMap::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_what_is_retained_and_not_committed() {
        let end = Known::Value(100);
        assert_eq!(lag(Some(92), end, Some(10)), Known::Value(8));
        assert_eq!(lag(Some(92), end, Some(100)), Known::Value(0));
        assert_eq!(lag(Some(120), end, None), Known::Value(0));
        assert_eq!(lag(None, end, None), Known::Unknown(Unknown::Position));
        let stale = Known::Unknown(Unknown::Stale);
        assert_eq!(lag(Some(92), stale, None), stale);
    }

    #[test]
    fn time_lag_is_the_age_of_the_oldest_message_in_flight() {
        let (end, stale) = (Known::Value(100), Known::Unknown(Unknown::Stale));
        assert_eq!(
            time_lag(Some(1_000), 3, Some(50), end, 3_500),
            Known::Value(2.5)
        );
        // Whatever is known of the end.
        assert_eq!(
            time_lag(Some(1_000), 3, None, stale, 3_500),
            Known::Value(2.5)
        );
        // A producer's clock that is ahead.
        assert_eq!(
            time_lag(Some(9_000), 1, Some(100), end, 3_500),
            Known::Value(0.0)
        );
        assert_eq!(time_lag(None, 0, Some(100), end, 3_500), Known::Value(0.0));
        let unknown = Known::Unknown(Unknown::Time);
        assert_eq!(time_lag(None, 0, Some(99), end, 3_500), unknown);
        assert_eq!(time_lag(None, 2, Some(100), end, 3_500), unknown);
        let expected = Known::Unknown(Unknown::Stale);
        assert_eq!(time_lag(None, 0, Some(100), stale, 3_500), expected);
    }
}
