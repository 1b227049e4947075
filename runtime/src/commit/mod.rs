//! Commits: which offsets, at which moment, and by which task.

pub(crate) mod commits;
pub(crate) mod committer;
pub(crate) mod last_commit;
pub(crate) mod outbox;
pub(crate) mod strategy;
