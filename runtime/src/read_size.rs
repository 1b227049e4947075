//! How many messages to read at once. They must all be held until the queue has room for
//! them, so a read of large ones has fewer.

/// Bytes that a read is to have, as far as the one before tells.
const BYTES: usize = 1 << 20;

/// Messages for the next read.
#[derive(Debug)]
pub(crate) struct ReadSize {
    most: usize,
    /// What the newest message weighs.
    weight: usize,
}

impl ReadSize {
    /// At most so many messages, whatever they weigh.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, weight: 0 }
    }

    /// Messages to be read next, one at least.
    pub(crate) fn messages(&self) -> usize {
        let fit = BYTES / self.weight.max(1);
        fit.min(self.most).max(1)
    }

    /// Takes note of what the newest message weighs. Looking at each would take 2 % of the
    /// time that a small one has.
    pub(crate) fn note(&mut self, weight: usize) {
        self.weight = weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_messages_are_read_few_at_a_time_and_small_ones_many() {
        let mut size = ReadSize::new(1000);
        assert_eq!(size.messages(), 1000);
        size.note(256 << 10);
        assert_eq!(size.messages(), 4);
        size.note(8 << 20);
        assert_eq!(size.messages(), 1);
        size.note(500);
        assert_eq!(size.messages(), 1000);
    }
}
