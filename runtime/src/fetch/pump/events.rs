//! Events of librdkafka other than messages: rebalances, answers to commits and errors.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::{POLL_INTERVAL, Pump};
use crate::group::partition::CommitPoint;
use crate::kafka::{Client, CommitOutcome, ConsumeError, Event, PollError, end_code, mends_itself};
use crate::process::worker::Delivery;
use crate::program::end_code::EndCode;

impl<C: Client> Pump<C> {
    /// Serves all events of librdkafka except messages.
    pub(super) fn serve_events(&mut self) {
        let announced = self.parts.client.take_announcement();
        if !announced && self.last_poll.elapsed() < POLL_INTERVAL {
            return;
        }
        self.last_poll = Instant::now();
        while self.poll(Duration::ZERO) {}
        while let Some(event) = self.parts.client.next_event() {
            match event {
                Event::Assign(partitions) => self.join(partitions),
                Event::Revoke { partitions, lost } => self.revoke(&partitions, lost),
                Event::Commit(outcomes) => self.take_commits(outcomes),
            }
        }
    }

    /// Lets the client report events, and waits for the first at most for `limit`. Returns
    /// `true` if there may be more.
    pub(super) fn poll(&mut self, limit: Duration) -> bool {
        let polled = self.parts.client.poll(limit);
        match polled.error {
            // Errors from which the client recovers were logged; the others end the consumer,
            // as a message with an error does.
            Some(PollError::Client(code)) if !mends_itself(code) => {
                self.fail(end_code(code), code, code.to_string());
            }
            Some(PollError::StrayMessage(message)) => {
                // Partitions are attached before they are assigned.
                let text = "librdkafka delivered a message outside the message queue";
                tracing::error!(record = %message, "{text}");
                let text = text.into();
                self.fail(EndCode::InternalError, RDKafkaErrorCode::BadMessage, text);
            }
            Some(PollError::Client(_)) | None => {}
        }
        polled.more
    }

    fn take_commits(&mut self, outcomes: Vec<CommitOutcome>) {
        for outcome in outcomes {
            let Some(offset) = outcome.offset else {
                continue;
            };
            let success = outcome.result.is_ok();
            let (topic, partition) = (&outcome.topic, outcome.partition);
            self.parts.progress.commit_ended(topic, partition, success);
            if success {
                // An offset above the position is of an earlier assignment.
                if let Some(partition) = self.assignment.get(&outcome.topic, outcome.partition)
                    && partition.read_position().is_none_or(|next| offset <= next)
                {
                    let metadata = outcome.metadata.clone();
                    partition.committed(CommitPoint { offset, metadata });
                }
            } else {
                self.parts.metrics.commit_failures.inc();
            }
            self.parts.commits.answer(&outcome);
        }
    }

    /// Ends the consumer, as a message with an error does.
    pub(super) fn fail(&mut self, end: EndCode, code: RDKafkaErrorCode, text: String) {
        let topic = String::new();
        let error = ConsumeError {
            code,
            end,
            text,
            topic,
            partition: None,
        };
        self.pending.push_back(Delivery::Error(error));
    }
}
