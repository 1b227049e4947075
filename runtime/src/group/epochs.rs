//! The leader epochs of a partition's messages, for its commits.
//!
//! A commit has the leader epoch of the message before its offset, so that the next owner
//! notices that the log was truncated meanwhile.

use std::collections::VecDeque;

/// The value for an unknown leader epoch.
pub(crate) const NO_EPOCH: i32 = -1;

/// The leader epochs of read messages, by the first offset of each, rising.
#[derive(Debug, Default)]
pub(crate) struct Epochs(VecDeque<(i64, i32)>);

impl Epochs {
    /// Notes an epoch that begins at an offset. The epochs of `settled` messages are forgotten
    /// except for the last.
    pub(crate) fn note(&mut self, offset: i64, epoch: i32, settled: i64) {
        while self.0.get(1).is_some_and(|(first, _)| *first < settled) {
            self.0.pop_front();
        }
        self.0.push_back((offset, epoch));
    }

    /// Returns the epoch of the last message before an offset.
    pub(crate) fn before(&self, offset: i64) -> Option<i32> {
        let epochs = self.0.iter().rev();
        let mut before = epochs.skip_while(|(first, _)| *first >= offset);
        let epoch = before.next().map(|(_, epoch)| *epoch);
        epoch.filter(|epoch| *epoch != NO_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_the_epoch_of_the_message_before_it() {
        let mut epochs = Epochs::default();
        assert_eq!(epochs.before(10), None);
        epochs.note(9, 1, 10);
        epochs.note(20, 3, 10);
        epochs.note(30, 4, 12);
        let found: Vec<_> = [10, 20, 21, 30, 31].map(|at| epochs.before(at)).into();
        assert_eq!(found, [Some(1), Some(1), Some(3), Some(3), Some(4)]);
        // Nothing below 25 is committed any more.
        epochs.note(40, 5, 25);
        assert_eq!(epochs.before(26), Some(3));
        assert_eq!(epochs.0.len(), 3);
    }
}
