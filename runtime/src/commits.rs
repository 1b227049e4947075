//! The commits that somebody waits for, on the pump's side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::commit::{CommitRequest, CommitResult};
use crate::kafka::{self, CommitOutcome, Consumer};
use crate::partition::Partition;

/// Wait before a commit that met a rebalance is sent again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// Commits that are asked for and not answered.
pub(crate) struct Commits {
    requests: UnboundedReceiver<CommitRequest>,
    waiting: Vec<Waiting>,
    /// How long a commit is sent again.
    retry_limit: Duration,
}

struct Waiting {
    request: CommitRequest,
    since: Instant,
    /// When to send again; absent while the brokers have it.
    retry_at: Option<Instant>,
}

impl Commits {
    pub(crate) fn new(requests: UnboundedReceiver<CommitRequest>, retry_limit: Duration) -> Self {
        Self {
            requests,
            retry_limit,
            waiting: Vec::new(),
        }
    }

    /// Asks for a commit on the pump's own behalf. It is sent when commits are
    /// next served.
    pub(crate) fn ask(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> oneshot::Receiver<CommitResult> {
        let (reply, result) = oneshot::channel();
        self.add(CommitRequest {
            partition: Arc::clone(partition),
            offset,
            reply,
        });
        result
    }

    fn add(&mut self, request: CommitRequest) {
        self.waiting.push(Waiting {
            request,
            since: Instant::now(),
            retry_at: Some(Instant::now()),
        });
    }

    /// Sends what is asked for and what is due again.
    pub(crate) fn serve(&mut self, consumer: &Consumer) {
        while let Ok(request) = self.requests.try_recv() {
            self.add(request);
        }
        let mut place = 0;
        while let Some(waiting) = self.waiting.get_mut(place) {
            let due = waiting.retry_at.is_some_and(|at| at <= Instant::now());
            if !due {
                place += 1;
            } else if waiting.request.partition.is_revoked() {
                self.reply(place, CommitResult::Revoked);
            } else {
                waiting.retry_at = None;
                let CommitRequest {
                    partition, offset, ..
                } = &waiting.request;
                match kafka::commit(consumer, &partition.topic_c, partition.number, *offset) {
                    Ok(()) => place += 1,
                    Err(code) => self.reply(place, CommitResult::Failed(code.to_string())),
                }
            }
        }
    }

    /// Takes the brokers' answer to a commit.
    pub(crate) fn answer(&mut self, outcome: &CommitOutcome) {
        let Some(place) = self.waiting.iter().position(|waiting| {
            waiting.request.partition.topic == outcome.topic
                && waiting.request.partition.number == outcome.partition
                && Some(waiting.request.offset) == outcome.offset
        }) else {
            return;
        };
        let waiting = &mut self.waiting[place];
        match outcome.result {
            Ok(()) => self.reply(place, CommitResult::Committed),
            Err(_) if waiting.request.partition.is_revoked() => {
                self.reply(place, CommitResult::Revoked);
            }
            Err(code) if passes(code) && waiting.since.elapsed() < self.retry_limit => {
                tracing::warn!("the commit met a rebalance ({code}) and is sent again");
                waiting.retry_at = Some(Instant::now() + RETRY_WAIT);
            }
            Err(code) if passes(code) => {
                let limit = self.retry_limit;
                let reason = format!("it was refused for {limit:?}, the last time with {code}");
                self.reply(place, CommitResult::Failed(reason));
            }
            Err(code) => self.reply(place, CommitResult::Failed(code.to_string())),
        }
    }

    /// Answers those whose partition was given up.
    pub(crate) fn drop_revoked(&mut self) {
        let mut place = 0;
        while let Some(waiting) = self.waiting.get(place) {
            if waiting.request.partition.is_revoked() {
                self.reply(place, CommitResult::Revoked);
            } else {
                place += 1;
            }
        }
    }

    /// How long until a commit is to be sent again.
    pub(crate) fn next_retry(&self) -> Option<Duration> {
        let due = self.waiting.iter().filter_map(|waiting| waiting.retry_at);
        due.min()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn reply(&mut self, place: usize, result: CommitResult) {
        let waiting = self.waiting.swap_remove(place);
        // Fails only when the handler was given up meanwhile.
        let _ = waiting.request.reply.send(result);
    }
}

/// Answers that mean "not now": the group is between two generations, or its
/// coordinator is moving.
fn passes(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::WaitingForCoordinator
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::OperationTimedOut
    )
}
