//! The dead-letter producer of the simulated cluster.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::broker::Cluster;
use super::transactions::{produce_fault, to_data};
use crate::handler::produce::ProducerRecord;
use crate::process::dead_letter::LetterSink;

/// `message.timeout.ms` of the dead-letter producer.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);

/// An idempotent producer outside of transactions.
pub(super) struct SimulatedLetters {
    cluster: Arc<Mutex<Cluster>>,
}

impl SimulatedLetters {
    pub(super) fn new(cluster: Arc<Mutex<Cluster>>) -> Self {
        Self { cluster }
    }

    async fn deliver(&self, letter: &ProducerRecord) -> Result<(), RDKafkaErrorCode> {
        let began = Instant::now();
        loop {
            let (there, back) = {
                let mut cluster = self.cluster.lock();
                (cluster.latency(), cluster.latency())
            };
            tokio::time::sleep(there).await;
            let written = self.write(letter);
            tokio::time::sleep(back).await;
            let backoff = match written {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::BrokerTransportFailure) => {
                    self.cluster.lock().settings.retry_backoff
                }
                Err(code) => return Err(code),
            };
            if began.elapsed() >= DELIVERY_LIMIT {
                return Err(RDKafkaErrorCode::MessageTimedOut);
            }
            tokio::time::sleep(backoff).await;
        }
    }

    fn write(&self, letter: &ProducerRecord) -> Result<(), RDKafkaErrorCode> {
        let mut cluster = self.cluster.lock();
        if cluster.is_unreachable() {
            return Err(RDKafkaErrorCode::BrokerTransportFailure);
        }
        if let Some(code) = cluster.take_fault(produce_fault) {
            return Err(code);
        }
        let key = letter.key.as_deref();
        let partition = cluster.choose_partition(&letter.topic, letter.partition, key)?;
        let offset = cluster.append(&partition, to_data(letter));
        cluster.note(format_args!("a dead letter is at {partition} {offset:?}"));
        Ok(())
    }
}

impl LetterSink for SimulatedLetters {
    fn send<'a>(
        &'a self,
        letter: &'a ProducerRecord,
    ) -> BoxFuture<'a, Result<(), RDKafkaErrorCode>> {
        Box::pin(self.deliver(letter))
    }
}
