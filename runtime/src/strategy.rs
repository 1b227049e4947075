//! What is committed, and by whom.

use penstock_crds::spec::Commit;
use penstock_crds::validate::{ConsumeMode, ValidatedConsumer};

/// What is committed, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// librdkafka, whatever was read.
    Read,
    /// The pump, by the clock: what is handled, and what is beyond.
    Handled,
    /// The pump, by the clock: what is handled and what is beyond, in one transaction
    /// with what was produced for it.
    Transaction,
    /// The pump, each message once it is handled.
    EachMessage,
}

impl From<&ValidatedConsumer> for Strategy {
    fn from(consumer: &ValidatedConsumer) -> Self {
        match (consumer.commit, consumer.mode) {
            (Commit::Read, _) => Self::Read,
            (Commit::Transactional, _) => Self::Transaction,
            (Commit::Handled, ConsumeMode::InOrder) => Self::EachMessage,
            (Commit::Handled, ConsumeMode::KeyOrdered { .. } | ConsumeMode::Fast { .. }) => {
                Self::Handled
            }
        }
    }
}

impl Strategy {
    /// Whether a message that is given up comes again: nothing is committed
    /// before it is handled.
    pub(crate) fn redelivers(self) -> bool {
        self != Self::Read
    }
}
