//! The messages that every side reads.

use penstock_tests::produce::{Produce, ProduceError};
use penstock_tests::topics::{self, TopicError};
use serde::Deserialize;
use thiserror::Error;

/// Bytes of each message's value.
pub const VALUE_SIZE: usize = 196;

/// Number of keys, each used as often as the others.
pub const KEYS: u64 = 1000;

/// Partitions of the topic.
pub const PARTITIONS: i32 = 8;

/// Messages that are produced by one call of the harness, which has a limit of time.
const CHUNK: u64 = 500_000;

/// The topic can't be made or filled.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// It can't be made.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// It can't be filled.
    #[error(transparent)]
    Produce(#[from] ProduceError),
}

/// A topic with the messages of a workload.
#[derive(Clone, Debug)]
pub struct Topic {
    /// The name of the topic.
    pub name: String,
    /// The number of messages.
    pub count: u64,
    /// The bytes of each value.
    pub value_size: usize,
}

/// What a message decodes to, on the reference's side and on ours.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "what is decoded is not looked at further")]
pub struct Order {
    id: u64,
    customer: String,
    amount: f64,
    currency: String,
    items: Vec<u32>,
    paid: bool,
    note: String,
}

/// The value of the message with a number, of `size` bytes or a few more where that is
/// below 120.
pub fn value(number: u64, size: usize) -> Vec<u8> {
    let mut value = format!(
        r#"{{"id":{number},"customer":"{}","amount":{}.25,"currency":"EUR","items":[{},{},7],"paid":true,"note":""#,
        key(number),
        number % 900 + 100,
        number % 10,
        number % 89 + 10,
    );
    const END: &str = "\"}";
    while value.len() + END.len() < size {
        value.push(char::from(b'a' + (value.len() % 26) as u8));
    }
    value.push_str(END);
    value.into_bytes()
}

/// The key of the message with a number.
pub fn key(number: u64) -> String {
    format!("key-{:04}", number % KEYS)
}

/// What a topic is to hold.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Messages.
    pub count: u64,
    /// Bytes of each value.
    pub value_size: usize,
    /// Partitions.
    pub partitions: i32,
}

impl Workload {
    /// Messages as every pair has them.
    pub fn of(count: u64) -> Self {
        Self {
            count,
            value_size: VALUE_SIZE,
            partitions: PARTITIONS,
        }
    }

    /// Makes a topic and fills it.
    pub async fn produce(self, bootstrap: &str) -> Result<Topic, WorkloadError> {
        let Self {
            count,
            value_size,
            partitions,
        } = self;
        let name = topics::create(bootstrap, "orders", partitions).await?;
        let mut first = 0;
        while first < count {
            let chunk = CHUNK.min(count - first);
            Produce::to(&name)
                .first_seq(first)
                .count(chunk)
                .key(|number| Some(key(number)))
                .value(move |number| Some(value(number, value_size)))
                .send(bootstrap)
                .await?;
            first += chunk;
        }
        Ok(Topic {
            name,
            count,
            value_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_decode() {
        for number in [0, 9, 1_234_567, 4_000_000_000] {
            let value = value(number, VALUE_SIZE);
            assert_eq!(value.len(), VALUE_SIZE);
            let order: Order = serde_json::from_slice(&value).unwrap();
            assert_eq!((order.id, order.customer), (number, key(number)));
        }
    }
}
