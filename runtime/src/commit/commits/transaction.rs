//! Commits that are sent together, in one transaction with produced records.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use super::{Commits, RETRY_WAIT, State, Waiting, passes};
use crate::group::partition::Partition;
use crate::handler::produce::Outgoing as _;
use crate::kafka::Client;
use crate::transactions::{Covered, Outcome, Refusal, Transaction};

/// A transaction in flight.
pub(super) struct OpenTransaction {
    partitions: Vec<Arc<Partition>>,
    outcome: oneshot::Receiver<Outcome>,
}

/// The end of a transaction.
pub(crate) enum TransactionEnd {
    /// The transaction was committed, with this number of records.
    Committed(usize),
    /// The transaction had no effect, and another follows.
    Aborted,
    /// The transaction failed, and the consumer must end.
    Failed(String),
}

impl<C: Client> Commits<C> {
    /// Sends the due commits of all partitions together, unless a transaction is open.
    pub(super) fn begin_transaction(&mut self, client: &C) {
        if self.open.is_some() || !self.waiting.iter().any(Waiting::is_due) {
            return;
        }
        if self.failed {
            return self.send_due(|_, _| Err(RDKafkaErrorCode::Fatal.to_string()));
        }
        let Some(group) = client.membership() else {
            return self.postpone();
        };
        let mut transaction = Transaction {
            records: Vec::new(),
            offsets: Vec::new(),
            group,
        };
        let mut partitions = Vec::new();
        self.send_due(|partition, point| {
            let offset = (Arc::clone(partition), point.clone());
            transaction.offsets.push(offset);
            let taken = partition.take_records(point).into_iter();
            transaction
                .records
                .extend(taken.map(|(offset, record)| Covered {
                    partition: partitions.len(),
                    offset,
                    record,
                }));
            partitions.push(Arc::clone(partition));
            Ok(())
        });
        if let (Some(transactions), false) = (&self.transactions, partitions.is_empty()) {
            self.open = Some(OpenTransaction {
                partitions,
                outcome: transactions.begin(transaction),
            });
        }
    }

    /// Postpones due commits.
    fn postpone(&mut self) {
        let again = Instant::now() + RETRY_WAIT;
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.is_due()) {
            waiting.state = State::Due(again);
        }
    }

    /// Returns the end of the open transaction, once it has ended. Returns records that were
    /// not committed to their outboxes.
    pub(crate) fn end_transaction(&mut self) -> Option<TransactionEnd> {
        let open = self.open.as_mut()?;
        let outcome = match open.outcome.try_recv() {
            Ok(outcome) => outcome,
            // The thread may be in a call that does not return.
            Err(TryRecvError::Empty) => unknown(self.transactions.as_ref()?.watch()?),
            Err(TryRecvError::Closed) => unknown("its thread has ended".into()),
        };
        let partitions = self.open.take()?.partitions;
        let Outcome { records, result } = outcome;
        let (answer, end) = match result {
            Ok(()) => (Ok(()), TransactionEnd::Committed(records.len())),
            Err(refusal) => {
                let end = judge(&refusal, &records, &partitions);
                for covered in records {
                    partitions[covered.partition].put_back(covered.offset, covered.record);
                }
                let code = match refusal {
                    Refusal::Aborted(code) | Refusal::Record { code, .. } => code,
                    Refusal::Fatal(_) => RDKafkaErrorCode::Fatal,
                };
                (Err(code), end)
            }
        };
        self.failed = matches!(end, TransactionEnd::Failed(_));
        self.answer_all(answer);
        Some(end)
    }

    fn answer_all(&mut self, answer: Result<(), RDKafkaErrorCode>) {
        let mut place = 0;
        while let Some(waiting) = self.waiting.get_mut(place) {
            let sent = matches!(waiting.state, State::Sent(_));
            match sent.then(|| waiting.take(answer, self.retry_limit)) {
                Some(Some(result)) => self.reply(place, result),
                Some(None) | None => place += 1,
            }
        }
    }
}

/// Returns the end of a transaction with an unknown result.
fn unknown(reason: String) -> Outcome {
    Outcome {
        records: Vec::new(),
        result: Err(Refusal::Fatal(reason)),
    }
}

fn judge(refusal: &Refusal, records: &[Covered], partitions: &[Arc<Partition>]) -> TransactionEnd {
    match refusal {
        Refusal::Aborted(code) if passes(*code) || is_undone(*code) => {
            tracing::warn!(error = %code, "a transaction was aborted and is repeated");
            TransactionEnd::Aborted
        }
        Refusal::Record { place, code } => {
            let covered = &records[*place];
            let partition = &partitions[covered.partition];
            TransactionEnd::Failed(format!(
                "topic {} partition {} offset {}: a record from its handler can't be produced to topic '{}' ({} bytes): {code}. Create the topic, or correct the handler",
                partition.topic,
                partition.number,
                covered.offset,
                covered.record.topic,
                covered.record.weight(),
            ))
        }
        Refusal::Aborted(code) => TransactionEnd::Failed(format!("a transaction failed: {code}")),
        Refusal::Fatal(reason) => TransactionEnd::Failed(format!(
            "a transaction failed, and another process may own the partitions: {reason}"
        )),
    }
}

/// Returns `true` for answers to a record or a commit that follow from the end of the
/// transaction, and need not come again in another.
fn is_undone(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::State
            | RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::PurgeInflight
            | RDKafkaErrorCode::OutOfOrderSequenceNumber
            | RDKafkaErrorCode::OffsetMetadataTooLarge
    )
}
