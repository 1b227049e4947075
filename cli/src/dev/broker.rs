//! The broker inside this process: librdkafka's mock cluster.

use penstock_crds::validate::{FailureAction, ValidatedConsumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::error::DevError;

/// A broker that keeps its messages in memory, and goes with the process.
pub struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// Starts a broker with the consumer's topics and its dead-letter topic.
    pub fn start(consumer: &ValidatedConsumer, partitions: u16) -> Result<Self, DevError> {
        let cluster = MockCluster::new(1).map_err(DevError::Broker)?;
        for topic in consumer.topics.iter().chain(dead_letter_topic(consumer)) {
            cluster
                .create_topic(topic.as_str(), partitions.into(), 1)
                .map_err(DevError::Broker)?;
        }
        Ok(Self { cluster })
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}

/// The topic that takes what can't be handled, if there is one.
pub fn dead_letter_topic(consumer: &ValidatedConsumer) -> Option<&penstock_crds::names::TopicName> {
    match &consumer.delivery.on_failure {
        FailureAction::DeadLetter(topic) => Some(topic),
        FailureAction::Stop | FailureAction::Skip => None,
    }
}
