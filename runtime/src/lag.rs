//! How far each partition's commits are behind its end.
//!
//! librdkafka knows the end of a partition by the last fetch from it. While the client is
//! full of messages it fetches nothing, perhaps for long, and of a partition that was
//! taken on meanwhile it knows nothing, or what it knew long ago. So the brokers are asked
//! for the ends that librdkafka has not seen move.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use crate::kafka::{Client, Edge, TopicPartition};
use crate::partition::Partition;

/// How often the lag is measured.
const MEASURE_INTERVAL: Duration = Duration::from_millis(500);

/// How often the brokers are asked.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Longest wait for their answer. The client can't be closed meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Measures the lag of partitions.
pub(crate) struct Lag {
    measured: Instant,
    asked: Instant,
    ends: BTreeMap<TopicPartition, End>,
    question: Option<oneshot::Receiver<BTreeMap<TopicPartition, i64>>>,
}

/// The end of a partition.
#[derive(Default)]
struct End {
    /// By the last fetch.
    fetched: Option<i64>,
    /// By the brokers' answer since then.
    told: Option<i64>,
    /// The same fetch was the last when the brokers were asked before.
    is_old: bool,
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

    /// Publishes the lag of each partition where it is known, if it is time.
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
            let fetched = client.high_watermark(partition);
            let end = before.remove(&name).unwrap_or_default().fetched(fetched);
            if let (Some(end), Some(position)) = (end.latest(), partition.position()) {
                partition.metrics.lag.set((end - position).max(0));
            }
            self.ends.insert(name, end);
        }
        if self.question.is_none() && self.asked.elapsed() >= ASK_INTERVAL {
            self.asked = Instant::now();
            self.ask(client);
        }
    }

    /// Waits for an answer that is still on its way, which has the client.
    pub(crate) async fn finish(self) {
        if let Some(question) = self.question {
            // Nobody wants to know any more.
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
        for (name, end) in answer.unwrap_or_default() {
            if let Some(known) = self.ends.get_mut(&name) {
                known.told = Some(end);
            }
        }
    }

    /// Asks for the ends that have not moved since this was done last.
    fn ask(&mut self, client: &Arc<impl Client>) {
        let mut wanted = Vec::new();
        for (partition, end) in &mut self.ends {
            if std::mem::replace(&mut end.is_old, true) {
                wanted.push((partition.clone(), Edge::End));
            }
        }
        if wanted.is_empty() {
            return;
        }
        let client = Arc::clone(client);
        let (sender, answer) = oneshot::channel();
        tokio::spawn(async move {
            let ends = ends(&client, wanted).await;
            // Before the pump is told: closing needs the only reference.
            drop(client);
            // Fails only when the pump is gone.
            let _ = sender.send(ends);
        });
        self.question = Some(answer);
    }
}

impl End {
    fn fetched(self, fetched: Option<i64>) -> Self {
        match self.fetched == fetched {
            true => self,
            false => Self {
                fetched,
                ..Self::default()
            },
        }
    }

    fn latest(&self) -> Option<i64> {
        self.told.max(self.fetched)
    }
}

/// What the brokers answer, as far as they do.
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
            tracing::debug!("asking for the ends of partitions failed: {error}");
            BTreeMap::new()
        }
    }
}
