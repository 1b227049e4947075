//! What is committed, and by whom.

use penstock_crds::spec::Commit;
use penstock_crds::validate::ConsumeMode;

/// What is committed, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// librdkafka, whatever was read.
    Read,
    /// The pump, by the clock: what is handled, and what is beyond.
    Handled,
    /// The pump, each message once it is handled.
    EachMessage,
}

impl From<ConsumeMode> for Strategy {
    fn from(mode: ConsumeMode) -> Self {
        match mode {
            ConsumeMode::InOrder => Self::EachMessage,
            ConsumeMode::KeyOrdered { .. }
            | ConsumeMode::Fast {
                commit: Commit::Handled,
                ..
            } => Self::Handled,
            ConsumeMode::Fast {
                commit: Commit::Read,
                ..
            } => Self::Read,
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
