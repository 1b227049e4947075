//! What of the gaps has room in a text of limited length.

use super::Gaps;
use super::codec::{attempts_length, head_length, kind_and_length};

impl Gaps {
    /// As much as takes `room` bytes. The horizon is lowered until it fits: what
    /// lies behind is delivered again. The attempts give way down to half of the
    /// room, the lowest offsets' staying longest.
    pub(super) fn fit(&self, room: usize) -> Self {
        if self.length(self.horizon, &self.attempts) <= room {
            return self.clone();
        }
        let reserved = attempts_length(self.base, &self.attempts).min(room / 2);
        let horizon = self.lower(|horizon| self.length(horizon, &[]) + reserved <= room);
        let below = self
            .attempts
            .partition_point(|(offset, _)| *offset < horizon);
        let tried = &self.attempts[..below];
        let (mut most, mut over) = (0, tried.len() + 1);
        while over - most > 1 {
            let middle = usize::midpoint(most, over);
            match self.length(horizon, &tried[..middle]) <= room {
                true => most = middle,
                false => over = middle,
            }
        }
        let tried = tried[..most].iter().copied();
        Self::new(self.base, horizon, self.incomplete.iter().cloned(), tried)
    }

    /// The highest horizon that fits; no length falls as the horizon rises.
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

    /// Bytes with this horizon and these attempts.
    fn length(&self, horizon: i64, attempts: &[(i64, u32)]) -> usize {
        head_length(self.base, horizon)
            + kind_and_length(self, horizon).1
            + attempts_length(self.base, attempts)
    }
}
