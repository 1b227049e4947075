//! Whether work goes on: what the liveness probe asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Signs of life of the pump and of each handler.
pub(crate) struct Progress {
    origin: Instant,
    /// Milliseconds after `origin` at which the pump last went round.
    pump: AtomicU64,
    /// For each handler, when its attempt began, plus one; 0 when it has none.
    attempts: Vec<Slot>,
    /// When commits began to fail, plus one; 0 when the last one succeeded.
    commits_failing: AtomicU64,
    assigned: AtomicBool,
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
            commits_failing: AtomicU64::new(0),
            assigned: AtomicBool::new(false),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The pump went round.
    pub(crate) fn pumped(&self) {
        self.pump.store(self.now(), Ordering::Relaxed);
    }

    /// The group has told us our partitions, even if none.
    pub(crate) fn set_assigned(&self, assigned: bool) {
        self.assigned.store(assigned, Ordering::Relaxed);
    }

    /// Whether the group has told us our partitions.
    pub(crate) fn assigned(&self) -> bool {
        self.assigned.load(Ordering::Relaxed)
    }

    /// A commit ended.
    pub(crate) fn committed(&self, success: bool) {
        if success {
            self.commits_failing.store(0, Ordering::Relaxed);
        } else {
            let since = self.now() + 1;
            let _ = self.commits_failing.compare_exchange(
                0,
                since,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// How long the pump has been silent.
    pub(crate) fn pump_silence(&self) -> Duration {
        self.since(self.pump.load(Ordering::Relaxed))
    }

    /// How long the longest attempt has been going on.
    pub(crate) fn longest_attempt(&self) -> Option<Duration> {
        let began = self.attempts.iter().map(|slot| &slot.0);
        began
            .filter_map(|began| began.load(Ordering::Relaxed).checked_sub(1))
            .min()
            .map(|began| self.since(began))
    }

    /// How long commits have been failing.
    pub(crate) fn commits_failing_for(&self) -> Option<Duration> {
        let since = self.commits_failing.load(Ordering::Relaxed);
        since.checked_sub(1).map(|since| self.since(since))
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

    /// An attempt has begun; it ends when the guard goes.
    pub(crate) fn start(&self) -> BusyGuard<'_> {
        let guard = self.watch();
        guard.renew();
        guard
    }

    /// An attempt begins when the guard is first renewed, and ends when it goes.
    pub(crate) fn watch(&self) -> BusyGuard<'_> {
        BusyGuard {
            progress: &self.progress,
            slot: self.progress.attempts.get(self.handler).map(|slot| &slot.0),
        }
    }
}

/// An attempt that is going on.
pub(crate) struct BusyGuard<'a> {
    progress: &'a Progress,
    slot: Option<&'a AtomicU64>,
}

impl BusyGuard<'_> {
    /// The attempt begins, or begins again as it has got further.
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

    #[test]
    fn a_success_ends_the_time_of_failing_commits() {
        let progress = Progress::new(1);
        assert_eq!(progress.commits_failing_for(), None);
        progress.committed(false);
        assert!(progress.commits_failing_for().is_some());
        progress.committed(true);
        assert_eq!(progress.commits_failing_for(), None);
    }
}
