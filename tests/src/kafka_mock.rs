//! A Kafka inside the test process, librdkafka's mock cluster: for those who only ask
//! which topics there are.

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// One broker, gone with its value.
pub struct MockKafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl MockKafka {
    /// Starts a broker with these topics, of one partition each.
    ///
    /// # Errors
    /// When librdkafka can't start it.
    pub fn start<'a>(topics: impl IntoIterator<Item = &'a str>) -> Result<Self, KafkaError> {
        let kafka = Self {
            cluster: MockCluster::new(1)?,
        };
        for topic in topics {
            kafka.create_topic(topic)?;
        }
        Ok(kafka)
    }

    /// Its address.
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Adds a topic of one partition.
    ///
    /// # Errors
    /// When there is one of this name.
    pub fn create_topic(&self, topic: &str) -> Result<(), KafkaError> {
        self.cluster.create_topic(topic, 1, 1)
    }
}
