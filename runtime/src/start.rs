//! Where reading begins in partitions that are taken on.
//!
//! Looked up here rather than by librdkafka, which has a defect (2.12): where it
//! must look up the beginning or the end of a partition, and the partition is given
//! away before the answer, the answer starts another look-up. That one ends when the
//! partition may be ours again, and sends its reading back to the beginning, or on
//! to the end past messages that nobody handled. Given a number to begin at, it has
//! nothing to look up.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::gaps::Gaps;
use crate::kafka::{self, Consumer, TopicPartition};
use crate::rebalance::to_list;
use crate::strategy::Strategy;

/// Longest time for one request. Without an answer librdkafka looks it up after all,
/// unless an open transaction has to be waited for.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// How long who commits in transactions looks it up. Brokers abort within 20 s what a
/// process leaves open; what covers these offsets for longer has no end any more.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// Wait before the next request.
const REPEAT_WAIT: Duration = Duration::from_millis(100);

/// What earlier owners knew of partitions beyond their committed offsets.
pub(crate) type Inherited = HashMap<(String, i32), Gaps>;

/// Where reading begins, and what is not to be handed out again.
pub(crate) struct Beginning {
    pub(crate) offsets: TopicPartitionList,
    pub(crate) inherited: Inherited,
}

impl Beginning {
    /// Where librdkafka finds that it is.
    fn unknown(partitions: &[TopicPartition]) -> Self {
        Self {
            offsets: to_list(partitions),
            inherited: Inherited::new(),
        }
    }
}

/// Partitions that are about to be taken on.
pub(crate) struct Joining {
    pub(crate) partitions: Vec<TopicPartition>,
    found: oneshot::Receiver<Beginning>,
    overdue: oneshot::Receiver<String>,
}

impl Joining {
    /// Begins to look up where to begin; `wake` is notified of the end. `reset`
    /// says where a partition without a committed offset begins. With `stop` there is
    /// no more waiting.
    pub(crate) fn start(
        consumer: &Arc<Consumer>,
        partitions: Vec<TopicPartition>,
        reset: Offset,
        strategy: Strategy,
        stop: CancellationToken,
        wake: Arc<Notify>,
    ) -> Self {
        let consumer = Arc::clone(consumer);
        let named = partitions.clone();
        let (sender, found) = oneshot::channel();
        let (overdue, is_overdue) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let mut overdue = Some(overdue);
            let beginning = loop {
                let error = match look_up(&consumer, &named, reset, strategy.redelivers()) {
                    Ok(beginning) => break beginning,
                    Err(error) => error,
                };
                tracing::warn!("{}", describe(&error, strategy));
                if began.elapsed() > OPEN_LIMIT
                    && let Some(overdue) = overdue.take()
                {
                    // Fails only when the pump is gone.
                    let _ = overdue.send(give_up(&named, &error));
                    wake.notify_one();
                }
                // librdkafka would begin at the offset without what was handled beyond.
                if strategy != Strategy::Transaction || stop.is_cancelled() {
                    break Beginning::unknown(&named);
                }
                thread::sleep(REPEAT_WAIT);
            };
            // Before the pump is told: closing needs the only reference.
            drop(consumer);
            // Fails only when the pump is gone.
            let _ = sender.send(beginning);
            wake.notify_one();
        });
        Self {
            partitions,
            found,
            overdue: is_overdue,
        }
    }

    /// Why the consumer is to end: it was looked up in vain for too long. Told once.
    pub(crate) fn overdue(&mut self) -> Option<String> {
        self.overdue.try_recv().ok()
    }

    /// Where to begin, once it is known.
    pub(crate) fn beginning(&mut self) -> Option<Beginning> {
        match self.found.try_recv() {
            Ok(beginning) => Some(beginning),
            Err(TryRecvError::Empty) => None,
            // It panicked: librdkafka looks it up after all.
            Err(TryRecvError::Closed) => Some(Beginning::unknown(&self.partitions)),
        }
    }

    /// Waits until it is known where to begin.
    pub(crate) async fn finish(self) -> (Vec<TopicPartition>, Beginning) {
        let beginning = self.found.await;
        let beginning = beginning.unwrap_or_else(|_| Beginning::unknown(&self.partitions));
        (self.partitions, beginning)
    }
}

/// librdkafka asks again while a transaction covers the offsets, and says only that the
/// time was over.
fn describe(error: &KafkaError, strategy: Strategy) -> String {
    let in_transactions = strategy == Strategy::Transaction;
    let hint = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::OperationTimedOut) if in_transactions => {
            "; either the group's coordinator does not answer, or a transaction that covers these offsets has not ended"
        }
        _ => "",
    };
    format!("looking up where to begin failed: {error}{hint}")
}

fn give_up(partitions: &[TopicPartition], error: &KafkaError) -> String {
    let names: Vec<_> = partitions
        .iter()
        .map(|it| format!("{}/{}", it.topic, it.partition))
        .collect();
    format!(
        "where to begin in {} could not be looked up for {} s ({error}). If the brokers are well, they have lost the end of a transaction that covers these offsets: see 'A transaction does not end' in the troubleshooting guide",
        names.join(", "),
        OPEN_LIMIT.as_secs()
    )
}

fn look_up(
    consumer: &Consumer,
    partitions: &[TopicPartition],
    reset: Offset,
    inherits: bool,
) -> KafkaResult<Beginning> {
    let committed = consumer.committed_offsets(to_list(partitions), REQUEST_LIMIT)?;
    let inherited = match inherits {
        true => inherited(&committed),
        false => Inherited::new(),
    };
    Ok(Beginning {
        offsets: with_reset(consumer, committed, reset)?,
        inherited,
    })
}

/// Reads the metadata of committed offsets.
fn inherited(committed: &TopicPartitionList) -> Inherited {
    let mut inherited = Inherited::new();
    for (place, element) in committed.elements().iter().enumerate() {
        let Offset::Offset(offset) = element.offset() else {
            continue;
        };
        let (topic, partition) = (element.topic().to_owned(), element.partition());
        match Gaps::decode(kafka::metadata(committed, place), offset) {
            Ok(Some(gaps)) => {
                inherited.insert((topic, partition), gaps);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(
                "the metadata committed for {topic}/{partition} is not used: {error}; what was handled beyond offset {offset} may come again"
            ),
        }
    }
    inherited
}

/// The committed offsets, and the beginning or the end where there are none.
fn with_reset(
    consumer: &Consumer,
    mut found: TopicPartitionList,
    reset: Offset,
) -> KafkaResult<TopicPartitionList> {
    let mut missing = TopicPartitionList::new();
    for element in found.elements() {
        element.error()?;
        if element.offset() == Offset::Invalid {
            // Asked for by time, where the two ends have times of their own.
            missing.add_partition_offset(element.topic(), element.partition(), reset)?;
        }
    }
    if missing.count() == 0 || reset == Offset::Invalid {
        return Ok(found);
    }
    for element in consumer
        .offsets_for_times(missing, REQUEST_LIMIT)?
        .elements()
    {
        element.error()?;
        let (topic, partition) = (element.topic(), element.partition());
        found.set_partition_offset(topic, partition, element.offset())?;
    }
    Ok(found)
}
