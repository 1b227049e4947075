//! What most tests of Penstock in a cluster begin with.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::{Cluster, Installation, Namespace};
use crate::oracle::{Disruption, Evidence, Rule};
use crate::produce::Produced;
use crate::recorder::Recorder;
use crate::{Manifest, topics};

/// A namespace, a topic with 4 partitions, and a recorder that pods reach, in the
/// shared cluster with the shared installation.
#[derive(Debug)]
pub struct Scene {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// Penstock in it.
    pub installation: &'static Installation,
    /// The test's own.
    pub namespace: Namespace,
    /// The handler behind the pods'.
    pub recorder: Recorder,
    /// Bootstrap address of the Kafka that has the topic.
    pub kafka: String,
    /// The test's own.
    pub topic: String,
}

impl Scene {
    /// Longest time for what takes seconds on a quiet machine.
    pub const LIMIT: Duration = Duration::from_secs(120);

    /// With the cluster's Kafka. Names begin with `stem`.
    ///
    /// # Errors
    /// What could not be had.
    pub async fn new(stem: &str) -> Result<Self, Box<dyn Error>> {
        let cluster = Cluster::shared().await?;
        Self::with_kafka(stem, cluster.kafka()).await
    }

    /// With another Kafka, which pods must reach.
    ///
    /// # Errors
    /// What could not be had.
    pub async fn with_kafka(stem: &str, bootstrap: &str) -> Result<Self, Box<dyn Error>> {
        let cluster = Cluster::shared().await?;
        let installation = Installation::shared(cluster).await?;
        Ok(Self {
            cluster,
            installation,
            namespace: cluster.namespace(stem).await?,
            recorder: Recorder::start_on(cluster.host().into())?,
            kafka: bootstrap.to_owned(),
            topic: topics::create(bootstrap, stem, 4).await?,
        })
    }

    /// The same with a recorder that speaks gRPC.
    ///
    /// # Errors
    /// When the system gives no port or no thread.
    pub fn with_grpc(self) -> io::Result<Self> {
        Ok(Self {
            recorder: Recorder::start_grpc_on(self.cluster.host().into())?,
            ..self
        })
    }

    /// A consumer of the topic, in order, whose messages the recorder gets.
    pub fn in_order(&self) -> Manifest {
        Manifest::in_order(&self.kafka, &self.group(), &self.topic)
            .handler_in_pod(self.cluster.host(), &self.recorder)
    }

    /// The same with several handlers.
    pub fn fast(&self, handlers: usize) -> Manifest {
        Manifest::fast(&self.kafka, &self.group(), &self.topic, handlers)
            .handler_in_pod(self.cluster.host(), &self.recorder)
    }

    /// The same with several handlers and the order of keys.
    pub fn key_ordered(&self, handlers: usize) -> Manifest {
        self.fast(handlers).set("/mode", "KeyOrdered")
    }

    /// The group of all of them.
    pub fn group(&self) -> String {
        format!("shop.{}", self.topic)
    }

    /// Waits until as many messages were handled as were produced, and judges.
    ///
    /// # Errors
    /// What was not handled by the limit, or the rules that were broken.
    pub async fn all_handled(
        &self,
        produced: &[Produced],
        disruptions: impl IntoIterator<Item = Disruption>,
        rules: &[Rule],
    ) -> Result<(), Box<dyn Error>> {
        self.recorder
            .wait_for_handled(produced.len(), Self::LIMIT)
            .await?;
        Evidence::new(produced, self.recorder.deliveries())
            .disruptions(disruptions)
            .check(rules)?;
        Ok(())
    }

    /// Applies a manifest as `orders`, and waits until its pods handle messages.
    ///
    /// # Errors
    /// What the API server said, or the consumer as it is at the limit.
    pub async fn run(&self, manifest: &Manifest) -> Result<(), Box<dyn Error>> {
        self.namespace.apply(&manifest.named("orders"))?;
        self.namespace
            .wait_until("kc/orders", "condition=Available", Self::LIMIT)
            .await?;
        Ok(())
    }
}
