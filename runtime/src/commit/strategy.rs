//! The strategy of commits: which offsets, and when.

use penstock_crds::spec::Commit;
use penstock_crds::validate::{ConsumeMode, ValidatedConsumer};

/// The strategy of commits: which offsets, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// librdkafka commits read messages.
    Read,
    /// The pump commits handled messages and the gaps periodically.
    Handled,
    /// The pump commits handled messages and the gaps periodically, in one transaction with
    /// their records.
    Transaction,
    /// The pump commits each message after it is handled.
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
    /// Returns `true` if an abandoned message comes again: nothing is committed before it is
    /// handled.
    pub(crate) fn redelivers(self) -> bool {
        self != Self::Read
    }
}
