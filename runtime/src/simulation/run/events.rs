//! Has the events of a scenario happen.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::Driver;
use crate::kafka::simulated::Fault;
use crate::simulation::scenario::{Event, GROUP, Refusal, TOPIC};

impl Driver {
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Start(slot) => self.start(slot.into()),
            Event::Stop(slot) => self.stop(slot.into()),
            Event::Kill(slot) => self.kill(slot.into()),
            Event::Freeze(slot, millis) => self.freeze(slot.into(), millis),
            Event::MoveCoordinator => self.kafka.move_coordinator(GROUP),
            Event::MoveLeader(partition) => self.kafka.move_leader(TOPIC, partition),
            Event::RefuseCommits(refusal, times) => {
                let code = refusal_code(refusal);
                let times = times.into();
                self.kafka.fail(Fault::CommitRefused(code, times));
            }
            Event::LoseCommit { applied } => self.kafka.fail(Fault::CommitTimesOut { applied }),
            Event::FailLookUps(times) => {
                let code = RDKafkaErrorCode::RequestTimedOut;
                self.kafka.fail(Fault::LookUpFails(code, times.into()));
            }
            Event::FailFetches { times, reported } => {
                let code = match reported {
                    true => RDKafkaErrorCode::Unknown,
                    false => RDKafkaErrorCode::NotLeaderForPartition,
                };
                self.kafka.fail(Fault::FetchError(code, times.into()));
            }
            Event::Unreachable(millis) => {
                let time = Duration::from_millis(millis.into());
                self.kafka.fail(Fault::Unreachable(time));
            }
            Event::Marker(_)
            | Event::Aborted(..)
            | Event::OpenTransaction(..)
            | Event::EndTransaction { .. }
            | Event::DeleteRecords(..)
            | Event::Truncate(..)
            | Event::Recreate
            | Event::AddPartition
            | Event::Compact(..) => self.log_event(event),
            Event::AbortTransaction => {
                let code = RDKafkaErrorCode::RequestTimedOut;
                self.kafka.fail(Fault::TransactionAborted(code));
            }
            Event::RefuseLetters(times) => {
                let code = RDKafkaErrorCode::RequestTimedOut;
                self.kafka.fail(Fault::ProduceFails(code, times.into()));
            }
        }
    }

    /// Something happens to the topic.
    fn log_event(&mut self, event: Event) {
        let (ledger, now) = (&mut self.ledger, self.recorder.now());
        match event {
            Event::Marker(partition) => ledger.put_marker(partition),
            Event::Aborted(partition, count) => ledger.abort(partition, count),
            Event::OpenTransaction(partition, count) => {
                ledger.open_transaction(partition, count, now);
            }
            Event::EndTransaction { commits } => ledger.end_transaction(commits, now),
            Event::DeleteRecords(partition, percent) => ledger.delete(partition, percent, now),
            Event::Truncate(partition, count) => ledger.truncate(partition, count, now),
            Event::Recreate => ledger.recreate(now),
            Event::AddPartition => ledger.add_partition(now),
            Event::Compact(partition, kept) => ledger.compact(partition, kept, now),
            _ => {}
        }
    }
}

fn refusal_code(refusal: Refusal) -> RDKafkaErrorCode {
    match refusal {
        Refusal::RebalanceInProgress => RDKafkaErrorCode::RebalanceInProgress,
        Refusal::NotCoordinator => RDKafkaErrorCode::NotCoordinator,
        Refusal::RequestTimedOut => RDKafkaErrorCode::RequestTimedOut,
        Refusal::MetadataTooLarge => RDKafkaErrorCode::OffsetMetadataTooLarge,
    }
}
