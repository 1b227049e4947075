//! The consumers that exist, and the passes that run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::key::Key;

/// The consumers that exist, the passes that run, and the time at which one last ended. No consumer
/// has two passes at the same time.
///
/// One lock guards all: a pass that begins just after its consumer was deleted would leave notes
/// about the consumer that nothing removes.
#[derive(Clone)]
pub struct Passes(Arc<Mutex<State>>);

struct State {
    present: HashSet<Key>,
    under_way: HashMap<Key, UnderWay>,
    ended: Instant,
}

struct UnderWay {
    began: Instant,
    /// Is `true` if the consumer was deleted during the pass.
    gone: bool,
}

impl Default for Passes {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            present: HashSet::new(),
            under_way: HashMap::new(),
            ended: Instant::now(),
        })))
    }
}

impl Passes {
    /// Notes that the consumer exists.
    pub fn saw(&self, consumer: Key) {
        self.0.lock().present.insert(consumer);
    }

    /// Begins a pass, and returns `true`, unless the consumer was deleted after the pass was
    /// queued.
    pub fn begin(&self, consumer: &Key) -> bool {
        let mut state = self.0.lock();
        if !state.present.contains(consumer) {
            return false;
        }
        let pass = UnderWay {
            began: Instant::now(),
            gone: false,
        };
        state.under_way.insert(consumer.clone(), pass);
        true
    }

    /// Notes that the pass has ended. Returns `true` if the consumer was deleted during the pass,
    /// which may have left notes about it.
    pub fn end(&self, consumer: &Key) -> bool {
        let mut state = self.0.lock();
        state.ended = Instant::now();
        let pass = state.under_way.remove(consumer);
        pass.is_some_and(|pass| pass.gone)
    }

    /// Notes that the consumer was deleted.
    pub fn gone(&self, consumer: &Key) {
        let mut state = self.0.lock();
        state.present.remove(consumer);
        if let Some(pass) = state.under_way.get_mut(consumer) {
            pass.gone = true;
        }
    }

    /// Returns `true` if the consumer exists.
    pub fn exists(&self, consumer: &Key) -> bool {
        self.0.lock().present.contains(consumer)
    }

    /// Returns the known consumers that are not in the list.
    pub fn missing_from(&self, listed: &HashSet<Key>) -> Vec<Key> {
        self.0.lock().present.difference(listed).cloned().collect()
    }

    /// Returns the number of consumers that exist.
    pub fn consumers(&self) -> usize {
        self.0.lock().present.len()
    }

    /// Returns the time for which passes have run and none has ended.
    pub fn standstill(&self) -> Duration {
        let state = self.0.lock();
        let oldest = state.under_way.values().map(|pass| pass.began).min();
        oldest.map_or(Duration::ZERO, |began| began.max(state.ended).elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn passes_stand_still_when_none_ends() {
        let passes = Passes::default();
        let minutes = |minutes: u64| tokio::time::sleep(Duration::from_secs(60 * minutes));
        minutes(60).await;
        assert_eq!(
            passes.standstill(),
            Duration::ZERO,
            "there is nothing to do"
        );
        let (stuck, other) = (Key::new("shop", "stuck"), Key::new("shop", "other"));
        passes.saw(stuck.clone());
        passes.saw(other.clone());
        passes.begin(&stuck);
        minutes(2).await;
        assert_eq!(passes.standstill(), Duration::from_secs(120));
        passes.begin(&other);
        passes.end(&other);
        assert_eq!(passes.standstill(), Duration::ZERO, "one ended");
        minutes(3).await;
        assert_eq!(passes.standstill(), Duration::from_secs(180));
        passes.end(&stuck);
        minutes(3).await;
        assert_eq!(passes.standstill(), Duration::ZERO);
    }

    #[test]
    fn a_consumer_that_is_deleted_during_its_pass_is_reported_at_the_end() {
        let passes = Passes::default();
        let key = Key::new("shop", "orders");
        passes.saw(key.clone());
        assert!(passes.begin(&key));
        assert!(!passes.end(&key));
        assert!(passes.begin(&key));
        passes.gone(&key);
        assert!(passes.end(&key));
    }

    #[test]
    fn no_pass_begins_after_its_consumer_was_deleted() {
        let passes = Passes::default();
        let key = Key::new("shop", "orders");
        passes.saw(key.clone());
        passes.gone(&key);
        assert!(!passes.begin(&key));
        assert!(!passes.end(&key));
        assert!(!passes.exists(&key));
        passes.saw(key.clone());
        assert!(passes.begin(&key), "it was created again");
    }
}
