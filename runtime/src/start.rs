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
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::gaps::Gaps;
use crate::kafka::{Client, Committed, Edge, LookUpError, StartOffset, TopicPartition};
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
pub(crate) type Inherited = HashMap<TopicPartition, Gaps>;

/// Where reading begins, and what is not to be handed out again.
pub(crate) struct Beginning {
    pub(crate) starts: Vec<StartOffset>,
    pub(crate) inherited: Inherited,
}

impl Beginning {
    /// Where the client finds that it is.
    fn unknown(partitions: &[TopicPartition]) -> Self {
        let starts = partitions.iter().map(|partition| StartOffset {
            partition: partition.clone(),
            offset: None,
            leader_epoch: None,
        });
        Self {
            starts: starts.collect(),
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
    pub(crate) fn start<C: Client>(
        client: &Arc<C>,
        partitions: Vec<TopicPartition>,
        reset: Option<Edge>,
        strategy: Strategy,
        stop: CancellationToken,
        wake: Arc<Notify>,
    ) -> Self {
        let client = Arc::clone(client);
        let named = partitions.clone();
        let (sender, found) = oneshot::channel();
        let (overdue, is_overdue) = oneshot::channel();
        tokio::spawn(async move {
            let began = Instant::now();
            let mut overdue = Some(overdue);
            let beginning = loop {
                let error = match look_up(&client, &named, reset, strategy.redelivers()).await {
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
                tokio::time::sleep(REPEAT_WAIT).await;
            };
            // Before the pump is told: closing needs the only reference.
            drop(client);
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
    pub(crate) async fn finish(self) -> Beginning {
        let beginning = self.found.await;
        beginning.unwrap_or_else(|_| Beginning::unknown(&self.partitions))
    }
}

/// librdkafka asks again while a transaction covers the offsets, and says only that the
/// time was over.
fn describe(error: &LookUpError, strategy: Strategy) -> String {
    let in_transactions = strategy == Strategy::Transaction;
    let hint = match error.code {
        RDKafkaErrorCode::OperationTimedOut if in_transactions => {
            "; either the group's coordinator does not answer, or a transaction that covers these offsets has not ended"
        }
        _ => "",
    };
    format!("looking up where to begin failed: {error}{hint}")
}

fn give_up(partitions: &[TopicPartition], error: &LookUpError) -> String {
    let names: Vec<_> = partitions.iter().map(TopicPartition::to_string).collect();
    format!(
        "where to begin in {} could not be looked up for {} s ({error}). If the brokers are well, they have lost the end of a transaction that covers these offsets: see 'A transaction does not end' in the troubleshooting guide",
        names.join(", "),
        OPEN_LIMIT.as_secs()
    )
}

async fn look_up<C: Client>(
    client: &Arc<C>,
    partitions: &[TopicPartition],
    reset: Option<Edge>,
    inherits: bool,
) -> Result<Beginning, LookUpError> {
    let committed = client.committed(partitions.to_vec(), REQUEST_LIMIT).await?;
    let inherited = match inherits {
        true => inherited(&committed),
        false => Inherited::new(),
    };
    let mut starts: Vec<_> = committed
        .into_iter()
        .map(|committed| StartOffset {
            partition: committed.partition,
            offset: committed.offset,
            leader_epoch: None,
        })
        .collect();
    if let Some(edge) = reset {
        begin_at_edges(client, &mut starts, edge).await?;
    }
    Ok(Beginning { starts, inherited })
}

/// Reads the metadata of committed offsets.
fn inherited(committed: &[Committed]) -> Inherited {
    let mut inherited = Inherited::new();
    for found in committed {
        let Some(offset) = found.offset else {
            continue;
        };
        let partition = &found.partition;
        match Gaps::decode(&found.metadata, offset) {
            Ok(Some(gaps)) => {
                inherited.insert(partition.clone(), gaps);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(
                "the metadata committed for {partition} is not used: {error}; what was handled beyond offset {offset} may come again"
            ),
        }
    }
    inherited
}

/// Has partitions without a committed offset begin at an end of their log.
async fn begin_at_edges<C: Client>(
    client: &Arc<C>,
    starts: &mut [StartOffset],
    edge: Edge,
) -> Result<(), LookUpError> {
    let missing = starts.iter().filter(|start| start.offset.is_none());
    let wanted: Vec<_> = missing.map(|it| (it.partition.clone(), edge)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    for (partition, found) in client.edges(wanted, REQUEST_LIMIT).await? {
        let offset = found.map_err(|code| LookUpError {
            code,
            text: format!("{partition}: {code}"),
        })?;
        let start = starts.iter_mut().find(|start| start.partition == partition);
        if let Some(start) = start {
            start.offset = Some(offset);
        }
    }
    Ok(())
}
