//! The part of the gaps that fits into a text of limited length.

use std::ops::Range;

use super::Gaps;
use super::codec::{attempts_length, head_length, kind_and_length};

impl Gaps {
    /// Returns the largest part that fits into `room` bytes.
    ///
    /// From an offset on, settled messages are left out and are delivered again. Messages that
    /// the brokers already know, by `known`, are never left out, because their records may be
    /// committed. Attempts may use down to half of the room; the attempts at the lowest offsets
    /// stay longest.
    pub(super) fn fit(&self, room: usize, known: Option<&Self>) -> Self {
        if self.length() <= room {
            return self.clone();
        }
        let known = known.filter(|known| self.least_with(known) <= room);
        let reserved = attempts_length(self.base, &self.attempts).min(room / 2);
        let horizon =
            self.lower(|horizon| self.limited(horizon, known, &[]).length() + reserved <= room);
        let end = known.map_or(horizon, |known| known.horizon.max(horizon));
        let below = self.attempts.partition_point(|(offset, _)| *offset < end);
        let with = |tried: usize| self.limited(horizon, known, &self.attempts[..tried]);
        let (mut most, mut over) = (0, below + 1);
        while over - most > 1 {
            let middle = usize::midpoint(most, over);
            match with(middle).length() <= room {
                true => most = middle,
                false => over = middle,
            }
        }
        with(most)
    }

    /// Returns the bytes for only the part that is already known.
    pub(super) fn least_with(&self, known: &Self) -> usize {
        self.limited(self.base, Some(known), &[]).length()
    }

    /// Returns the gaps below an offset with these attempts, and from the offset on only the
    /// known part.
    fn limited(&self, horizon: i64, known: Option<&Self>, attempts: &[(i64, u32)]) -> Self {
        let clip = |ranges: &[Range<i64>], from: i64, to: i64| -> Vec<Range<i64>> {
            let clipped = ranges.iter().map(|it| it.start.max(from)..it.end.min(to));
            clipped.filter(|it| it.start < it.end).collect()
        };
        let end = known.map_or(horizon, |known| known.horizon.max(horizon));
        let mut incomplete = clip(&self.incomplete, self.base, horizon);
        if let Some(known) = known {
            incomplete.extend(clip(&known.incomplete, horizon, end));
        }
        Self::new(self.base, end, incomplete, attempts.iter().copied())
            .with_topic_id(self.topic_id)
            .with_leader_epoch(self.leader_epoch)
    }

    /// Returns a horizon that fits. It is the highest one if lengths never fall as the horizon
    /// rises.
    fn lower(&self, fits: impl Fn(i64) -> bool) -> i64 {
        let (mut fitting, mut over) = (self.base, self.horizon);
        while over - fitting > 1 {
            let middle = fitting + (over - fitting) / 2;
            match fits(middle) {
                true => fitting = middle,
                false => over = middle,
            }
        }
        fitting
    }

    /// Returns the bytes of the text's body.
    pub(super) fn length(&self) -> usize {
        head_length(self.base, self.horizon)
            + kind_and_length(self, self.horizon).1
            + attempts_length(self.base, &self.attempts)
    }
}
