//! The progress of the work, for the liveness probe.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Signs of life of the pump and of each handler.
pub(crate) struct Progress {
    origin: Instant,
    /// The time of the pump's last turn, in milliseconds after `origin`.
    pump: AtomicU64,
    /// For each handler, the time at which its attempt began, plus one; 0 if it has none.
    attempts: Vec<Slot>,
    /// The partitions whose last commit failed, with the time of the first failure.
    failing: Mutex<HashMap<Committing, Instant>>,
    assigned: AtomicBool,
}

/// The subject of a commit: a partition, or all of them in a transaction.
type Committing = Option<(String, i32)>;

/// Commits that fail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FailingCommits {
    /// `topic/partition`, or "transactions".
    pub(crate) name: String,
    pub(crate) duration: Duration,
}

/// A handler's own cache line, so that handlers do not slow each other down.
#[derive(Default)]
#[repr(align(64))]
struct Slot(AtomicU64);

impl Progress {
    pub(crate) fn new(handlers: usize) -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            pump: AtomicU64::new(0),
            attempts: (0..handlers).map(|_| Slot::default()).collect(),
            failing: Mutex::default(),
            assigned: AtomicBool::new(false),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes a turn of the pump.
    pub(crate) fn pumped(&self) {
        self.pump.store(self.now(), Ordering::Relaxed);
    }

    /// Notes if the group has assigned partitions to this process, even none.
    pub(crate) fn set_assigned(&self, assigned: bool) {
        self.assigned.store(assigned, Ordering::Relaxed);
    }

    /// Returns `true` if the group has assigned partitions to this process, even none.
    pub(crate) fn assigned(&self) -> bool {
        self.assigned.load(Ordering::Relaxed)
    }

    /// Notes the end of a transaction, which commits several partitions.
    pub(crate) fn committed(&self, success: bool) {
        self.note_commit(None, success);
    }

    /// Notes the end of a partition's commit.
    pub(crate) fn commit_ended(&self, topic: &str, partition: i32, success: bool) {
        self.note_commit(Some((topic.to_owned(), partition)), success);
    }

    fn note_commit(&self, of: Committing, success: bool) {
        let mut failing = self.failing.lock();
        if success {
            failing.remove(&of);
        } else {
            failing.entry(of).or_insert_with(Instant::now);
        }
    }

    /// Forgets failed commits of partitions that need no commit: revoked ones, and those
    /// without uncommitted messages. Failed transactions are forgotten once no partition needs
    /// a commit. `owed` is called only if a commit failed.
    pub(crate) fn retain_owed<'a>(&self, owed: impl FnOnce() -> Vec<(&'a str, i32)>) {
        let mut failing = self.failing.lock();
        if failing.is_empty() {
            return;
        }
        let owed = owed();
        failing.retain(|of, _| match of {
            Some((topic, partition)) => owed.contains(&(topic.as_str(), *partition)),
            None => !owed.is_empty(),
        });
    }

    /// Returns the time since the pump's last turn.
    pub(crate) fn pump_silence(&self) -> Duration {
        self.since(self.pump.load(Ordering::Relaxed))
    }

    /// Returns the duration of the longest running attempt.
    pub(crate) fn longest_attempt(&self) -> Option<Duration> {
        let began = self.attempts.iter().map(|slot| &slot.0);
        began
            .filter_map(|began| began.load(Ordering::Relaxed).checked_sub(1))
            .min()
            .map(|began| self.since(began))
    }

    /// Returns the commits that have been failing for longest.
    pub(crate) fn failing_commits(&self) -> Option<FailingCommits> {
        let failing = self.failing.lock();
        let (of, since) = failing.iter().min_by_key(|(_, since)| **since)?;
        Some(FailingCommits {
            name: match of {
                Some((topic, partition)) => format!("{topic}/{partition}"),
                None => "transactions".to_owned(),
            },
            duration: since.elapsed(),
        })
    }

    fn since(&self, began: u64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(began))
    }
}

