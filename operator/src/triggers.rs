//! Wakes consumers: the stores and the Kafka clusters report a change, and the controller
//! reconciles the consumers that it concerns.

use tokio::sync::mpsc;

use crate::key::Key;

/// Wakes consumers: the controller reconciles each of them soon.
#[derive(Clone)]
pub struct Triggers(mpsc::UnboundedSender<Key>);

impl Triggers {
    /// Creates the triggers, and the receiver of the consumers that they wake.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Key>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Wakes a consumer.
    pub fn wake(&self, consumer: &Key) {
        // The receiver is gone only while the operator stops.
        let _ = self.0.send(consumer.clone());
    }
}
