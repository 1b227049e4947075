//! Penstock in a real cluster: the chart, the operator, pods, Kafka.
//!
//! All tests share the cluster and the installation; each has a namespace, topics
//! and groups of its own.

#![forbid(unsafe_code)]

mod modes;

use std::time::Duration;

use penstock_tests::kubernetes::{Cluster, Installation, Namespace};
use penstock_tests::recorder::Recorder;
use penstock_tests::{Manifest, topics};

/// Any failure of a test.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Longest time for what takes seconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(120);

/// What most tests begin with.
struct Scene {
    cluster: &'static Cluster,
    #[expect(
        dead_code,
        reason = "it must be there; tests of the operator itself use it"
    )]
    installation: &'static Installation,
    namespace: Namespace,
    recorder: Recorder,
    topic: String,
}

impl Scene {
    /// A namespace, a topic with 4 partitions, and a recorder that pods reach.
    async fn new(stem: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let cluster = Cluster::shared().await?;
        let installation = Installation::shared(cluster).await?;
        Ok(Self {
            cluster,
            installation,
            namespace: cluster.namespace(stem).await?,
            recorder: Recorder::start_on(cluster.host().into())?,
            topic: topics::create(cluster.kafka(), stem, 4).await?,
        })
    }

    /// A consumer of the topic, in order, whose messages the recorder gets.
    fn in_order(&self) -> Manifest {
        let group = format!("shop.{}", self.topic);
        Manifest::in_order(self.cluster.kafka(), &group, &self.topic)
            .handler_in_pod(self.cluster.host(), &self.recorder)
    }

    /// The same with several handlers.
    fn fast(&self, handlers: usize) -> Manifest {
        let group = format!("shop.{}", self.topic);
        Manifest::fast(self.cluster.kafka(), &group, &self.topic, handlers)
            .handler_in_pod(self.cluster.host(), &self.recorder)
    }

    /// Applies a manifest as `orders`, and waits until its pods handle messages.
    async fn run(&self, manifest: &Manifest) -> Outcome {
        self.namespace.apply(&manifest.named("orders"))?;
        self.namespace
            .wait_until("kc/orders", "condition=Available", LIMIT)
            .await?;
        Ok(())
    }
}
