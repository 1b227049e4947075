//! The bytes of a batch: each handler has a share of what all of them may hold.

use std::collections::VecDeque;

use crate::queue::Queued;

/// The memory of a worker and its handler for a message, in addition to its weight: list
/// entries, a timer, a span, a verdict.
const IN_HAND: usize = 512;

/// The maximum bytes of a batch. One message is always taken, regardless of its weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share(usize);

impl Share {
    /// No limit.
    pub(crate) const ALL: Self = Self(usize::MAX);

    /// Returns an even share of these bytes.
    pub(crate) fn of(bytes: usize, handlers: usize) -> Self {
        Self(bytes / handlers.max(1))
    }

    /// Returns the rest of the share after a batch's messages.
    pub(crate) fn room<T: Queued>(self, batch: &[T]) -> Room {
        let bytes: usize = batch.iter().map(in_hand).sum();
        Room {
            left: self.0.saturating_sub(bytes),
            is_first: batch.is_empty(),
        }
    }

    /// Moves up to `most` items from the front of `items` to a batch, as many as fit in
    /// addition to its messages. Returns `true` if more would fit.
    pub(crate) fn fill<T: Queued>(
        self,
        most: usize,
        items: &mut VecDeque<T>,
        batch: &mut Vec<T>,
    ) -> bool {
        let most = batch.len().saturating_add(most);
        let mut room = self.room(batch);
        batch.reserve(items.len().min(most - batch.len()));
        while batch.len() < most
            && let Some(item) = items.pop_front_if(|item| room.takes(item))
        {
            batch.push(item);
        }
        batch.len() < most && !room.is_used_up()
    }
}

/// The rest of a share, while a batch is filled.
#[derive(Debug)]
pub(crate) struct Room {
    left: usize,
    is_first: bool,
}

impl Room {
    /// Adds a message to the batch if it fits, and returns `true` then. Otherwise no other
    /// message fits.
    pub(crate) fn takes<T: Queued>(&mut self, item: &T) -> bool {
        let bytes = in_hand(item);
        let fits = self.is_first || bytes <= self.left;
        self.left = match fits {
            true => self.left.saturating_sub(bytes),
            false => 0,
        };
        self.is_first = false;
        fits
    }

    /// Returns `true` if no message fits any more.
    pub(crate) fn is_used_up(&self) -> bool {
        self.left == 0 && !self.is_first
    }
}

/// Returns the bytes of an item while a handler has it.
fn in_hand<T: Queued>(item: &T) -> usize {
    item.weight().saturating_add(IN_HAND)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::queue::lane::Lane;

    #[derive(Clone, Debug, PartialEq)]
    struct Item {
        number: usize,
        weight: usize,
    }

    impl Queued for Item {
        fn weight(&self) -> usize {
            self.weight
        }

        fn lane(&self) -> Option<Lane> {
            None
        }

        fn hold(&self, _: bool) {}
    }

    fn items(weights: &[usize]) -> VecDeque<Item> {
        let numbered = weights.iter().enumerate();
        numbered
            .map(|(number, &weight)| Item { number, weight })
            .collect()
    }

    fn held(batch: &[Item]) -> usize {
        batch.iter().map(in_hand).sum()
    }

    #[test]
    fn one_message_is_taken_whatever_it_weighs_and_none_beside_it() {
        let share = Share::of(16_000, 4);
        let mut waiting = items(&[5_000, 1, 9_000]);
        for number in 0..3 {
            let mut batch = Vec::new();
            assert!(!share.fill(10, &mut waiting, &mut batch) || number == 1);
            assert_eq!(
                batch.iter().map(|it| it.number).collect::<Vec<_>>(),
                [number]
            );
        }
    }

    #[test]
    fn a_batch_that_is_filled_again_counts_what_it_has() {
        let share = Share::of(4 * (1_000 + IN_HAND), 1);
        let mut batch = Vec::new();
        assert!(share.fill(10, &mut items(&[1_000; 3]), &mut batch));
        let mut more = items(&[1_000; 3]);
        assert!(!share.fill(10, &mut more, &mut batch));
        assert_eq!((batch.len(), more.len()), (4, 2));
    }

    #[test]
    fn without_a_limit_only_the_count_ends_a_batch() {
        let (mut batch, mut waiting) = (Vec::new(), items(&[1 << 40; 5]));
        assert!(!Share::ALL.fill(4, &mut waiting, &mut batch));
        assert_eq!((batch.len(), waiting.len()), (4, 1));
    }

    #[test]
    fn no_handlers_share_as_one_would() {
        assert_eq!(Share::of(1_000, 0).0, 1_000);
    }

    proptest! {
        #[test]
        fn a_batch_has_its_share_at_most_or_one_message_and_all_come_in_order(
            weights in prop::collection::vec(
                prop_oneof![4 => 0usize..2_000, 1 => 2_000usize..100_000],
                0..200,
            ),
            bytes in 0usize..200_000,
            handlers in 1usize..20,
            most in prop::collection::vec(1usize..30, 1..8),
        ) {
            let share = Share::of(bytes, handlers);
            let (all, mut waiting) = (items(&weights), items(&weights));
            let (mut taken, mut most) = (Vec::new(), most.into_iter().cycle());
            while !waiting.is_empty() {
                let mut batch = Vec::new();
                let (first, then) = (most.next().unwrap(), most.next().unwrap());
                let goes_on = share.fill(first, &mut waiting, &mut batch);
                let before = batch.len();
                prop_assert!((1..=first).contains(&before));
                if goes_on {
                    prop_assert!(waiting.is_empty());
                } else if let Some(next) = waiting.front() && before < first {
                    prop_assert!(held(&batch) + in_hand(next) > bytes / handlers);
                }
                share.fill(then, &mut waiting, &mut batch);
                prop_assert!(batch.len() <= before + then);
                prop_assert!(batch.len() == 1 || held(&batch) <= bytes / handlers);
                taken.extend(batch);
            }
            prop_assert_eq!(taken, Vec::from(all));
        }
    }
}
