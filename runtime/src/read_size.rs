//! How many messages to read at once. They must all be held until the queue has room for
//! them, so a read of large ones has fewer.

/// Bytes that a read is to have, as far as the one before tells.
const BYTES: usize = 1 << 20;

/// Messages for the next read.
#[derive(Debug)]
pub(crate) struct ReadSize {
    most: usize,
    /// What a message of the last read weighed, on average.
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

    /// Takes note of what a read brought.
    pub(crate) fn note(&mut self, messages: usize, bytes: usize) {
        self.weight = bytes.checked_div(messages).unwrap_or(self.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_messages_are_read_few_at_a_time_and_small_ones_many() {
        let mut size = ReadSize::new(1000);
        assert_eq!(size.messages(), 1000);
        size.note(1000, 1000 * (256 << 10));
        assert_eq!(size.messages(), 4);
        size.note(0, 0);
        assert_eq!(size.messages(), 4, "a read of nothing tells nothing");
        size.note(2, 8 << 20);
        assert_eq!(size.messages(), 1);
        size.note(1, 500);
        assert_eq!(size.messages(), 1000);
    }
}
