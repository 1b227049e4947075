//! The consumer as a member of its group: assignments and revocations, the partitions, and
//! the positions from which they are read.

pub(crate) mod assignment;
pub(crate) mod epochs;
pub(crate) mod partition;
pub(crate) mod pins;
pub(crate) mod positions;
pub(crate) mod rebalance;
pub(crate) mod recovery;
pub(crate) mod rewind;
pub(crate) mod start;
