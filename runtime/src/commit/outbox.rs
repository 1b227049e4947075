//! Records of messages that are handled and not committed yet.
//!
//! A record is produced in the transaction that commits its message, and not before: a record
//! in a transaction that commits less would be produced again by the message's next handler.

use std::collections::BTreeMap;

use crate::handler::produce::{Outgoing as _, ProducerRecord};

/// The records of one partition's messages, by offset.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    records: BTreeMap<i64, Vec<ProducerRecord>>,
    bytes: usize,
}

impl Outbox {
    /// Adds the records of a message, or those that a transaction did not commit.
    pub(crate) fn add(&mut self, offset: i64, produce: Vec<ProducerRecord>) {
        self.bytes += produce.iter().map(|record| record.weight()).sum::<usize>();
        self.records.entry(offset).or_default().extend(produce);
    }

    /// Removes the records of all messages that a commit covers, in their order.
    pub(crate) fn take(&mut self, is_covered: impl Fn(i64) -> bool) -> Vec<(i64, ProducerRecord)> {
        let (covered, rest) = std::mem::take(&mut self.records)
            .into_iter()
            .partition(|(offset, _)| is_covered(*offset));
        self.records = rest;
        let covered: BTreeMap<i64, Vec<ProducerRecord>> = covered;
        let records: Vec<_> = covered
            .into_iter()
            .flat_map(|(offset, records)| records.into_iter().map(move |record| (offset, record)))
            .collect();
        let taken: usize = records.iter().map(|(_, record)| record.weight()).sum();
        self.bytes -= taken;
        records
    }

    /// Returns the bytes that the records hold in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &str) -> ProducerRecord {
        ProducerRecord::new("out", value)
    }

    #[test]
    fn records_leave_with_their_messages_in_the_order_of_offsets() {
        let mut outbox = Outbox::default();
        outbox.add(7, vec![record("7a"), record("7b")]);
        outbox.add(5, vec![record("5")]);
        outbox.add(6, vec![record("6")]);
        let taken = outbox.take(|offset| offset != 6);
        assert_eq!(
            taken,
            [(5, record("5")), (7, record("7a")), (7, record("7b"))]
        );
        assert_eq!(outbox.bytes(), record("6").weight());
        assert!(outbox.take(|offset| offset < 6).is_empty());
    }

    #[test]
    fn what_was_not_committed_comes_back_in_its_order() {
        let mut outbox = Outbox::default();
        outbox.add(7, vec![record("7a"), record("7b")]);
        for (offset, record) in outbox.take(|_| true) {
            outbox.add(offset, vec![record]);
        }
        assert_eq!(
            outbox.take(|_| true),
            [(7, record("7a")), (7, record("7b"))]
        );
        assert_eq!(outbox.bytes(), 0);
    }
}