/// One handler's sign of life.
pub(crate) struct Busy {
    progress: Arc<Progress>,
    handler: usize,
}

impl Busy {
    pub(crate) fn new(progress: Arc<Progress>, handler: usize) -> Self {
        Self { progress, handler }
    }

    /// Starts an attempt, which ends when the guard is dropped.
    pub(crate) fn start(&self) -> BusyGuard<'_> {
        let guard = self.watch();
        guard.renew();
        guard
    }

    /// Returns a guard whose attempt begins when it is first renewed, and ends when it is
    /// dropped.
    pub(crate) fn watch(&self) -> BusyGuard<'_> {
        BusyGuard {
            progress: &self.progress,
            slot: self.progress.attempts.get(self.handler).map(|slot| &slot.0),
        }
    }
}

/// A running attempt.
pub(crate) struct BusyGuard<'a> {
    progress: &'a Progress,
    slot: Option<&'a AtomicU64>,
}

impl BusyGuard<'_> {
    /// Starts the attempt, or restarts its time because it has advanced.
    pub(crate) fn renew(&self) {
        if let Some(slot) = self.slot {
            slot.store(self.progress.now() + 1, Ordering::Relaxed);
        }
    }
}

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_attempt_is_the_one_that_began_first() {
        let progress = Progress::new(2);
        assert_eq!(progress.longest_attempt(), None);
        let busy = Busy::new(Arc::clone(&progress), 1);
        let guard = busy.start();
        assert!(progress.longest_attempt().is_some());
        drop(guard);
        assert_eq!(progress.longest_attempt(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_gets_further_begins_again() {
        let progress = Progress::new(1);
        let busy = Busy::new(Arc::clone(&progress), 0);
        let guard = busy.watch();
        assert_eq!(progress.longest_attempt(), None, "it has not begun");
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            guard.renew();
            tokio::time::advance(second).await;
            assert_eq!(progress.longest_attempt(), Some(second));
        }
        drop(guard);
        assert_eq!(progress.longest_attempt(), None);
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn failing(progress: &Progress) -> Option<(String, Duration)> {
        let failing = progress.failing_commits()?;
        Some((failing.name, failing.duration))
    }

    #[tokio::test(start_paused = true)]
    async fn commits_fail_for_each_partition_until_one_of_it_succeeds() {
        let progress = Progress::new(1);
        assert_eq!(failing(&progress), None);
        progress.commit_ended("orders", 3, false);
        tokio::time::advance(MINUTE).await;
        progress.commit_ended("orders", 3, false);
        progress.commit_ended("orders", 4, false);
        // Another partition's success says nothing of these.
        progress.commit_ended("returns", 3, true);
        assert_eq!(failing(&progress), Some(("orders/3".into(), MINUTE)));
        progress.commit_ended("orders", 3, true);
        let now = Duration::ZERO;
        assert_eq!(failing(&progress), Some(("orders/4".into(), now)));
        progress.commit_ended("orders", 4, true);
        assert_eq!(failing(&progress), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_left_or_owes_no_commit_does_not_fail() {
        let progress = Progress::new(1);
        progress.commit_ended("orders", 3, false);
        progress.commit_ended("orders", 4, false);
        progress.retain_owed(|| vec![("orders", 4), ("returns", 3)]);
        tokio::time::advance(MINUTE).await;
        assert_eq!(failing(&progress), Some(("orders/4".into(), MINUTE)));
        progress.retain_owed(Vec::new);
        assert_eq!(failing(&progress), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_transactions_count_while_a_commit_is_owed() {
        let progress = Progress::new(1);
        progress.committed(false);
        tokio::time::advance(MINUTE).await;
        progress.retain_owed(|| vec![("orders", 4)]);
        assert_eq!(failing(&progress), Some(("transactions".into(), MINUTE)));
        progress.retain_owed(Vec::new);
        assert_eq!(failing(&progress), None);
        progress.committed(false);
        progress.committed(true);
        assert_eq!(failing(&progress), None);
    }
}
