//! The work on messages: attempts with back-off, one by one or in batches, and dead letters.

pub(crate) mod dead_letter;
pub(crate) mod delivery;
pub(crate) mod worker;
