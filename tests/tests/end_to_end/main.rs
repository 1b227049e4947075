//! Penstock in a real cluster: the chart, the operator, pods, Kafka.
//!
//! All tests share the cluster and the installation; each has a namespace, topics
//! and groups of its own.

#![forbid(unsafe_code)]

mod apply;
mod drift;
mod exactly_once;
mod grpc;
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

use std::error::Error;
use std::ops::Deref;
use std::time::Duration;

use penstock_tests::kubernetes;
use tokio::sync::RwLock;

/// Any failure of a test.
type Outcome = Result<(), Box<dyn Error>>;

/// Longest time for what takes seconds on a quiet machine.
const LIMIT: Duration = kubernetes::Scene::LIMIT;

/// Shared by tests that give the operator work; one that counts what it does has it
/// alone.
static OPERATOR: RwLock<()> = RwLock::const_new(());

/// The common scene, with a share of the operator.
struct Scene {
    scene: kubernetes::Scene,
    /// A hold on [`OPERATOR`], given up last.
    _hold: Box<dyn Send>,
}

impl Scene {
    /// Other tests give the operator work meanwhile.
    async fn new(stem: &str) -> Result<Self, Box<dyn Error>> {
        let hold = Box::new(OPERATOR.read().await);
        let scene = kubernetes::Scene::new(stem).await?;
        Ok(Self { scene, _hold: hold })
    }

    /// As [`Scene::new`], with a recorder that speaks gRPC.
    async fn grpc(stem: &str) -> Result<Self, Box<dyn Error>> {
        let Self { scene, _hold } = Self::new(stem).await?;
        let scene = scene.with_grpc()?;
        Ok(Self { scene, _hold })
    }

    /// No other test does.
    async fn alone(stem: &str) -> Result<Self, Box<dyn Error>> {
        let hold = Box::new(OPERATOR.write().await);
        let scene = kubernetes::Scene::new(stem).await?;
        Ok(Self { scene, _hold: hold })
    }
}

impl Deref for Scene {
    type Target = kubernetes::Scene;

    fn deref(&self) -> &kubernetes::Scene {
        &self.scene
    }
}
