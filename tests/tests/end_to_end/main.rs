//! Penstock in a real cluster: the chart, the operator, pods, Kafka.
//!
//! All tests share the cluster and the installation; each has a namespace, topics
//! and groups of its own.

#![forbid(unsafe_code)]

mod apply;
mod drift;
mod handlers;
mod installation;
mod look;
mod modes;
mod scale;
mod scrape;
mod secrets;
mod shared;
mod steady;
mod topics;

use std::time::Duration;

use penstock_tests::Manifest;
use penstock_tests::kubernetes::{Cluster, Installation, Namespace};
use penstock_tests::recorder::Recorder;
use tokio::sync::RwLock;

/// Any failure of a test.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Longest time for what takes seconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Shared by tests that give the operator work; one that counts what it does has it
/// alone.
static OPERATOR: RwLock<()> = RwLock::const_new(());

/// What most tests begin with.
struct Scene {
    cluster: &'static Cluster,
    installation: &'static Installation,
    namespace: Namespace,
    recorder: Recorder,
    topic: String,
    /// A hold on [`OPERATOR`], given up last.
    _hold: Box<dyn Send>,
}

impl Scene {
    /// A namespace, a topic with 4 partitions, and a recorder that pods reach.
    async fn new(stem: &str) -> Result<Self, Box<dyn std::error::Error>> {
        Self::with(stem, Box::new(OPERATOR.read().await)).await
    }

    /// The same, and meanwhile no other test gives the operator work.
    async fn alone(stem: &str) -> Result<Self, Box<dyn std::error::Error>> {
        Self::with(stem, Box::new(OPERATOR.write().await)).await
    }

    async fn with(stem: &str, hold: Box<dyn Send>) -> Result<Self, Box<dyn std::error::Error>> {
        let cluster = Cluster::shared().await?;
        let installation = Installation::shared(cluster).await?;
        Ok(Self {
            cluster,
            installation,
            namespace: cluster.namespace(stem).await?,
            recorder: Recorder::start_on(cluster.host().into())?,
            topic: penstock_tests::topics::create(cluster.kafka(), stem, 4).await?,
            _hold: hold,
        })
    }

    /// A consumer of the topic, in order, whose messages the recorder gets.
    fn in_order(&self) -> Manifest {
        Manifest::in_order(self.cluster.kafka(), &self.group(), &self.topic)
            .handler_in_pod(self.cluster.host(), &self.recorder)
    }

    /// The same with several handlers.
    fn fast(&self, handlers: usize) -> Manifest {
        Manifest::fast(self.cluster.kafka(), &self.group(), &self.topic, handlers)
            .handler_in_pod(self.cluster.host(), &self.recorder)
    }

    /// The group of both.
    fn group(&self) -> String {
        format!("shop.{}", self.topic)
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
