//! The stores and clients that every pass shares.

use std::sync::Arc;

use crate::api::Scope;
use crate::backoff::Backoffs;
use crate::build::RuntimeImage;
use crate::events::Events;
use crate::existing::Existing;
use crate::kafka::{Directory, LagReader};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::passes::Passes;
use crate::pods::Pods;
use crate::read::Found;
use crate::replica_sets::ReplicaSets;
use crate::secrets::SecretCache;
use crate::siblings::Siblings;
use crate::status::StatusWriter;
use crate::triggers::Triggers;

/// The stores and clients that every pass shares.
pub struct Context {
    /// The client of the API server, and the namespaces that the operator serves.
    pub scope: Scope,
    /// The image of the runtime.
    pub runtime: RuntimeImage,
    /// The existing objects of consumers.
    pub existing: Existing,
    /// The ConfigMaps that the pods of each ReplicaSet read.
    pub replica_sets: ReplicaSets,
    /// Failures of pods.
    pub pods: Pods,
    /// The Secrets that consumers name.
    pub secrets: SecretCache,
    /// Consumers that share a group.
    pub siblings: Siblings,
    /// The Kafka clusters.
    pub kafka: Arc<Directory>,
    /// The positions of the groups.
    pub lags: Arc<LagReader>,
    /// The writer of statuses.
    pub statuses: StatusWriter,
    /// The writer of events.
    pub events: Events,
    /// The consumers that exist, and the passes that are under way.
    pub passes: Passes,
    /// Waits after failures.
    pub backoffs: Backoffs,
    /// Wakes consumers.
    pub triggers: Triggers,
    /// The operator's own metrics.
    pub metrics: Metrics,
}

impl Context {
    /// Waits until objects and pods have a complete list. ReplicaSets may have none: the role of an
    /// earlier release does not allow it.
    pub async fn complete(&self) {
        self.existing.complete().await;
        self.pods.complete().await;
    }

    /// Notes a consumer that exists, as the watch shows it.
    pub fn saw(&self, found: &Found) {
        self.passes.saw(Key::of(found));
        self.statuses.saw(found);
    }

    /// Forgets a consumer that is gone.
    pub fn forget(&self, key: &Key) {
        self.passes.gone(key);
        self.forget_notes(key);
    }

    /// Forgets the notes of passes about a consumer.
    pub(crate) fn forget_notes(&self, key: &Key) {
        self.stand_down(key);
        self.statuses.forget(key);
        self.backoffs.forget(key);
    }

    /// Forgets the notes that follow from a consumer's spec.
    pub(crate) fn stand_down(&self, key: &Key) {
        let siblings = self.siblings.forget(key);
        siblings.iter().for_each(|other| self.triggers.wake(other));
        self.secrets.forget(key);
        self.kafka.forget(key);
        self.lags.forget(key);
    }
}
