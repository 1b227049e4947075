//! Slots for work on behalf of tenants: a fixed number in total, and a few for each namespace, so
//! that no namespace can take all of them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of slots. Each namespace has a queue of waiting tasks, which are served in their order.
pub(super) struct Slots {
    total: Arc<Semaphore>,
    each: usize,
    /// Kept while a task has a slot of the namespace or waits for one.
    namespaces: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A slot, until it is dropped.
pub(super) struct Slot {
    _namespace: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

impl Slots {
    /// Creates `total` slots, of which a namespace has at most `each`.
    pub(super) fn new(total: usize, each: usize) -> Self {
        Self {
            total: Arc::new(Semaphore::new(total)),
            each,
            namespaces: Mutex::default(),
        }
    }

    /// Waits for a slot. Returns `None` only if the semaphores were closed, which they never
    /// are.
    pub(super) async fn take(&self, namespace: &str) -> Option<Slot> {
        // The slot of the namespace comes first, so that few tasks of a namespace wait for one of
        // all slots.
        let namespace = self.of(namespace).acquire_owned().await.ok()?;
        let total = Arc::clone(&self.total).acquire_owned().await.ok()?;
        Some(Slot {
            _namespace: namespace,
            _total: total,
        })
    }

    /// Takes a slot if one is free.
    pub(super) fn try_take(&self, namespace: &str) -> Option<Slot> {
        let namespace = self.of(namespace).try_acquire_owned().ok()?;
        let total = Arc::clone(&self.total).try_acquire_owned().ok()?;
        Some(Slot {
            _namespace: namespace,
            _total: total,
        })
    }

    fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut namespaces = self.namespaces.lock();
        if let Some(known) = namespaces.get(namespace).and_then(Weak::upgrade) {
            return known;
        }
        namespaces.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(self.each));
        namespaces.insert(namespace.to_owned(), Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_has_a_few_slots_and_leaves_the_others() {
        let slots = Slots::new(5, 2);
        let first = slots.try_take("noisy");
        let second = slots.try_take("noisy");
        assert!(first.is_some() && second.is_some());
        assert!(slots.try_take("noisy").is_none());
        // However many wait in one namespace, another is served at once.
        let waiting: Vec<_> = (0..1000).map(|_| Box::pin(slots.take("noisy"))).collect();
        for waiting in waiting {
            assert!(futures_util::FutureExt::now_or_never(waiting).is_none());
        }
        assert!(slots.take("quiet").await.is_some());
        drop(first);
        assert!(slots.try_take("noisy").is_some());
    }

    #[tokio::test]
    async fn there_are_no_more_slots_than_the_total() {
        let slots = Slots::new(3, 2);
        let taken: Vec<Slot> = ["a", "a", "b"]
            .iter()
            .filter_map(|namespace| slots.try_take(namespace))
            .collect();
        assert_eq!(taken.len(), 3);
        assert!(slots.try_take("c").is_none());
        drop(taken);
        assert!(slots.try_take("c").is_some());
        assert!(slots.namespaces.lock().len() <= 3, "forgotten when unused");
    }
}
