//! The passes that are under way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::key::Key;

/// Which passes are under way, and when one last ended. No consumer has two at once.
#[derive(Clone)]
pub struct Passes(Arc<Mutex<State>>);

struct State {
    under_way: HashMap<Key, UnderWay>,
    ended: Instant,
}

struct UnderWay {
    began: Instant,
    /// The consumer was deleted meanwhile.
    gone: bool,
}

impl Default for Passes {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            under_way: HashMap::new(),
            ended: Instant::now(),
        })))
    }
}

impl Passes {
    /// Notes that a pass over the consumer begins.
    pub fn begin(&self, consumer: &Key) {
        let pass = UnderWay {
            began: Instant::now(),
            gone: false,
        };
        self.0.lock().under_way.insert(consumer.clone(), pass);
    }

    /// Notes that the pass has ended. Returns `true` if the consumer was deleted meanwhile:
    /// the pass may have noted things about it since.
    pub fn end(&self, consumer: &Key) -> bool {
        let mut state = self.0.lock();
        state.ended = Instant::now();
        let pass = state.under_way.remove(consumer);
        pass.is_some_and(|pass| pass.gone)
    }

    /// Notes that the consumer was deleted.
    pub fn gone(&self, consumer: &Key) {
        if let Some(pass) = self.0.lock().under_way.get_mut(consumer) {
            pass.gone = true;
        }
    }

    /// Returns for how long passes have been under way of which none has ended.
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
    fn a_consumer_that_goes_during_its_pass_is_told_of_at_the_end() {
        let passes = Passes::default();
        let key = Key::new("shop", "orders");
        passes.begin(&key);
        assert!(!passes.end(&key));
        passes.begin(&key);
        passes.gone(&key);
        assert!(passes.end(&key));
        passes.gone(&key);
        passes.begin(&key);
        assert!(!passes.end(&key));
    }
}
